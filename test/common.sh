# Shared by the launch scripts of this folder, which source it.
#
# A script sets RANK_SIZE, the number of cards unless --world_size says otherwise, and calls:
#   read_arguments "USE" "KEYS" "$@"    command line -> one variable per key
#   open_job KIND                       card, Python, environment, output folder, log
#   train, evaluate                     the program into the log -> $status
#   report CASE                         result lines and files; ends with the script's exit status

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
source "$ROOT/test/several_cards.sh"

COMMON_KEYS="data_path model dataset_name output_path batch_size workers device conda_name more"
TRAINING_KEYS="$COMMON_KEYS learning_rate train_epochs train_steps precision_mode opt_level
    loss_scale"

argument_texts() {
    cat << 'EOF'
data_path       folder of face images; required
model           model to use (default: sparnet)
dataset_name    dataset class that reads the images (default: the model's own)
output_path     folder for all results (default: test/output/CARD, emptied before training)
batch_size      images per card and step (default: the model's own)
learning_rate   initial learning rate (default: the model's own)
train_epochs    number of epochs (default: the model's own)
train_steps     number of steps, instead of train_epochs
workers         data loading processes per card
device          auto, npu, cuda or cpu (default: auto)
device_id       number of the card; ASCEND_DEVICE_ID overrides it (default: 0)
world_size      number of cards on all machines together (default: 8 per machine)
nnodes          number of machines; start the script on each, with MASTER_ADDR set (default: 1)
node_rank       number of this machine; machine 0 prints the results (default: 0)
pin             1 binds each rank to its own CPU cores (default: 0)
precision_mode  must_keep_origin_dtype (O0), allow_fp32_to_fp16 (O1) or allow_mix_precision (O2)
opt_level       auto, O0, O1 or O2; overrides precision_mode
loss_scale      dynamic or a number
pth_path        weights of network G; required
conda_name      conda environment to activate
more            other arguments of the Python program, split at spaces: --more="--load_size 64"
EOF
}

fail() {
    echo "[Error] $*" >&2
    exit 1
}

# ---- arguments -----------------------------------------------------------------------------------

# Sets a variable of its name for every key this file knows, empty where the user gave none, and
# `several` to "yes" in a script for several cards.
read_arguments() {
    local use=$1 known argument key value
    several="" known="$2 device_id"
    ((RANK_SIZE == 1)) || several=yes known="$2 world_size nnodes node_rank pin"
    known=$(echo $known)
    shift 2
    while read -r key _; do printf -v "$key" %s ""; done < <(argument_texts)
    while (($#)); do
        argument=$1
        shift
        if [[ $argument == -h || $argument == --help ]]; then
            usage "$use" "$known"
            exit 0
        fi
        key=${argument%%=*}
        key=${key#--}
        [[ $argument == --* && $key =~ ^[a-z_]+$ && " $known " == *" $key "* ]] ||
            fail "unknown argument ${argument%%=*}; use one of --${known// / --}"
        if [[ $argument == *=* ]]; then
            value=${argument#*=}
        elif (($#)) && [[ $1 != --* || $key == more ]]; then
            value=$1
            shift
        else
            fail "--$key needs a value: --$key=VALUE"
        fi
        printf -v "$key" %s "$value"
    done
    [[ -n $data_path ]] || fail "--data_path is missing: give a folder of face images"
    [[ -n $pth_path || " $known " != *" pth_path "* ]] ||
        fail "--pth_path is missing: give the weights of network G"
}

usage() {
    local key text
    echo "usage: bash $0 --data_path=DIR [--key=value | --key value ...]"
    echo "$1"
    while read -r key text; do
        [[ " $2 " != *" $key "* ]] || printf '  --%-15s %s\n' "$key" "$text"
    done < <(argument_texts)
    echo "Set the environment variable PYTHON to choose the interpreter (default: python3)."
}

# Appends --key=value to `arguments` for each of the keys that has a value.
pass_on() {
    local key
    for key in "$@"; do
        [[ -z ${!key} ]] || arguments+=("--$key=${!key}")
    done
}

# Appends what --more holds, then what the report relies on.
pass_on_more() {
    local words
    if [[ -n $more ]]; then
        read -r -d '' -a words <<< "$more"
        ((${#words[@]} == 0)) || arguments+=("${words[@]}")
    fi
    arguments+=("$@")
}

# ---- the job -------------------------------------------------------------------------------------

open_job() {
    kind=$1
    node=""     # in the names of what every machine of a job writes
    pick_card
    [[ -z $several ]] || count_ranks
    export RANK_SIZE
    ((${node_rank:-0} == 0)) || node=_node$node_rank
    translate_precision
    open_environment
    open_output
    arguments=()
}

# Sets `card`. Exporting ASCEND_DEVICE_ID would be taken as proof of an NPU, so `auto` gets the
# number by LOCAL_RANK, which only chooses among the cards there are.
pick_card() {
    device=${device:-auto}
    unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE RANK_ID   # of a surrounding job: this is one
    if [[ -n $several ]]; then
        card=0      # as in the ModelZoo; each rank takes the card of its number
        [[ $device != *:* ]] || fail "--device=$device names one card, but this script uses" \
            "several; choose them with ASCEND_RT_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES"
        return
    fi
    card=${ASCEND_DEVICE_ID:-${device_id:-0}}
    [[ $device != *:* ]] || card=${device##*:}
    [[ $card =~ ^[0-9]+$ ]] ||
        fail "the card (--device_id, ASCEND_DEVICE_ID or --device) must be a number, got \"$card\""
    [[ -z $device_id || $device_id == "$card" ]] ||
        echo "[Warning] --device_id $device_id has no effect, since ASCEND_DEVICE_ID or --device" \
            "chooses card $card" >&2
    if [[ -n $device_id && $device_id == "$card" && -z ${ASCEND_DEVICE_ID:-} ]]; then
        case $device in
            npu | cuda) device=$device:$card ;;
            auto) export LOCAL_RANK=$card ;;
        esac
    fi
}

translate_precision() {
    local level
    case $precision_mode in
        "") level="" ;;
        must_keep_origin_dtype | O0) level=O0 ;;
        allow_fp32_to_fp16 | O1) level=O1 ;;
        allow_mix_precision | O2) level=O2 ;;
        *) fail "--precision_mode must be must_keep_origin_dtype, allow_fp32_to_fp16 or" \
            "allow_mix_precision, got \"$precision_mode\"" ;;
    esac
    opt_level=${opt_level:-$level}
}

open_environment() {
    PYTHON=${PYTHON:-python3}
    [[ -z $conda_name ]] || source "$ROOT/test/set_conda.sh"
    [[ $PYTHON != */* ]] || PYTHON=$(CDPATH='' cd -- "${PYTHON%/*}" && pwd)/${PYTHON##*/}
    command -v "$PYTHON" > /dev/null || fail "PYTHON must be a Python interpreter, found no $PYTHON"
    if [[ $device != cpu* && $device != cuda* && ${etp_running_flag:-} != true ]]; then
        source "$ROOT/test/env_npu.sh"
    fi
}

# Sets `output` and `log`. Only the default folder is emptied, and not where the job needs what an
# earlier one left there: weights to start from, a run to continue.
open_output() {
    if [[ -z $output_path ]]; then
        output_path=$ROOT/test/output/$card
        [[ -n $pth_path || -n $node || " $more " == *" --continue_train "* ]] ||
            rm -rf -- "$output_path"
    fi
    mkdir -p -- "$output_path" && output=$(CDPATH='' cd -- "$output_path" && pwd) ||
        fail "--output_path $output_path cannot be created"
    log=$output/train_$card$node.log
    [[ $kind != eval ]] || log=$output/eval_$card$node.log
}

# Runs newtrain.py; further arguments for it may follow.
train() {
    pass_on data_path model dataset_name batch_size learning_rate train_epochs train_steps workers \
        device opt_level loss_scale pth_path
    pass_on_more "$@" --checkpoints_dir="$output" --name="$kind"
    run_program newtrain.py
}

# Runs evaluate.py on the weights of --pth_path.
evaluate() {
    pass_on data_path model dataset_name batch_size workers device pth_path
    pass_on_more --results_dir="$output" --name="$kind"
    run_program evaluate.py
}

run_program() {
    if [[ -n $several ]]; then
        run_ranks "$ROOT/$1" "${arguments[@]}"
    else
        run "$PYTHON" "$ROOT/$1" "${arguments[@]}"
    fi
}

# Runs a command with its output in the log, on ModelArts on stdout as well; sets `status`.
# SIGTERM, a closed terminal and Ctrl-C reach the command once, so that it saves before it ends; of
# several ranks each gets it from here.
run() {
    local child code signalled tee=""
    echo "$kind: the log is $log"
    began=$(date +%s)
    if [[ -n ${MODELARTS_MODEL_PATH:-} ]]; then
        exec 3> >(trap '' TERM HUP INT; exec tee -- "$log")
        tee=$!
    else
        exec 3> "$log"
    fi
    set -m      # a process group of its own: otherwise Ctrl-C would be ignored there, or come twice
    "$@" < /dev/null >&3 2>&1 3>&- &
    child=$!
    set +m
    trap 'pass_signal TERM "$child"' TERM HUP
    trap 'pass_signal INT "$child"' INT
    while true; do      # a signal ends `wait` early, with a status that is not the command's
        signalled=""
        wait "$child"
        code=$?
        ((code == 127)) || status=$code
        [[ -n $signalled ]] || break
    done
    trap - TERM HUP INT
    exec 3>&-
    [[ -z $tee ]] || wait "$tee" 2> /dev/null
}

pass_signal() {
    local pids=""
    signalled=yes
    [[ -z $several ]] || pids=$(rank_pids)
    kill -"$1" ${pids:-"$2"} 2> /dev/null
}

# Prints the result lines, writes the files of the case and ends the script.
report() {
    cd -- "$ROOT" && "$PYTHON" -m tools.launch_report --case "$1" --output "$output" --run "$kind" \
        --log "$log" --status "$status" --began "$began" --rank_size "$RANK_SIZE" \
        --node_rank "${node_rank:-0}" \
        --network "${model:-sparnet}" --batch_size "${batch_size:-NA}"
    exit
}
