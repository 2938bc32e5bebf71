#!/usr/bin/env bash
# One run a value of one setting, as a job array of slurm/train.sh; each run has a folder of its own below DIR:
#
#   slurm/sweep.sh run.seed 1,2,3 DIR [SBATCH OPTIONS] -- [TRAIN ARGUMENTS]
#   slurm/sweep.sh batch.global_batch_size 16,32,64 runs/batch --gpus-per-node=4 -- --config funsd-layoutlm-base
set -euo pipefail

if [ $# -lt 4 ]; then
  sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
export SWEEP_KEY=$1 SWEEP_VALUES=$2 SWEEP_DIR=$3
shift 3
options=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
  options+=("$1")
  shift
done
if [ $# -eq 0 ]; then
  echo "sweep.sh: no -- between the options of sbatch and the arguments of train" >&2
  exit 2
fi
shift
IFS=, read -ra values <<<"$SWEEP_VALUES"
exec sbatch --array="0-$((${#values[@]} - 1))" --output=%x-%A_%a.log "${options[@]}" "$(dirname "$0")/train.sh" "$@"
