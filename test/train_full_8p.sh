#!/usr/bin/env bash
# Full training on several cards.
set -uo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

RANK_SIZE=8
read_arguments "Train on 8 cards or --world_size, then measure PSNR and SSIM on held-out images." \
    "$TRAINING_KEYS" "$@"
open_job full
train
report acc
