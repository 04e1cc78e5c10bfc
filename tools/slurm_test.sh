#!/usr/bin/env bash
# Evaluates a checkpoint on the GPUs of one or several machines that SLURM hands out.
#
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
#
#   GPUS           number of GPUs, and of processes, on all machines together (8)
#   GPUS_PER_NODE  number on each machine (8, or GPUS if that is less)
#   CPUS_PER_TASK  cores for each process (5)
#   PORT           a free port of the first machine (29500)
#   SRUN_ARGS      more options of srun, separated by spaces
set -euo pipefail
if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]" >&2
    exit 2
fi
partition=$1
job=$2
config=$3
checkpoint=$4
shift 4
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export MASTER_PORT="${PORT:-${MASTER_PORT:-29500}}"

# shellcheck disable=SC2086  # SRUN_ARGS holds several options
exec srun --partition="$partition" --job-name="$job" --gres="gpu:$per_node" \
    --ntasks="$gpus" --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$tools/test.py" "$config" "$checkpoint" --launcher slurm "$@"
