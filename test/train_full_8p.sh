#!/usr/bin/env bash
# Full training on several cards.
set -uo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

RANK_SIZE=8
read_arguments "Train on 8 cards or --world_size; ends with PSNR and SSIM on held-out pictures." \
    "$TRAINING_KEYS" "$@"
open_job full
train
report acc
