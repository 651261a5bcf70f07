# Shared by the launch scripts of this folder, which source it.
#
# A script sets RANK_SIZE and calls, in this order:
#   read_arguments "USE" "KEYS" "$@"    command line -> one variable per key
#   open_job KIND                       card, Python, environment, output folder, log
#   run COMMAND ...                     training or evaluation into the log -> $status
#   report CASE                         result lines and files; ends with the script's exit status

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

COMMON_KEYS="data_path model dataset_name output_path batch_size workers device device_id conda_name
    more"
TRAINING_KEYS="$COMMON_KEYS learning_rate train_epochs train_steps precision_mode opt_level
    loss_scale"

argument_texts() {
    cat << 'EOF'
data_path       folder of face pictures; required
model           recipe to use (default: sparnet)
dataset_name    how the pictures are read (default: the model's own way)
output_path     where everything goes (default: test/output/CARD, emptied before training)
batch_size      pictures per card and step (default: the model's own)
learning_rate   (default: the model's own)
train_epochs    passes over the data (default: the model's own)
train_steps     stop after so many steps instead
workers         data loading processes per card
device          auto, npu, cuda or cpu (default: auto)
device_id       number of the card; ASCEND_DEVICE_ID, where set, goes first (default: 0)
precision_mode  must_keep_origin_dtype (O0), allow_fp32_to_fp16 (O1) or allow_mix_precision (O2)
opt_level       auto, O0, O1 or O2; goes before precision_mode
loss_scale      dynamic or a number
pth_path        weights of network G; required
conda_name      conda environment to activate first
more            other arguments of the Python program, split at spaces: --more="--load_size 64"
EOF
}

fail() {
    echo "[Error] $*" >&2
    exit 1
}

# ---- arguments -----------------------------------------------------------------------------------

# Sets a variable of its name for every key this file knows, empty where the user gave none.
read_arguments() {
    local use=$1 known argument key value
    known=$(echo $2)
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
            fail "unknown argument ${argument%%=*}; known are --${known// / --}"
        if [[ $argument == *=* ]]; then
            value=${argument#*=}
        elif (($#)) && [[ $1 != --* || $key == more ]]; then
            value=$1
            shift
        else
            fail "para \"$key\" needs a value: --$key=VALUE"
        fi
        printf -v "$key" %s "$value"
    done
    # The ModelZoo's spelling; tools look for it.
    [[ -n $data_path ]] || fail 'para "data_path" must be confing'
    [[ -n $pth_path || " $known " != *" pth_path "* ]] || fail 'para "pth_path" must be confing'
}

usage() {
    local key text
    echo "usage: bash $0 --data_path=DIR [--key=value | --key value ...]"
    echo "$1"
    while read -r key text; do
        [[ " $2 " != *" $key "* ]] || printf '  --%-15s %s\n' "$key" "$text"
    done < <(argument_texts)
    echo "The environment variable PYTHON names the interpreter (default: python3)."
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
    export RANK_SIZE
    pick_card
    translate_precision
    open_environment
    open_output
    arguments=()
}

# Sets `card`. Exporting ASCEND_DEVICE_ID would be taken as proof of an NPU, so `auto` gets the
# number by LOCAL_RANK, which only says which card to take of those there are.
pick_card() {
    device=${device:-auto}
    card=${ASCEND_DEVICE_ID:-${device_id:-0}}
    [[ $device != *:* ]] || card=${device##*:}
    [[ $card =~ ^[0-9]+$ ]] ||
        fail "the card (--device_id, ASCEND_DEVICE_ID or --device) must be a number, got \"$card\""
    [[ -z $device_id || $device_id == "$card" ]] ||
        echo "[Warning] ASCEND_DEVICE_ID or --device asks for card $card; --device_id" \
            "$device_id has no effect" >&2
    ((RANK_SIZE == 1)) || return 0
    unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE    # of a surrounding job: this one is a single process
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
        *) fail "para \"precision_mode\" must be must_keep_origin_dtype, allow_fp32_to_fp16 or" \
            "allow_mix_precision, got \"$precision_mode\"" ;;
    esac
    opt_level=${opt_level:-$level}
}

open_environment() {
    PYTHON=${PYTHON:-python3}
    [[ -z $conda_name ]] || source "$ROOT/test/set_conda.sh"
    [[ $PYTHON != */* ]] || PYTHON=$(CDPATH='' cd -- "${PYTHON%/*}" && pwd)/${PYTHON##*/}
    command -v "$PYTHON" > /dev/null || fail "no Python: $PYTHON; set the variable PYTHON"
    if [[ $device != cpu* && $device != cuda* && ${etp_running_flag:-} != true ]]; then
        source "$ROOT/test/env_npu.sh"
    fi
}

# Sets `output` and `log`. Only the default folder is emptied, and not where the job needs what an
# earlier one left there: weights to start from, a run to continue.
open_output() {
    if [[ -z $output_path ]]; then
        output_path=$ROOT/test/output/$card
        [[ -n $pth_path || " $more " == *" --continue_train "* ]] || rm -rf -- "$output_path"
    fi
    mkdir -p -- "$output_path" && output=$(CDPATH='' cd -- "$output_path" && pwd) ||
        fail "para \"output_path\": $output_path cannot be made"
    log=$output/train_$card.log
    [[ $kind != eval ]] || log=$output/eval_$card.log
}

# Trains in one process; further arguments for newtrain.py may follow.
train_one_card() {
    pass_on data_path model dataset_name batch_size learning_rate train_epochs train_steps workers \
        device opt_level loss_scale pth_path
    pass_on_more "$@" --checkpoints_dir="$output" --name="$kind"
    run "$PYTHON" "$ROOT/newtrain.py" "${arguments[@]}"
}

# Runs a command with its output in the log, on ModelArts on stdout as well; sets `status`.
# SIGTERM, a closed terminal and Ctrl-C reach the command once, so that it saves before it ends.
run() {
    local child tee=""
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
    trap 'kill -TERM "$child" 2> /dev/null' TERM HUP
    trap 'kill -INT "$child" 2> /dev/null' INT
    while true; do
        wait "$child"
        status=$?
        kill -0 "$child" 2> /dev/null || break
    done
    trap - TERM HUP INT
    exec 3>&-
    [[ -z $tee ]] || wait "$tee" 2> /dev/null
}

# Prints the result lines, writes the files of the case and ends the script.
report() {
    cd -- "$ROOT" && "$PYTHON" -m utils.report --case "$1" --output "$output" --run "$kind" \
        --log "$log" --status "$status" --began "$began" --rank_size "$RANK_SIZE" \
        --network "${model:-sparnet}" --batch_size "${batch_size:-NA}"
    exit
}
