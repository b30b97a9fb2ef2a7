#!/usr/bin/env bash
# Try training over two machines: two network namespaces with a cable (a veth pair) between them, by torchrun and by
# accelerate launch, and compare the losses with those of one process. Needs root and iproute2; removes what it made.
# Run it in the project's folder:   VENV=.venv bash cluster/try_two_machines.sh
set -euo pipefail
export CUDA_VISIBLE_DEVICES=  # processes cannot share a GPU
command -v ip >/dev/null || { echo "ip is missing: apt-get install iproute2" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "needs root, to create network namespaces" >&2; exit 2; }
source "${VENV:-.venv}/bin/activate"

work=$(mktemp -d)
made=()
stop() {
    for machine in "${made[@]}"; do
        ip netns pids "$machine" | xargs -r kill || true
        ip netns del "$machine"
    done
    rm -rf "$work"
}
trap stop EXIT
for machine in "$$-0" "$$-1"; do
    ip netns add "$machine" || { echo "cannot create network namespaces; see the message above" >&2; exit 2; }
    made+=("$machine")
done
ip link add cable0 netns "$$-0" type veth peer name cable1 netns "$$-1"
for machine in 0 1; do
    ip -n "$$-$machine" addr add "10.77.0.$((machine + 1))/24" dev "cable$machine"
    ip -n "$$-$machine" link set "cable$machine" up
    ip -n "$$-$machine" link set lo up
done

python cluster/without_dropout.py sample/model "$work/model"
settings=(--model_name_or_path "$work/model" --dataset_name sample/reviews --max_train_samples 200
    --max_eval_samples 50 --num_train_epochs 1 --mixed_precision no)
python train.py "${settings[@]}" --output_dir "$work/one"

on() { # MACHINE COMMAND...: on one of the machines, with the network it has
    local machine=$1
    shift
    ip netns exec "$$-$machine" env GLOO_SOCKET_IFNAME="cable$machine" OMP_NUM_THREADS=1 "$@"
}
both() { # NAME COMMAND...: on both at once; @ in the command is the machine's number
    local name=$1
    shift
    on 1 "${@//@/1}" train.py "${settings[@]}" --output_dir "$work/$name" &
    on 0 "${@//@/0}" train.py "${settings[@]}" --output_dir "$work/$name"
    wait $!
    python cluster/compare.py "$work/one" "$work/$name"
}
echo "== torchrun"
both torchrun torchrun --nnodes 2 --nproc-per-node 1 --node-rank @ --master-addr 10.77.0.1 --master-port 29501
echo "== accelerate launch"
both accelerate accelerate launch --multi_gpu --num_machines 2 --num_processes 2 --machine_rank @ \
    --main_process_ip 10.77.0.1 --main_process_port 29502
