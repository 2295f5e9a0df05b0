#!/usr/bin/env bash
# Runs studies on an accelerator until it is taken away. The same command continues after a stop.
#
#     TFDS_DATA_DIR=DIR experiments/proof/gpu.sh KEPT [SECONDS] [STUDY...]
#
# KEPT is a directory that outlives the machine. Results and the last checkpoints are copied to it
# after every study, and copied back at the start; `summarize.py --workdir=KEPT` adds them to the
# page.
# SECONDS is the time limit for all studies together (default 3000).
# OVERRIDES has further --config.a.b=c, but no tuples, for example to try studies at a small size.
set -euo pipefail
cd "$(dirname "$0")/../.."
kept=${1:?where results are kept}
seconds=${2:-3000}
shift $(($# < 2 ? $# : 2))
studies=("$@")
[ ${#studies[@]} -gt 0 ] ||
  studies=(cifar10_resnet20 cifar10_searched tin100a_resnet110 cifar10_searched_mobilenet_v2)

# The path must be the same on every machine, because rows name the workdirs of searches.
work=${TMPDIR:-/tmp}/kdjax-proof
mkdir -p "$kept"
[ -d "$work" ] || cp -r "$kept" "$work"

keep() { # Copies everything except TensorBoard events and the best checkpoints.
  (cd "$work" && find . \( -name tensorboard -o -name best \) -prune -o -type f -print |
    tar -cf - -T -) | tar -C "$kept" -xf -
}
trap keep EXIT

status=0
for study in "${studies[@]}"; do
  left=$((seconds - SECONDS)) # Bash counts SECONDS from the start of this script.
  [ "$left" -gt 0 ] || { # The status that timeout returns.
    status=124
    break
  }
  timeout --signal=TERM --kill-after=120 "$left" \
    python experiments/proof/run.py --study="$study" --workdir="$work" ${OVERRIDES:-} ||
    status=$?
  keep
  [ "$status" -eq 0 ] || break
done
python experiments/proof/summarize.py --workdir="$work" --out="$kept"
exit "$status"
