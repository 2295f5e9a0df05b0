"""Prints by how many points the students of one row are better than those of another.

    python experiments/proof/difference.py cifar10_ablation/gate cifar10_5000/stem [--seeds=1:3]

The rows are read from ``runs.jsonl`` and paired by seed, with 95 % intervals over seeds.
"""

import argparse
from pathlib import Path

import numpy as np
import record
from run import seed_range
from studies import STUDIES
from summarize import with_interval

from kdjax.statistics import half_width

ROWS = [f"{study}/{row}" for study in STUDIES for row in STUDIES[study].rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", choices=ROWS, metavar="STUDY/ROW")
    parser.add_argument("other", choices=ROWS, metavar="STUDY/ROW")
    parser.add_argument("--seeds", type=seed_range, metavar="N or A:B", help="default: all")
    options = parser.parse_args()
    runs = record.read(Path(__file__).parent / "runs.jsonl")
    row, other = (
        record.networks(record.of_row(runs, *name.split("/")))
        for name in (options.row, options.other)
    )
    found = {
        seed: points
        for seed, points in record.differences(row, other).items()
        if options.seeds is None or seed in options.seeds
    }
    if not found:
        parser.error("the rows have no such seed in common")
    points = np.array(list(found.values()))
    print(f"{options.row} minus {options.other}, seeds {', '.join(map(str, found))}:")
    columns = {f"student {i}": points[:, i - 1] for i in range(1, points.shape[1] + 1)}
    for name, values in {**columns, "mean": points.mean(axis=1)}.items():
        print(f"{name:>10}  {with_interval(values.mean(), half_width(values))}")


if __name__ == "__main__":
    main()
