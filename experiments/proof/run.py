"""Trains the rows of a study, seed by seed, in order of value; the same command goes on.

    python experiments/proof/run.py --study=cifar10_5000 --workdir=DIR [--rows=alone,soft]
        [--config.epochs=1 ...]

Each row and seed has a workdir of its own, ``DIR/STUDY/ROW/seed0``; whatever is finished there is
left as it is, so that a study can be cut anywhere.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from studies import STUDIES, Study

CONFIGS = Path(__file__).parents[2] / "configs"


def command(
    study: Study, row: str, seed: int, workdir: Path, overrides: Sequence[str] = ()
) -> list[str]:
    """The command that trains one row with one seed; ``overrides`` come last."""
    fields = {**study.recipe, **study.rows[row][1], "seeds": f"({seed},)"}
    return [
        *(sys.executable, "-m", "kdjax", "train"),
        f"--config={CONFIGS / study.config}",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
        *overrides,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", required=True, choices=STUDIES)
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR")
    parser.add_argument("--rows", default="", help="names separated by commas; default: all")
    parser.add_argument("--seeds", type=int, default=0, help="how many; default: the study's")
    options, overrides = parser.parse_known_args()
    study = STUDIES[options.study]
    rows = options.rows.split(",") if options.rows else list(study.rows)
    if unknown := set(rows) - set(study.rows):
        parser.error(f"--rows names {sorted(unknown)}: the rows are {', '.join(study.rows)}")
    for seed in range(options.seeds or study.seeds):
        for row in rows:
            workdir = options.workdir / options.study / row / f"seed{seed}"
            if (workdir / "results.json").exists():
                continue
            print(f"{options.study}, {row}, seed {seed}", flush=True)
            status = subprocess.run(command(study, row, seed, workdir, overrides)).returncode
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
