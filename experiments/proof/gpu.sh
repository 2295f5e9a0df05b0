#!/usr/bin/env bash
# Studies on an accelerator, for as long as it is there; the same command goes on where it was cut.
#
#     TFDS_DATA_DIR=DIR experiments/proof/gpu.sh KEPT [SECONDS] [STUDY...]
#
# KEPT is a directory that outlives the machine: results and the last checkpoints are copied there
# after every study, and taken from there at the start; `summarize.py --workdir=KEPT` adds them to
# the page. SECONDS: all studies together are stopped
# after so many (default 3000).
# OVERRIDES: further --config.a.b=c, but no tuples, to try it at a small size.
set -euo pipefail
cd "$(dirname "$0")/../.."
kept=${1:?where results are kept}
seconds=${2:-3000}
shift $(($# < 2 ? $# : 2))
studies=("$@")
[ ${#studies[@]} -gt 0 ] ||
  studies=(cifar10_resnet20 cifar10_searched tin100a_resnet110 cifar10_searched_mobilenet_v2)

# The same path on every machine: rows name the workdirs of searches.
work=${TMPDIR:-/tmp}/kdjax-proof
mkdir -p "$kept"
[ -d "$work" ] || cp -r "$kept" "$work"

keep() { # All but events and the checkpoints that were best.
  (cd "$work" && find . \( -name tensorboard -o -name best \) -prune -o -type f -print |
    tar -cf - -T -) | tar -C "$kept" -xf -
}
trap keep EXIT

status=0
for study in "${studies[@]}"; do
  left=$((seconds - SECONDS)) # Bash counts SECONDS from the start of this script.
  [ "$left" -gt 0 ] || { # As timeout says it.
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
