#!/usr/bin/env bash
# Full training on one card.
set -uo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

RANK_SIZE=1
read_arguments "Train on one card, then measure PSNR and SSIM on held-out images." \
    "$TRAINING_KEYS" "$@"
open_job full
train
report acc
