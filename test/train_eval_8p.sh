#!/usr/bin/env bash
# PSNR and SSIM of given weights, on several cards.
set -uo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

RANK_SIZE=8
read_arguments "Measure PSNR and SSIM of the weights in --pth_path on 8 cards or --world_size." \
    "$COMMON_KEYS pth_path" "$@"
open_job eval
evaluate
report eval
