#!/usr/bin/env bash
# Training on one card that starts from given weights.
set -uo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

RANK_SIZE=1
read_arguments "Train on one card, starting from the weights in --pth_path." \
    "$TRAINING_KEYS pth_path" "$@"
open_job finetune
train
report acc
