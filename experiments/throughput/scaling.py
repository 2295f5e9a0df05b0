"""Measures a training step on more devices, and with more students, depth, images or classes.

The axis ``devices`` maps the step over 1, 2, 4 and 8 virtual devices of the CPU, at a constant
global batch, and compares it with the step on a single device. The cores stay the same, so that any
additional time is overhead. The other axes change one thing of the base setting. All points are
processes that take turns; relative costs are medians over rounds.

Command:  python experiments/throughput/scaling.py --out=scaling.json --plot=scaling.png
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import contestants
import interleave
import options
import records

AXES = ("devices", "students", "depth", "batch", "classes")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_job(parser)
    parser.set_defaults(image_size=8, students=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--execution", default="sequential", help="a value of compute.execution")
    parser.add_argument("--axes", default=",".join(AXES), help="which, with commas between")
    parser.add_argument("--devices", default="1,2,4,8", help="virtual ones; on cuda, real ones")
    parser.add_argument("--depths", default="8,20,32")
    parser.add_argument("--ensembles", default="2,3,5", help="numbers of students")
    parser.add_argument("--batches", default="16,32,64")
    parser.add_argument("--numbers_of_classes", default="10,100,1000")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of the fastest one's turn")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds, of start and turn")
    parser.add_argument("--out", default="", help="JSON")
    parser.add_argument("--plot", default="", help="PNG")
    chosen = parser.parse_args()
    host = records.host()
    with contestants.caches() as cache:
        measured = measure(chosen, cache)
    content = {
        "axes": measured,
        "settings": vars(chosen) | {"out": None, "plot": None},
        "host": host,
        "command": records.command(),
    }
    records.save(content, chosen.out)
    for axis, points in measured.items():
        print(table(axis, points))
    if chosen.plot:
        plot(measured, chosen.plot)


def measure(chosen: argparse.Namespace, cache: str) -> dict[str, list[dict[str, Any]]]:
    """Measures and returns the points of every axis."""
    axes = chosen.axes.split(",")
    if unknown := set(axes) - set(AXES):
        sys.exit(f"--axes: unknown are {sorted(unknown)}, known are {', '.join(AXES)}")
    base = options.job(chosen) | {"execution": chosen.execution}
    found: dict[str, list[dict[str, Any]]] = {}
    if "devices" in axes:
        counts = numbers(chosen.devices)
        started = {"device": chosen.device, "cache": cache}
        if chosen.device == "cpu":
            started["virtual_devices"] = max(counts)
        jobs = {f"{count} devices": base | {"devices": count} for count in counts}
        points = take_turns(chosen, jobs, started)
        found["devices"] = along(counts, list(points.values()))
    settings = {
        "students": ("students", numbers(chosen.ensembles)),
        "depth": ("network", [f"resnet{depth}" for depth in numbers(chosen.depths)]),
        "batch": ("batch", numbers(chosen.batches)),
        "classes": ("classes", numbers(chosen.numbers_of_classes)),
    }
    wanted = {
        axis: [base | {field: value} for value in values]
        for axis, (field, values) in settings.items()
        if axis in axes
    }
    # The base setting lies on every axis; it is measured once.
    jobs = {describe(job): job for points in wanted.values() for job in points}
    if jobs:
        points = take_turns(chosen, jobs, {"device": chosen.device, "cache": cache})
        for axis, along_axis in wanted.items():
            values = [int(str(job[settings[axis][0]]).removeprefix("resnet")) for job in along_axis]
            found[axis] = along(values, [points[describe(job)] for job in along_axis])
    return found


def describe(job: dict[str, Any]) -> str:
    return f"{job['network']} x {job['students']}, {job['batch']} images, {job['classes']} classes"


def take_turns(
    chosen: argparse.Namespace, jobs: dict[str, dict[str, Any]], started: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Measures jobs in turn; returns each job's seconds per step and its worker's record."""
    steps, results = interleave.measure(
        [contestants.kdjax(name, **started, **job) for name, job in jobs.items()],
        rounds=chosen.rounds,
        seconds=chosen.seconds,
        timeout=chosen.timeout,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    return {
        result.name: {
            "name": result.name,
            "error": result.error,
            **result.record,
            "steps_a_turn": steps,
            "seconds_a_step": [taken / steps for taken in result.seconds],
        }
        for result in results
    }


def along(values: Sequence[int], points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the points of an axis, each with its value and its cost relative to the first."""
    first = points[0]["seconds_a_step"]
    placed = []
    for value, point in zip(values, points, strict=True):
        seconds = point["seconds_a_step"]
        placed.append({"value": value, **point})
        if seconds:
            placed[-1]["summary"] = records.summary(seconds)
        if seconds and first:
            placed[-1]["over_first"] = records.ratio(seconds, first)
    return placed


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def table(axis: str, points: Sequence[dict[str, Any]]) -> str:
    """Returns an axis as a table of text."""
    rows = [(axis, "ms a step", "over the first", "first step, s")]
    for point in points:
        if "summary" in point:
            median = f"{1000 * point['summary']['median']:.2f}"
            ratio = records.show(point["over_first"], 2) if "over_first" in point else ""
            rows.append((str(point["value"]), median, ratio, f"{point['start_seconds']:.1f}"))
    failures = [f"{point['name']} failed: {point['error']}" for point in points if point["error"]]
    return "\n".join([records.table(rows), *failures]) + "\n"


def plot(measured: dict[str, list[dict[str, Any]]], path: str) -> None:
    """Plots one panel for each axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(measured), figsize=(3 * len(measured), 3), layout="constrained", squeeze=False
    )
    for panel, (axis, points) in zip(panels[0], measured.items(), strict=True):
        points = [point for point in points if "over_first" in point]
        values = [point["over_first"] for point in points]
        middle = [value["median"] for value in values]
        spread = [
            [value["median"] - value["quartiles"][0] for value in values],
            [value["quartiles"][1] - value["median"] for value in values],
        ]
        places = [point["value"] for point in points]
        panel.errorbar(places, middle, spread, marker="o", capsize=3)
        if axis in ("devices", "batch", "classes"):
            panel.set_xscale("log", base=10 if axis == "classes" else 2)
        panel.set_xticks(places, [str(place) for place in places], minor=False)
        panel.minorticks_off()
        panel.set_ylim(bottom=0)
        panel.set_xlabel(axis)
    panels[0][0].set_ylabel("time of a step, relative to the first")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
