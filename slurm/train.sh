#!/usr/bin/env bash
# A training run as a Slurm job; what follows the script's name is handed to `layoutner train` as it stands:
#
#   sbatch --nodes=2 --gpus-per-node=4 slurm/train.sh --config funsd-layoutlm-base --data.train data/funsd
#
# Submit from the activated virtual environment and from the folder that relative paths start from. Every GPU gets a
# process of its own (without GPUs: every CPU of --cpus-per-task). Before the time limit, and when the job is
# preempted, the run saves, and the job is put back into the queue, where it goes on from there.
# slurm/README.md (`layoutner slurm-script readme`) and docs/gpus-and-slurm.md say how to adapt it.
#SBATCH --job-name=layoutner
#SBATCH --nodes=1
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120
set -euo pipefail

gpus=${SLURM_GPUS_ON_NODE:-0}
if [ "$gpus" -gt 0 ]; then
  tasks=$gpus
  cpus=$((SLURM_CPUS_ON_NODE / gpus))
  if [ "$cpus" -eq 0 ]; then
    echo "train.sh: $SLURM_CPUS_ON_NODE CPUs for $gpus GPUs a node: ask for more, as in sbatch --cpus-per-gpu=8" >&2
    exit 2
  fi
else
  tasks=${SLURM_CPUS_PER_TASK:-1}
  cpus=1
fi

# Where the ranks meet: the first node, on a port that is free on it now. Slurm runs this script on that node.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export MASTER_ADDR MASTER_PORT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus}
export WANDB_MODE=${WANDB_MODE:-offline} # compute nodes seldom reach the network; `wandb sync` sends it later

# In an array of slurm/sweep.sh each task takes one line of the list: a settings file. It holds the values that the
# environment had when the list was written, and those that it has now must not replace what is swept.
if [ -n "${SWEEP_RUNS:-}" ]; then
  config=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$SWEEP_RUNS")
  set -- "$@" --config "$config"
  for name in $(compgen -e); do
    if [[ ${name^^} == LAYOUTNER_*__* ]]; then unset "$name"; fi
  done
fi

# A job that was put back goes on where it saved. A run.resume of your own stays: of a path the run takes its own
# checkpoints first, and must fails where there is none yet.
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [[ " $* " != *" --run.resume"* ]]; then
  set -- "$@" --run.resume=auto --run.overwrite=false
fi

# One task a rank. Rank 0 writes to the job's log, every other rank to one of its own beside it.
# shellcheck disable=SC2016  # the ranks expand it
rank='export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_TASKS_HERE
if [ "$RANK" -gt 0 ]; then exec >>"$SLURM_JOB_NAME-$SLURM_JOB_ID-rank$RANK.log" 2>&1; fi
exec python -u -m layoutner train "$@"'
code=0
SLURM_TASKS_HERE=$tasks srun --kill-on-bad-exit=1 --ntasks-per-node="$tasks" --ntasks=$((tasks * SLURM_NNODES)) \
  --cpus-per-task="$cpus" bash -c "$rank" rank "$@" || code=$?

# 75: the run has saved and wants to go on.
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID" || echo "train.sh: the job was not put back (cancelled?); submit it again" >&2
fi
exit "$code"
