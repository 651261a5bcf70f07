#!/usr/bin/env bash
# Everything that can be shown about the NPU path without an NPU, in one command:
#
#   bash test/npu/wheel/run.sh [FOLDER]            default: .venv-npu in the repository
#
# Installs the environment, runs the tests of tiers 2 and 3 and the suite all tiers share, and ends
# with one line that says which tier was reached. Exit status 0: all passed. 77: the environment
# cannot be had here, so only tier 1 says something (0 instead where FACEZOO_ALLOW_NO_WHEEL=1).
set -uo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../../.." && pwd)
folder=${1:-$root/.venv-npu}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

bash "$here/install.sh" "$folder" | tee "${TMPDIR:-/tmp}/facezoo_npu_install.$$"
status=${PIPESTATUS[0]}
last=$(tail -n 1 "${TMPDIR:-/tmp}/facezoo_npu_install.$$")
rm -f "${TMPDIR:-/tmp}/facezoo_npu_install.$$"
if ((status == 77)); then
    echo "NPU tier reached: 1 (the pure Python device only; ${last#NPU wheel: })"
    [[ ${FACEZOO_ALLOW_NO_WHEEL:-} == 1 ]] && exit 0
    exit 77
fi
((status == 0)) || exit "$status"

python=$(CDPATH='' cd -- "$folder" && pwd)/bin/python
cd -- "$root" || exit 1
# Tier 2 first: without it tier 3 means little.
"$python" -m pytest -q "$here/tests/test_import_policy.py" "$here/tests/test_contract_wheel.py" || {
    echo "NPU tier reached: 1 (tier 2, import policy and contract of the wheel, failed)"
    exit 1
}
"$python" -m pytest -q -n 2 --dist loadfile "$here/tests" \
    --ignore "$here/tests/test_import_policy.py" --ignore "$here/tests/test_contract_wheel.py" || {
    echo "NPU tier reached: 2 (names and import policy; tier 3, the front end on the host, failed)"
    exit 1
}
if compgen -G "$root/test/npu/test_*.py" > /dev/null; then
    FACEZOO_NPU_TIER=3 "$python" -m pytest -q -n 2 --dist loadfile -m "deep or not deep" \
        "$root"/test/npu/test_*.py || {
        echo "NPU tier reached: 2 (names and import policy; the shared suite failed on tier 3)"
        exit 1
    }
fi
echo "NPU tier reached: 3 (torch_npu's real front end on a simulated runtime; kernels, speed," \
    "memory and HCCL itself need hardware)"
