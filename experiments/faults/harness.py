"""Injects faults into real runs and prints the outcomes, one line per kind of fault.

Command:  python experiments/faults/harness.py --out=experiments/faults/results.json

The runs are short ones of `kdjax train` on the embedded digits, each in its own process. Every run
that ends properly is compared with an undisturbed run: all results, all lines of metrics and the
checksums of its checkpoints have to be equal to the last bit. About 200 faults take half an hour on
two cores; --scale=0.1 tries every kind with a tenth of the faults.
"""

import argparse
import json
import math
import os
import platform
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import inputs
import interruptions
import storage
from job import Job
from trial import Trial, table

import kdjax

Kind = Callable[[Job, int, random.Random], Iterator[Trial]]

# Kind of fault -> the function that injects it, and how often.
KINDS: dict[str, tuple[Kind, int]] = {
    "kills": (interruptions.kills, 100),
    "signals": (interruptions.signals, 8),
    "peers": (interruptions.dead_peers, 6),
    "devices": (interruptions.device_counts, 2),
    "checkpoints": (storage.damaged_checkpoints, 60),
    "resumed": (storage.resumed_after_damage, 5),
    "disk": (storage.full_disks, 6),
    "workdirs": (storage.refused_workdirs, 4),
    "data": (inputs.bad_data, 14),
    "changed": (inputs.changed_data, 4),
    "divergence": (inputs.divergence, 6),
    "files": (inputs.untrusted, 12),
}
# Kinds whose runs differ from the others: the number of devices of the undisturbed run, and
# overrides. The learning rate is small because sums over another number of devices round
# differently, and large steps would make this difference grow.
RUNS: dict[str, tuple[int, tuple[str, ...]]] = {
    "peers": (2, ()),
    "devices": (8, ("--config.schedule.learning_rate=0.01",)),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="which, with commas between")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of faults")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    parser.add_argument("--folder", default="", help="for the runs; default: a temporary one")
    parser.add_argument("--out", default="", help="JSON")
    chosen = parser.parse_args()
    if unknown := set(chosen.kinds.split(",")) - set(KINDS):
        sys.exit(f"--kinds: unknown are {sorted(unknown)}, known are {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        trials = run(Path(chosen.folder or temporary), chosen)
    print(table(trials))
    bad = [trial for trial in trials if not trial.good]
    for trial in bad:
        print(f"\n{trial.fault}: {trial}", file=sys.stderr)
    if chosen.out:
        save(Path(chosen.out), trials, chosen)
    return 1 if bad else 0


def run(folder: Path, chosen: argparse.Namespace) -> list[Trial]:
    """Runs and returns the trials of all chosen kinds."""
    jobs: dict[tuple[int, tuple[str, ...]], Job] = {}
    trials: list[Trial] = []
    for name in chosen.kinds.split(","):
        kind, count = KINDS[name]
        wanted_run = RUNS.get(name, (1, ()))
        if wanted_run not in jobs:
            own = folder / f"runs{len(jobs)}"
            own.mkdir(parents=True)
            jobs[wanted_run] = Job(own, *wanted_run)
        wanted = max(1, math.ceil(count * chosen.scale))
        for trial in kind(jobs[wanted_run], wanted, random.Random(f"{chosen.seed} {name}")):
            trials.append(trial)
            mark = "ok" if trial.good else "BAD"
            print(f"{len(trials):4d} {mark} {trial.fault}", file=sys.stderr, flush=True)
    return trials


def save(path: Path, trials: list[Trial], chosen: argparse.Namespace) -> None:
    """Writes all trials, with the command, settings and versions that made them."""
    content = {
        "command": " ".join(["python", *sys.argv]),
        "settings": vars(chosen) | {"folder": None, "out": None},
        "versions": {"kdjax": kdjax.__version__, "python": platform.python_version()},
        "cores": os.cpu_count(),
        "trials": [vars(trial) for trial in trials],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
