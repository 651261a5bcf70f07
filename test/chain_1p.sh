#!/usr/bin/env bash
# Every model from training to deployment, on tiny synthetic data and the CPU: 6 steps, save, resume
# to step 10, evaluate, export, restore with torch and with onnxruntime, compare. A row per model and
# stage; ends with the status of the first stage that fails.
#   bash test/chain_1p.sh [MODEL...]        PYTHON names the interpreter, which needs
#                                           requirements-dev.txt and requirements-export.txt
set -uo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 1
PYTHON=${PYTHON:-python3}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
LAST=10
CUT=6

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# Answers from Python.
names() { "$PYTHON" -c 'import models; print(*models.names())'; }
tiny() { PYTHONPATH=.:test/unit "$PYTHON" -c \
    'import sys, conftest; print(*conftest.tiny_arguments(sys.argv[1]))' "$1"; }
reached() { PYTHONPATH=. "$PYTHON" -c '
import sys
from pathlib import Path
from engine import checkpoint
step = checkpoint.load_state(Path(sys.argv[1]))["step"]
if step != int(sys.argv[2]):
    sys.exit(f"the training state must be of step {sys.argv[2]}, got {step}")
' "$@"; }
same() { PYTHONPATH=. "$PYTHON" -c '
import sys
import numpy as np
from utils.images.io import list_images, read_image
pairs = [(read_image(path), read_image(f"{sys.argv[2]}/{path.name}"))
         for path in list_images(sys.argv[1])]
max_error = max(np.abs(first.astype(int) - second).max() for first, second in pairs)
print(f"{len(pairs)} images differ by at most {max_error} gray levels")
sys.exit("the max error must be at most 1" if max_error > 1 else 0)
' "$@"; }

# stage NAME COMMAND...: run it, print a row, on failure the end of its log and leave.
stage() {
    local name=$1 start=$SECONDS status
    shift
    "$@" > "$work/log" 2>&1
    status=$?
    printf '%-12s %-14s %-6s %4d s\n' "$model" "$name" "$([ $status = 0 ] && echo ok || echo FAILED)" \
        $((SECONDS - start))
    [ $status = 0 ] && return
    tail -n 15 "$work/log" >&2
    exit $status
}

models=${*:-$(names)} || exit 1
for model in $models; do
    arguments=$(tiny "$model") || exit 1
    runs=$work/$model run=$work/$model/chain
    trained="--model $model --name chain --checkpoints_dir $runs --epoch latest --device cpu"
    # Unquoted on purpose: words of command lines.
    training="newtrain.py $arguments --dataset_name synthetic --name chain --checkpoints_dir $runs
        --no-tensorboard"
    stage train "$PYTHON" $training --train_steps $CUT
    stage saved reached "$run" $CUT
    stage resume "$PYTHON" $training --train_steps $LAST --continue_train
    stage resumed reached "$run" $LAST
    stage evaluate "$PYTHON" evaluate.py $trained --dataset_name synthetic --max_dataset_size 3 \
        --num_threads 0 --save_images --results_dir "$runs/measured"
    images=$runs/measured/chain_synthetic/images
    stage export "$PYTHON" export_onnx.py $trained --output "$runs/chain.onnx"
    stage infer_torch "$PYTHON" enhance.py $trained --input "$images" --output "$runs/torch"
    stage infer_onnx "$PYTHON" enhance.py --engine onnx --onnx "$runs/chain.onnx" --device cpu \
        --input "$images" --output "$runs/onnx"
    stage compare same "$runs/torch" "$runs/onnx"
done
echo "all stages passed for: $models"
