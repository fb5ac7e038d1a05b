#!/usr/bin/env bash
# Test on several GPUs of this machine: tools/dist_test.sh CONFIG CHECKPOINT GPUS [flags of tools/test.py]
# Without a GPU the processes talk by gloo on the CPU. Several machines: set NNODES, NODE_RANK, MASTER_ADDR, PORT.
# PYTHON: the interpreter, by default the `python` on the path.
set -euo pipefail
config=$1; checkpoint=$2; gpus=$3
"${PYTHON:-python}" -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
  --master_port="${PORT:-29500}" --nproc_per_node="$gpus" \
  "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
