# What the scripts for several cards need beyond common.sh, which sources this file.
#
# torchrun starts rank.sh once per card of this machine. Every rank leaves its process id and its
# exit status in the folder $RANK_NOTES, because torchrun ends with 1 whatever its ranks ended with,
# and because it kills ranks 30 seconds after a signal, which may be too soon for a last save.

# Sets RANK_SIZE and `per_node`, the number of ranks on this machine.
count_ranks() {
    local key
    nnodes=${nnodes:-1} node_rank=${node_rank:-0}
    for key in nnodes node_rank world_size; do
        [[ -z ${!key} || ${!key} =~ ^(0|[1-9][0-9]{0,5})$ ]] ||
            fail "--$key must be a number, got \"${!key}\""
    done
    ((nnodes > 0 && node_rank < nnodes)) ||
        fail "--node_rank must be from 0 to $((nnodes - 1)), got $node_rank"
    RANK_SIZE=${world_size:-$((RANK_SIZE * nnodes))}
    ((RANK_SIZE > 0 && RANK_SIZE % nnodes == 0)) ||
        fail "--world_size must be a multiple of --nnodes ($nnodes), got $RANK_SIZE"
    per_node=$((RANK_SIZE / nnodes))
    ((nnodes == 1)) || [[ -n ${MASTER_ADDR:-} ]] ||
        fail "MASTER_ADDR is missing: give the address of the machine with --node_rank 0"
    divide_cores
}

# Sets threads and binding to CPU cores; before env_npu.sh, which has another way.
divide_cores() {
    local cores
    cores=$(env -u OMP_NUM_THREADS nproc)
    export PIN_CORES=0
    case ${pin:-0} in
        0) ;;
        1) PIN_CORES=$((cores / per_node))
            [[ ${CPU_AFFINITY_CONF:-0} == 0 ]] ||
                fail "--pin=1 and CPU_AFFINITY_CONF=$CPU_AFFINITY_CONF cannot be used together"
            export CPU_AFFINITY_CONF=0
            ((PIN_CORES > 0)) ||
                fail "--pin=1 needs a CPU core per rank, got $cores for $per_node ranks"
            command -v taskset > /dev/null || fail "--pin=1 needs the program taskset" ;;
        *) fail "--pin must be 0 or 1, got \"$pin\"" ;;
    esac
    # torchrun's own default is one thread, which suits cards only.
    if [[ $device == cpu ]] || [[ $device == auto && -z $(cards_of_this_machine) ]]; then
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > per_node ? cores / per_node : 1))}
    fi
}

cards_of_this_machine() {
    compgen -G '/dev/davinci[0-9]*' || compgen -G '/dev/nvidia[0-9]*'
}

# Prints the port the ranks meet at: MASTER_PORT, else 29688, else, on one machine, any free one.
meeting_port() {
    if [[ -n ${MASTER_PORT:-} ]] || ((nnodes > 1)); then
        echo "${MASTER_PORT:-29688}"
        return
    fi
    "$PYTHON" -c '
import socket
for port in (29688, 0):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            continue
        print(probe.getsockname()[1])
        break'
}

# Runs a Python program on every card of this machine; sets `status`.
run_ranks() {
    local port pid
    RANK_NOTES=$(mktemp -d) && port=$(meeting_port) ||
        fail "cannot create a temporary folder or find a free port"
    export RANK_NOTES
    run "$PYTHON" -m torch.distributed.run --nnodes="$nnodes" --node_rank="$node_rank" \
        --nproc_per_node="$per_node" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --master_port="$port" --no_python bash "$ROOT/test/rank.sh" "$PYTHON" "$@"
    for pid in $(rank_pids); do     # of a rank whose rank.sh was killed
        kill -KILL "$pid" 2> /dev/null
    done
    status=$(status_of_ranks)
    rm -rf -- "$RANK_NOTES"
}

rank_pids() {
    cat -- "$RANK_NOTES"/*.pid 2> /dev/null
}

# Prints the status of the job: 2 (bad input) and 4 (diverged) of any rank say more than what the
# others die of; else the first failure; 75 (stopped, everything saved) only if no rank failed.
status_of_ranks() {
    local each failure="" stopped=""
    while read -r each; do
        case $each in
            0) ;;
            2 | 4) failure=$each; break ;;
            75) stopped=75 ;;
            *) failure=${failure:-$each} ;;
        esac
    done < <(cat -- "$RANK_NOTES/ended" 2> /dev/null)
    ((status == 0)) || stopped=""
    echo "${failure:-${stopped:-$status}}"
}
