# Environment of a run on Ascend cards; sourced. Does nothing without CANN, and sets only what the
# user has not set. ASCEND_INSTALL_PATH names the folder of a CANN that is in an unusual place.

# Finds CANN's set_env.sh: the toolkit's, else that of the smaller nnae package.
find_cann() {
    local info=/etc/Ascend/ascend_cann_install.info recorded="" folder package
    [[ ! -r $info ]] || recorded=$(sed -n 's/^Install_Path *= *//p' "$info" | head -n 1)
    for folder in "${ASCEND_INSTALL_PATH:-}" "$recorded" /usr/local/Ascend "${HOME:-}/Ascend"; do
        for package in ascend-toolkit nnae; do
            if [[ -n $folder && -f $folder/$package/set_env.sh ]]; then
                echo "$folder/$package/set_env.sh"
                return
            fi
        done
    done
}

set_npu_environment() {
    local cann address nounset=$-
    if [[ -z ${ASCEND_OPP_PATH:-} ]]; then      # else set_env.sh was sourced already
        cann=$(find_cann)
        [[ -n $cann ]] || return 0
        set +u                                  # it reads variables that need not be set
        source "$cann"
        [[ $nounset != *u* ]] || set -u
    fi
    export ASCEND_SLOG_PRINT_TO_STDOUT=${ASCEND_SLOG_PRINT_TO_STDOUT:-0}
    export ASCEND_GLOBAL_LOG_LEVEL=${ASCEND_GLOBAL_LOG_LEVEL:-3}        # errors only
    export ASCEND_GLOBAL_EVENT_ENABLE=${ASCEND_GLOBAL_EVENT_ENABLE:-0}
    export TASK_QUEUE_ENABLE=${TASK_QUEUE_ENABLE:-2}    # workspace sizes off the host's main thread
    export CPU_AFFINITY_CONF=${CPU_AFFINITY_CONF:-1}    # instead of taskset
    export HCCL_WHITELIST_DISABLE=${HCCL_WHITELIST_DISABLE:-1}
    export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-1800}           # seconds
    if [[ -z ${HCCL_IF_IP:-} ]]; then
        address=$(hostname -I 2> /dev/null) && read -r address _ <<< "$address"
        [[ -z $address ]] || export HCCL_IF_IP=$address
    fi
}

set_npu_environment
