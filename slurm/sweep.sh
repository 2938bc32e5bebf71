#!/usr/bin/env bash
# The runs of a sweep as a job array of slurm/train.sh, one task a run. FILE is the TOML file of the sweep:
#
#   slurm/sweep.sh FILE [SBATCH OPTIONS]
#   slurm/sweep.sh sweep.toml --gpus-per-node=4 --cpus-per-gpu=8 --time=4:00:00
#
# Runs that have scores are left out. When the array has ended, `layoutner sweep FILE --report` shows the results.
set -euo pipefail

if [ $# -lt 1 ] || [[ $1 == -* ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
SWEEP_RUNS=$(python -m layoutner sweep "$1" --slurm)
export SWEEP_RUNS
shift
runs=$(wc -l <"$SWEEP_RUNS")
if [ "$runs" -eq 0 ]; then
  exit 0 # layoutner has said that nothing is left
fi
exec sbatch --array="0-$((runs - 1))" --output=%x-%A_%a.log "$@" "$(dirname "$0")/train.sh"
