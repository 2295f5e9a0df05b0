#!/usr/bin/env bash
# Runs all measurements for a machine with a GPU. Each part writes its own JSON to this folder:
#
#   experiments/throughput/gpu.sh                     all parts
#   experiments/throughput/gpu.sh check compare       some of them
#
# Variables: PYTHON (with kdjax[cuda]) and TORCH_PYTHON (with PyTorch for CUDA; default: the same);
# EXECUTIONS of kdjax and PEERS of PyTorch to compare; OUT, the folder for the JSON files; TIMEOUT
# of each start and turn, in seconds; ROUNDS. A part that fails does not stop the others.
set -uo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-python}
torch_python=${TORCH_PYTHON:-$python}
executions=${EXECUTIONS:-auto,sequential,packed_scanned,merged_scanned}
peers=${PEERS:-eager,compiled,graphs}
out=${OUT:-experiments/throughput}
timeout=${TIMEOUT:-3600}
rounds=${ROUNDS:-11}
here=experiments/throughput
status=0

part() {
  echo "== $*"
  "$@" || { status=1; echo "== failed: $1 $2" >&2; }
}

check() {
  part "$python" $here/check.py --torch_python="$torch_python" --out="$out/gpu_check.json"
}

compare() { # Arguments: the name of the JSON, then further options.
  part "$python" $here/compare.py --device=cuda --network=resnet110 --executions="$executions" \
    --peers="$peers" --torch_python="$torch_python" --rounds="$rounds" --timeout="$timeout" \
    --out="$out/gpu_$1.json" "${@:2}"
}

compare_128() {
  compare compare_resnet110_128 --batch=128 --dtypes=float32,bfloat16
}

compare_512() {
  compare compare_resnet110_512 --batch=512 --dtypes=bfloat16
}

separate() {
  part "$python" $here/separate.py --device=cuda --network=resnet20 --batch=128 --dtype=bfloat16 \
    --images=512000 --timeout="$timeout" --out="$out/gpu_separate.json"
}

bench() {
  part "$python" -m kdjax bench --network=resnet20,resnet110 --batch=128,512 \
    --dtype=float32,bfloat16 --out="$out/gpu_bench.json"
}

memory() {
  part "$python" -m kdjax bench --network=resnet110 --batch=512 --dtype=bfloat16 \
    --execution=sequential,packed_scanned --remat=0,1 --rounds=2 --out="$out/gpu_memory.json"
}

mkdir -p "$out"
for name in "${@:-check compare separate bench memory}"; do
  for step in $name; do
    case $step in
      check | compare_128 | compare_512 | separate | bench | memory) "$step" ;;
      compare) compare_128 && compare_512 ;;
      *)
        echo "no part $step: check, compare, compare_128, compare_512, separate, bench, memory" >&2
        exit 2
        ;;
    esac
  done
done
exit $status
