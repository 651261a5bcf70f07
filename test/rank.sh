#!/usr/bin/env bash
# One rank of a job on several cards, started by torchrun: bash rank.sh COMMAND ...
#
# RANK_NOTES is a folder in which the ranks write what torchrun does not report: RANK.pid, and in
# `ended` a line with the status of each rank that has ended. PIN_CORES, if not 0, is the number of
# CPU cores each rank of this machine is bound to.
set -uo pipefail

# The CPU cores this process may use, one a line: "0-2,8" gives 0 1 2 8.
allowed_cores() {
    local range
    while read -r range; do
        seq "${range%-*}" "${range#*-}"
    done < <(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status | tr , '\n')
}

command=("$@")
if ((${PIN_CORES:-0})); then
    cores=$(allowed_cores | sed -n "$((LOCAL_RANK * PIN_CORES + 1)),$(((LOCAL_RANK + 1) * PIN_CORES))p")
    command=(taskset -c "$(echo "$cores" | paste -sd , -)" "$@")
    echo "rank $RANK is bound to CPU cores $(echo $cores)"
fi

trap : TERM INT HUP     # torchrun signals the whole group: the command ends, then this script
(
    echo "$BASHPID" > "$RANK_NOTES/$RANK.pid"
    exec "${command[@]}"
)
status=$?
echo "$status" >> "$RANK_NOTES/ended"
((status <= 128)) || echo "rank $RANK was killed by signal $((status - 128))"
# A stop that was asked for is no failure: at one torchrun would kill ranks that are still saving.
((status == 75)) && exit 0
exit "$status"
