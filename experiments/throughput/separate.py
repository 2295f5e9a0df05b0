"""Compares an ensemble of five students with five separate runs on the same number of images.

Every run is a separate process, one after another: the ensemble, then each student alone, which
learns from labels only. Time is measured from the start of the process, with compilation, and also
from the end of the first step.

Command:  python experiments/throughput/separate.py --network=resnet8 --out=separate.json
"""

import argparse
import sys
from typing import Any

import contestants
import options
import records
from worker import Contestant, Worker


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_job(parser)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--execution", default="auto", help="a value of compute.execution")
    parser.add_argument("--images", type=int, default=6400, help="of each run, in whole dispatches")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=3600, help="seconds, of start and run")
    parser.add_argument("--out", default="", help="JSON")
    chosen = parser.parse_args()
    host = records.host()
    scales = options.student_scales(chosen)
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(chosen.repeats):
        with contestants.caches() as cache:
            for name, contestant in choose(chosen, scales, cache).items():
                runs.setdefault(name, []).append(measure(contestant, chosen))
                print(f"{name}: {describe(runs[name][-1])}", file=sys.stderr, flush=True)
    content = {
        "separate_over_ensemble": ratios(runs),
        "runs": runs,
        "settings": vars(chosen) | {"out": None},
        "host": host,
        "command": records.command(),
    }
    records.save(content, chosen.out)
    together = [run["seconds"] for run in runs["ensemble"]]
    print(f"{len(scales)} separate runs take, times the ensemble's run of as many images:")
    for what, values in content["separate_over_ensemble"].items():
        print(f"  {what.replace('_', ' ')}: {records.show(values, 2)}")
    print(f"the ensemble's steps took {records.show(records.summary(together), 2)} s")


def choose(
    chosen: argparse.Namespace, scales: tuple[float, ...], cache: str
) -> dict[str, Contestant]:
    """Returns the ensemble and each student alone, by name."""
    job = options.job(chosen) | {
        "cache": cache,
        "device": chosen.device,
        "execution": chosen.execution,
    }
    found = {"ensemble": contestants.kdjax("ensemble", **job)}
    for number, scale in enumerate(scales, start=1):
        alone = job | {"scales": scale, "method": "independent"}
        found[f"student_{number}"] = contestants.kdjax(f"student_{number}", **alone)
    return found


def measure(contestant: Contestant, chosen: argparse.Namespace) -> dict[str, Any]:
    """Measures one run from start to end."""
    with Worker(contestant) as worker:
        record = worker.ready(chosen.timeout)
        whole = record["steps_per_dispatch"]
        steps = max(1, round(chosen.images / chosen.batch / whole)) * whole
        taken = worker.run(steps, chosen.timeout)
    return {
        "steps": steps,
        **taken._asdict(),
        **record,
        "environment": contestant.settings,
    }


def ratios(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Returns the time of all separate runs over the ensemble's time, repeat by repeat."""

    def total(key: str) -> list[float]:
        alone = [repeats for name, repeats in runs.items() if name != "ensemble"]
        return [sum(run[key] for run in together) for together in zip(*alone, strict=True)]

    ensemble = {key: [run[key] for run in runs["ensemble"]] for key in ("start_seconds", "seconds")}
    starts, steps = total("start_seconds"), total("seconds")
    return {
        "with_start_up": records.ratio(
            [start + step for start, step in zip(starts, steps, strict=True)],
            [start + step for start, step in zip(*ensemble.values(), strict=True)],
        ),
        "steps_alone": records.ratio(steps, ensemble["seconds"]),
        "start_up_alone": records.ratio(starts, ensemble["start_seconds"]),
    }


def describe(run: dict[str, Any]) -> str:
    first, steps = run["start_seconds"], run["steps"]
    return f"first step after {first:.1f} s, {steps} more in {run['seconds']:.1f} s"


if __name__ == "__main__":
    main()
