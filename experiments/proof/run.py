"""Trains the rows of a study, seed by seed; after a stop the same command continues.

    python experiments/proof/run.py --study=cifar10_5000 --workdir=DIR [--rows=alone,soft]
        [--config.epochs=1 ...]

Each row and seed has its own workdir, ``DIR/STUDY/ROW/seed0``. If seeds are quick, all seeds of a
row share one workdir, ``DIR/STUDY/ROW/seeds``. Finished workdirs are left as they are, so that a
study can be interrupted anywhere. Rows are trained in the order of the study.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from studies import STUDIES, Study

CONFIGS = Path(__file__).parents[2] / "configs"


def command(
    study: Study, row: str, seeds: Sequence[int], folder: Path, overrides: Sequence[str] = ()
) -> list[str]:
    """Returns the command that trains one row.

    Args:
      study: the study that has the row.
      row: name of the row.
      seeds: the seeds that the command trains, one after another.
      folder: the study's folder, which holds the workdirs of its rows and seeds.
      overrides: ``--config.a.b=value``; these come last in the command.
    """
    wanted = study.rows[row]
    fields = {**study.recipe[wanted.task], **wanted.overrides, "seeds": tuple(seeds)}
    # A name in braces is another row's workdir.
    others = {name: workdir(folder, name, study, seeds) for name in study.rows}
    given = {
        name: re.sub(r"\{(\w+)\}", lambda match: str(others[match[1]]), str(value))
        for name, value in fields.items()
    }
    return [
        *(sys.executable, "-m", "kdjax", wanted.task),
        f"--config={CONFIGS / study.config[wanted.task]}",
        f"--workdir={others[row]}",
        *(f"--config.{name}={value}" for name, value in given.items()),
        *overrides,
    ]


def workdir(folder: Path, row: str, study: Study, seeds: Sequence[int]) -> Path:
    """Returns a row's workdir: one directory for all seeds, or one for each seed."""
    return folder / row / ("seeds" if study.one_run else f"seed{seeds[0]}")


def finished(path: Path) -> set[int]:
    """Returns the seeds whose results a workdir has."""
    results = path / "results.json"
    return set(json.loads(results.read_text())["seeds"]) if results.exists() else set()


def finish(arguments: Sequence[str]) -> int:
    """Runs a command to its end; after SIGTERM or Ctrl-C waits while the command saves.

    Returns:
      The command's exit status, or 128 plus the number of the signal, as in a shell.
    """
    child = subprocess.Popen(arguments)
    asked = []

    def stop(number: int, frame: object) -> None:
        asked.append(number)
        if number == signal.SIGTERM:  # A terminal sends Ctrl-C to the command too.
            child.send_signal(number)

    before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        status = child.wait()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    return 128 + asked[0] if asked else status


def seed_range(text: str) -> range:
    """Parses seeds from the command line: ``3`` means 0, 1 and 2; ``6:12`` means 6 to 11."""
    first, _, end = text.rpartition(":")
    seeds = range(int(first or 0), int(end))
    if not seeds or seeds[0] < 0:
        raise argparse.ArgumentTypeError(f"{text} names no seeds: 3 or 6:12 does")
    return seeds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", required=True, choices=STUDIES)
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR")
    parser.add_argument("--rows", default="", help="names separated by commas; default: all")
    parser.add_argument(
        "--seeds",
        type=seed_range,
        metavar="N or A:B",
        help="so many from 0, or A to B - 1; default: the study's",
    )
    options, overrides = parser.parse_known_args()
    study = STUDIES[options.study]
    rows = options.rows.split(",") if options.rows else list(study.rows)
    if unknown := set(rows) - set(study.rows):
        parser.error(f"--rows names {sorted(unknown)}: the rows are {', '.join(study.rows)}")
    folder = (options.workdir / options.study).absolute()
    seeds = options.seeds or range(study.seeds)
    for part in [seeds] if study.one_run else [[seed] for seed in seeds]:
        for row in rows:
            if set(part) <= finished(workdir(folder, row, study, part)):
                continue
            print(f"{options.study}, {row}, {'seeds' if len(part) > 1 else 'seed'} ", end="")
            print(*part, sep=", ", flush=True)
            if status := finish(command(study, row, part, folder, overrides)):
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
