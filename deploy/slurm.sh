#!/bin/bash
# A rollout on a Ray cluster of its own within one Slurm job; stopped or requeued, the same job goes on where it was.
#
#   ray get-auth-token --generate      # once: nobody else may use this cluster
#   sbatch --nodes=4 --cpus-per-task=32 --gpus-per-node=1 deploy/slurm.sh --policy DIR --out results/mine
#
# Arguments are those of `wristbench rollout`.  Checkpoints, --out and this environment (activate it before sbatch) must
# lie where all nodes see them; the ledger is written by one process, on the job's first node.
#SBATCH --job-name=wristbench
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

export RAY_AUTH_MODE=token
export RAY_max_direct_call_object_size=1048576  # a request's images travel in the call, not through the object store
export OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0
cpus=${SLURM_CPUS_PER_TASK:-1}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)  # not head: it hangs up on scontrol, which then fails
port=$((20000 + SLURM_JOB_ID % 10000))  # two jobs may share a node

# srun does not hand --cpus-per-task on by itself (Slurm 22.05 and later), and Ray counts a node's cores, not a job's.
on_each() {
    srun --ntasks-per-node=1 --cpus-per-task="$cpus" "$@"
}

on_each -N1 -n1 -w "$first" ray start --head --port="$port" --num-cpus="$cpus" --include-dashboard=false --block &
for _ in $(seq 60); do
    ray health-check --address "$first:$port" >/dev/null 2>&1 && break
    sleep 2
done
if ((SLURM_NNODES > 1)); then
    others=$((SLURM_NNODES - 1))
    on_each -N"$others" -n"$others" -x "$first" ray start --address="$first:$port" --num-cpus="$cpus" --block &
fi
on_each --overlap -N1 -n1 -w "$first" wristbench rollout --ray-address "$first:$port" "$@"
