"""Compares kdjax with the peer in PyTorch: images per second of the same step, taking turns.

Each contestant is a separate process. All start one after another and take their first step. Then
rounds A B C A B C ... with the same number of steps follow, so that only one works at a time and a
noisy machine disturbs all alike. A contestant that cannot run is reported with its error.

    python experiments/throughput/compare.py --network=resnet20 --executions=auto,sequential \\
        --out=compare.json
    python experiments/throughput/compare.py --device=cuda --network=resnet110 --batch=128 \\
        --dtypes=float32,bfloat16 --out=compare.json

On a CPU, PyTorch's threads spin until all have done their share of an operation. If another program
runs, two of these threads may share one core, and everything becomes ten times slower. Compare on a
quiet machine, and trust a number only if PyTorch kept nearly as many cores busy as it has threads.
If the machine is shared, --torch_environment=OMP_WAIT_POLICY=PASSIVE or --threads=1 give steadier
numbers.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import contestants
import options
import records
from interleave import Result, measure
from worker import Contestant

_COMPILE = {"eager": "none", "compiled": "default", "graphs": "reduce-overhead"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_job(parser)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtypes", default="", help="instead of --dtype, with commas between")
    parser.add_argument(
        "--executions", default="auto", help="of kdjax, with commas between; none: empty"
    )
    parser.add_argument(
        "--peers", default="", help=f"of {', '.join(_COMPILE)}; default: eager,compiled"
    )
    parser.add_argument("--torch_python", default=sys.executable, help="one that has PyTorch")
    parser.add_argument("--threads", type=int, default=0, help="cores for each, on cpu; 0: all")
    parser.add_argument("--tf32", type=int, default=1, choices=(0, 1), help="for both, on cuda")
    parser.add_argument("--channels_last", type=int, default=1, choices=(0, 1), help="of PyTorch")
    parser.add_argument(
        "--torch_environment", default="", help="name=value, with commas between, for PyTorch"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of the fastest one's turn")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds, of start and turn")
    parser.add_argument(
        "--caches", default="", help="directory that keeps what was compiled; default: none does"
    )
    parser.add_argument("--out", default="", help="JSON")
    chosen = parser.parse_args()
    host = records.host()
    with contestants.caches(chosen.caches) as cache:
        steps, results = measure(
            choose(chosen, cache),
            rounds=chosen.rounds,
            seconds=chosen.seconds,
            timeout=chosen.timeout,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
    content = {
        "contestants": evaluate(results, steps, chosen.batch),
        "steps_a_turn": steps,
        "settings": settings(chosen),
        "caches": "kept" if chosen.caches else "empty",
        "host": host | {"load_after": records.host()["load_before"]},
        "command": records.command(),
    }
    records.save(content, chosen.out)
    print(table(content["contestants"]))
    return 0 if any(result.seconds for result in results) else 1


def choose(chosen: argparse.Namespace, cache: str) -> list[Contestant]:
    """Returns the contestants that the options name, in the order of ``--dtypes``."""
    common = options.job(chosen) | {"device": chosen.device, "tf32": chosen.tf32}
    found = []
    for dtype in names(chosen.dtypes) or [chosen.dtype]:
        job = common | {"dtype": dtype, "threads": chosen.threads}
        for execution in names(chosen.executions):
            name = f"kdjax-{execution}-{dtype}"
            found.append(contestants.kdjax(name, cache=cache, execution=execution, **job))
        for peer in names(chosen.peers or "eager,compiled"):
            found.append(
                contestants.torch(
                    f"torch-{peer}-{dtype}",
                    python=chosen.torch_python,
                    cache=cache,
                    environment=dict(
                        pair.split("=", 1) for pair in names(chosen.torch_environment)
                    ),
                    compile=_COMPILE[peer],
                    channels_last=chosen.channels_last,
                    **job,
                )
            )
    return found


def settings(chosen: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that may change a result."""
    elsewhere = ("torch_python", "caches", "out")
    return {name: value for name, value in vars(chosen).items() if name not in elsewhere}


def names(text: str) -> list[str]:
    """Returns the words between commas."""
    return [word for word in text.split(",") if word]


def evaluate(results: Sequence[Result], steps: int, batch: int) -> dict[str, dict[str, Any]]:
    """Returns, for each contestant, images per second and its speed relative to PyTorch's.

    A ratio above 1 means faster than that contestant in PyTorch. Ratios are medians over rounds,
    with their quartiles.
    """
    peers = [result for result in results if result.name.startswith("torch") and result.seconds]
    content: dict[str, dict[str, Any]] = {}
    for result in results:
        entry: dict[str, Any] = {"error": result.error, **result.record}
        if result.seconds:
            rates = [steps * batch / seconds for seconds in result.seconds]
            entry["images_per_second"] = records.summary(rates)
            entry["cores_busy"] = records.ratio(result.cpu_seconds, result.seconds)
            entry["times_as_fast_as"] = {
                peer.name: records.ratio(peer.seconds, result.seconds)
                for peer in peers
                if peer is not result
            }
        content[result.name] = entry | {
            "seconds": result.seconds,
            "cpu_seconds": result.cpu_seconds,
        }
    return content


def table(content: dict[str, dict[str, Any]]) -> str:
    """Returns the evaluation as a table of text, followed by the errors of failed contestants."""
    peers = [
        name for name, entry in content.items() if name.startswith("torch") and entry["seconds"]
    ]
    rows = [("", "images/s", "first step, s", "cores busy", *(f"against {name}" for name in peers))]
    for name, entry in content.items():
        if not entry["seconds"]:
            continue
        ratios = entry["times_as_fast_as"]
        rows.append(
            (
                name,
                f"{entry['images_per_second']['median']:.1f}",
                f"{entry['start_seconds']:.1f}",
                records.show(entry["cores_busy"], 2),
                *(records.show(ratios[peer], 2) if peer in ratios else "" for peer in peers),
            )
        )
    failures = [
        f"{name} failed: {entry['error']}" for name, entry in content.items() if entry["error"]
    ]
    return "\n".join([records.table(rows), *failures])


if __name__ == "__main__":
    sys.exit(main())
