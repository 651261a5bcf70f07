# Activates the conda environment $conda_name; sourced where --conda_name is given.

activate_conda() {
    local base found nounset=$-
    found=$(command -v conda || true)
    for base in "${CONDA_EXE%/bin/conda}" "${found%/*/conda}" /home/anaconda3 \
        "${HOME:-}/anaconda3" "${HOME:-}/miniconda3" /opt/conda /usr/local/anaconda3; do
        [[ -z $base || ! -f $base/etc/profile.d/conda.sh ]] || break
        base=""
    done
    [[ -n $base ]] || fail "--conda_name needs conda, which was not found; put it on the PATH"
    set +u      # conda reads variables that need not be set
    source "$base/etc/profile.d/conda.sh" && conda activate "$conda_name" ||
        fail "conda cannot activate --conda_name $conda_name"
    [[ $nounset != *u* ]] || set -u
    PYTHON=python3      # the environment's, whatever was asked for before
}

CONDA_EXE=${CONDA_EXE:-}
activate_conda
