#!/usr/bin/env bash
# Starts several processes of one run on this machine, to test a launch before paying for a cluster.
#
#   PROCESSES=2 experiments/launch/local.sh --workdir=runs/two --config.epochs=3
#
# KDJAX is the command (default: kdjax), PORT is the port of the coordinator (default: 12355). On a
# machine with several GPUs give each process its own GPU, with CUDA_VISIBLE_DEVICES per process.
set -u
processes=${PROCESSES:-2}
port=${PORT:-12355}
pids=()
for ((id = 0; id < processes; id++)); do
  ${KDJAX:-kdjax} train --coordinator="localhost:$port" --num_processes="$processes" \
    --process_id="$id" "$@" > >(sed "s/^/[$id] /") 2>&1 &
  pids+=($!)
done
# Pass Ctrl-C and SIGTERM on to all processes: they save and end at the same step.
trap 'kill -TERM "${pids[@]}" 2>/dev/null' TERM INT
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
exit "$status"
