#!/usr/bin/env bash
# Environment in which `--device npu` runs on this machine's CPU, through the published torch_npu:
#
#   bash test/npu/wheel/install.sh [FOLDER]        default: .venv-npu in the repository
#
# Afterwards, unmodified: FOLDER/bin/python newtrain.py --device npu ..., FOLDER/bin/torchrun, and
# PYTHON=FOLDER/bin/python bash test/train_full_1p.sh --device=npu ... (see test/npu/README.md).
# Nothing outside FOLDER is changed; a second call does only what is out of date. PYTHON names the
# interpreter to start from (python3), pip's own variables choose where packages come from.
# Exit status 77: a compiler, nm or a package is not to be had here; the last line says which.
set -uo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../../.." && pwd)
folder=${1:-$root/.venv-npu}
stamp=$folder/npu-runtime/installed

unavailable() {
    echo "NPU wheel: $*"
    exit 77
}

# What the state of the environment depends on.
fingerprint() {
    cat -- "$root/requirements.txt" "$root/requirements-npu.txt" "$here"/*.c "$here/build.py" \
        "$here/install.sh"
    echo "$here"
}

wanted=$(sed -n 's/^\(torch-npu==[0-9.a-z]*\).*/\1/p' "$root/requirements-npu.txt")
[[ -n $wanted ]] || { echo "requirements-npu.txt names no torch-npu==VERSION" >&2; exit 1; }
sum=$(fingerprint | cksum)
if [[ -x $folder/bin/python && -r $stamp && $(< "$stamp") == "$sum" ]]; then
    echo "NPU wheel: $folder is up to date ($wanted)"
    exit 0
fi

command -v nm > /dev/null || unavailable "there is no nm (package binutils)"
command -v "${CC:-cc}" > /dev/null || command -v gcc > /dev/null || command -v clang > /dev/null ||
    unavailable "there is no C compiler (cc, gcc or clang)"
python=${PYTHON:-python3}
if [[ ! -x $folder/bin/python ]]; then
    "$python" -m venv "$folder" > /dev/null || unavailable "$python cannot make a virtual environment"
fi
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" -r "$root/requirements.txt" "pytest>=8" "pytest-xdist>=3.5" 2> "$folder/pip.log" ||
    unavailable "pip cannot get requirements.txt: $(tail -n 1 "$folder/pip.log")"
# Without its dependencies: it asks for packages that only CANN's own tools use.
"${pip[@]}" --no-deps "$wanted" 2> "$folder/pip.log" ||
    unavailable "pip cannot get $wanted: $(tail -n 1 "$folder/pip.log")"

"$folder/bin/python" "$here/build.py" "$folder" || exit
packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\nimport npu_host_hook\n' "$here/site" > "$packages/facezoo_npu.pth"
"$folder/bin/python" -c 'import torch, torch_npu; assert torch.npu.device_count() > 0' \
    > "$folder/smoke.log" 2>&1 ||
    { echo "NPU wheel: torch_npu does not start on the host runtime: $(tail -n 1 "$folder/smoke.log")" >&2
      exit 1; }
echo "$sum" > "$stamp"
echo "NPU wheel: $wanted is ready in $folder"
