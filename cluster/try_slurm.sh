#!/usr/bin/env bash
# Try train.sbatch on a SLURM of its own: start one on this machine alone, submit a job of one process and one of two on
# the sample, compare their losses. Then a longer job is cancelled and submitted again, requeued, and runs out of time;
# its weights must be those of an undisturbed job. Needs root, and slurm-wlm and munge (apt-get install slurm-wlm munge).
# Run it in the project's folder:   VENV=.venv bash cluster/try_slurm.sh
set -euo pipefail
export CUDA_VISIBLE_DEVICES=  # processes cannot share a GPU
for tool in slurmctld slurmd munged sbatch; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install slurm-wlm munge" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "root is needed: slurmd starts the jobs of users" >&2; exit 2; }

work=$(mktemp -d)
host=$(hostname -s)
export SLURM_CONF=$work/slurm.conf
stop() {
    local pids
    pids=$(cat "$work"/*.pid 2>/dev/null || true)
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for _ in $(seq 50); do ps -p "${pids//$'\n'/,}" >/dev/null || break; sleep 0.1; done
    rm -rf "$work"
}
trap stop EXIT
mkdir -p "$work/state" "$work/spool"

head -c 1024 /dev/urandom >"$work/munge.key"
chown -R munge "$work" && chmod 755 "$work" && chmod 400 "$work/munge.key"
as_munge() { setpriv --reuid munge --regid munge --clear-groups "$@"; }
as_munge munged --key-file="$work/munge.key" --socket="$work/munge.socket" --pid-file="$work/munged.pid" \
    --log-file="$work/munged.log" --seed-file="$work/munged.seed" --force
cat >"$SLURM_CONF" <<EOF
ClusterName=trial
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket,cred_expire=10
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName=$host CPUs=$(nproc) State=UNKNOWN
PartitionName=trial Nodes=$host Default=YES MaxTime=INFINITE State=UP
EOF
slurmctld && slurmd
for _ in $(seq 60); do sinfo -h -o %T 2>/dev/null | grep -q idle && break; sleep 0.5; done

out=$work/runs
"${VENV:-.venv}/bin/python" cluster/without_dropout.py sample/model "$work/model"
settings=(--model_name_or_path "$work/model" --dataset_name sample/reviews --max_train_samples 200
    --max_eval_samples 50 --num_train_epochs 1 --mixed_precision no)
submit() { sbatch --wait --output="$work/job-$1.out" --ntasks-per-node "$1" --cpus-per-task 1 \
    cluster/train.sbatch "${settings[@]}" --output_dir "$out/$1"; }
for processes in 1 2; do
    submit "$processes" || { cat "$work/job-$processes.out" "$work/slurmd.log" >&2; exit 1; }
    cat "$work/job-$processes.out"
done
"${VENV:-.venv}/bin/python" cluster/compare.py "$out/1" "$out/2"

long=("${settings[@]}" --model_name_or_path sample/model --max_train_samples 0 --num_train_epochs 20
    --checkpointing_steps 100)
submit_long() { # NAME TIME_LIMIT: prints the job's number
    sbatch --parsable --time "$2" --signal USR1@20 --output "$work/job-$1.out" --ntasks-per-node 2 --cpus-per-task 1 \
        cluster/train.sbatch "${long[@]}" --output_dir "$out/$1"
}
lines() { cat "$out/disturbed/log.jsonl" 2>/dev/null | wc -l; }
runs() { [ -n "$(squeue -h -j "$1" 2>/dev/null)" ]; } # JOB
wait_for() { # JOB LINES in its log
    until [ "$(lines)" -ge "$2" ]; do
        runs "$1" || { cat "$work/job-disturbed.out" >&2; exit 1; }
        sleep 0.5
    done
}
wait_for_end() { while runs "$1"; do sleep 1; done; } # JOB
wait_for_end "$(submit_long undisturbed 30)"
job=$(submit_long disturbed 30)
wait_for "$job" 200
scancel "$job"
wait_for_end "$job"
grep preempted "$out/disturbed/status.json"
job=$(submit_long disturbed 1)
wait_for "$job" 400
scontrol requeue "$job"
wait_for_end "$job"
cat "$work/job-disturbed.out"
cmp "$out/undisturbed/model.safetensors" "$out/disturbed/model.safetensors"
echo "cancelled, requeued and out of time: went on $(grep -c "^resume    after" "$work/job-disturbed.out") times, same weights"
