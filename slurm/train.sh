#!/usr/bin/env bash
# One training run as a Slurm job; what follows the script's name is handed to `layoutner train` as it stands:
#
#   sbatch --gpus-per-node=4 slurm/train.sh --config funsd-layoutlm-base --data.train data/funsd
#
# Submit from the activated virtual environment and from the folder that relative paths start from. On every node
# one task starts a process for each of the node's GPUs (without GPUs: for each of the task's CPUs).
#SBATCH --job-name=layoutner
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --output=%x-%j.log
set -euo pipefail

processes=${SLURM_GPUS_ON_NODE:-${SLURM_CPUS_PER_TASK:-1}}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Jobs that share a node differ in their id, so in their port.
port=$((20000 + SLURM_JOB_ID % 20000))

# srun has not taken over --cpus-per-task from sbatch since Slurm 22.05.
exec srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" python -m torch.distributed.run \
  --nnodes "$SLURM_NNODES" --nproc-per-node "$processes" \
  --rdzv-backend c10d --rdzv-endpoint "$head:$port" --rdzv-id "$SLURM_JOB_ID" \
  -m layoutner train "$@"
