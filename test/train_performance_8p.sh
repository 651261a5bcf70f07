#!/usr/bin/env bash
# Speed of training on several cards.
set -uo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

RANK_SIZE=8
read_arguments "Measure the training speed on 8 cards or --world_size: 100 steps, no evaluation." \
    "$TRAINING_KEYS" "$@"
[[ -n $train_epochs ]] || train_steps=${train_steps:-100}
open_job performance
train --eval_freq 0
report perf
