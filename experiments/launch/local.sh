#!/usr/bin/env bash
# Several processes of one run on this machine: to try a launch before it costs a cluster.
#
#   PROCESSES=2 experiments/launch/local.sh --workdir=runs/two --config.epochs=3
#
# KDJAX is the command (default: kdjax), PORT the coordinator's (default: 12355). On a machine with
# several GPUs give each process its own, with CUDA_VISIBLE_DEVICES per process.
set -u
processes=${PROCESSES:-2}
port=${PORT:-12355}
pids=()
for ((id = 0; id < processes; id++)); do
  ${KDJAX:-kdjax} train --coordinator="localhost:$port" --num_processes="$processes" \
    --process_id="$id" "$@" > >(sed "s/^/[$id] /") 2>&1 &
  pids+=($!)
done
# Ctrl-C and SIGTERM reach all: they save and end at the same step.
trap 'kill -TERM "${pids[@]}" 2>/dev/null' TERM INT
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
exit "$status"
