"""The function of each command: it makes one library call and prints the result."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections

from kdjax import config as configuration
from kdjax.cli import STOPPED
from kdjax.cli.configs import default_workdir, is_stored, no_more, overridden, read_config

if TYPE_CHECKING:
    from kdjax.plan import DataShape

LOST = 3  # The exit status if another process of the run has most likely died.
NOT_COMPILED = 1  # The exit status if a planned program does not compile.


def run_task(task: configuration.Task, args: argparse.Namespace, overrides: Sequence[str]) -> int:
    """`kdjax train`, `search` and `distill`: runs the task, writes its report and prints it.

    Args:
      task: which of the three.
      args: the command's parsed options.
      overrides: the ``--config.field=value`` flags.

    Returns:
      The exit status.
    """
    config = read_config(args.config, overrides, task)
    configuration.validate(config)
    path = Path(args.workdir or default_workdir(config))
    from kdjax import report
    from kdjax import train as tasks

    run, write, show = {
        "train": (tasks.train, report.write, report.print_table),
        "search": (tasks.search, report.write_search, report.print_search),
        "distill": (tasks.distill, report.write_distill, report.print_distill),
    }[task]
    remarks = configuration.unread(config, overridden(overrides))
    summary, status = _run_in_processes(run, config, path, args, remarks)
    if summary is not None:
        show(summary)
        report.print_remarks(summary)
        _say_where(path, write(summary, path))
        if task == "search":
            widths = path / "widths.json"
            print(f"Widths: {widths} (as a student: --config.student_widths, see --help)")
    return status


def _run_in_processes(
    run: Callable[[ml_collections.ConfigDict, Path], dict[str, Any]],
    config: ml_collections.ConfigDict,
    path: Path,
    args: argparse.Namespace,
    remarks: Sequence[str],
) -> tuple[dict[str, Any] | None, int]:
    """Runs a task; returns its summary and the exit status.

    The summary is None if this process has nothing to report. ``remarks`` are printed first, by the
    first process only.
    """
    from kdjax.train.devices import processes
    from kdjax.train.run.interrupt import Interrupted

    processes.start(args.coordinator, args.num_processes, args.process_id)
    if processes.is_first():
        for line in remarks:
            print(line, file=sys.stderr)
    try:
        summary = run(config, path)
        return (summary if processes.is_first() else None), 0
    except Interrupted as interrupted:
        print(f"{interrupted}. The same command continues from there.", file=sys.stderr)
        ended_well = interrupted.signal_name == "SIGTERM" and interrupted.saved
        return None, 0 if ended_well else STOPPED
    except Exception as error:
        # kdjax's own errors are raised in all processes alike, and all of them end normally.
        if processes.count() == 1 or type(error).__module__.startswith("kdjax."):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        print(
            f"kdjax {args.command}: process {processes.index()} of {processes.count()} cannot go "
            f"on ({reason}). If another one has died, start all of them again: the same command "
            "goes on from the last checkpoint.",
            file=sys.stderr,
        )
        processes.exit_now(LOST)


def _say_where(path: Path, written: Sequence[Path]) -> None:
    names = ", ".join(file.name for file in written)
    print(f"Results: {path / 'results.json'}  Report: {written[0].parent} ({names})")


def run_bench(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    """`kdjax bench`: measures training steps, or layers, and writes what was measured."""
    no_more(overrides)
    _check_unused_options(args)
    if args.layers:
        return _bench_layers(args)
    from kdjax import report
    from kdjax.bench import Settings, bench

    height, width = args.image_size
    if height != width:
        raise ValueError(f"--image_size is {height}x{width}: expected a square (but for --layers)")
    settings = Settings(
        networks=args.network,
        batch_sizes=args.batch,
        dtypes=args.dtype,
        executions=args.execution,
        devices=args.devices,
        students=args.students,
        remat=args.remat,
        rounds=args.rounds,
        classes=args.classes,
        image_size=height,
        choose=args.choose,
        cached=args.cached,
    )
    path = Path(args.out or "kdjax-runs/bench.json")
    record = bench(settings, path, lambda line: print(line, file=sys.stderr))
    report.print_bench(record)
    kept = f"  Choice: {record['chosen_in']}" if "chosen_in" in record else ""
    print(f"Results: {path}{kept}")
    return 0


# Options that only one kind of benchmark reads -> their defaults.
_OF_STEPS: dict[str, Any] = {"execution": (), "devices": (1,), "students": (5,), "remat": (0,)}
_OF_STEPS |= {"choose": False, "cached": False}
_OF_LAYERS: dict[str, Any] = {"image_channels": 3, "network_width": 1.0}


def _check_unused_options(args: argparse.Namespace) -> None:
    """Raises ValueError for an option that the benchmark would ignore."""
    for name, default in (_OF_STEPS if args.layers else _OF_LAYERS).items():
        if getattr(args, name) != default:
            raise ValueError(
                f"--{name} is for bench {'without' if args.layers else 'with'} --layers"
            )


def _bench_layers(args: argparse.Namespace) -> int:
    from kdjax import report
    from kdjax.bench import LayerSettings, bench_layers

    for name in ("network", "batch", "dtype"):
        if len(getattr(args, name)) != 1:
            raise ValueError(f"--{name} has {len(getattr(args, name))} values: --layers takes one")
    settings = LayerSettings(
        network=args.network[0],
        width=args.network_width,
        classes=args.classes,
        image_size=args.image_size,
        channels=args.image_channels,
        batch_size=args.batch[0],
        dtype=args.dtype[0],
        rounds=args.rounds,
    )
    path = Path(args.out or "kdjax-runs/latency.json")
    record = bench_layers(settings, path, lambda line: print(line, file=sys.stderr))
    report.print_layers(record)
    print(f"Table: {path} (for a search: --config.search.latency_table={path})")
    return 0


def run_plan(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    """`kdjax plan`: compiles the step for absent devices and prints what it would do."""
    config = read_config(args.config, overrides)
    import jax

    from kdjax import report
    from kdjax.plan import plan

    # Without this, an installed compiler for TPUs would look for a TPU in this process.
    jax.config.update("jax_platforms", "cpu")
    path = Path(args.out) if args.out else None
    record = plan(
        config,
        args.target,
        executions=args.executions,
        batches=args.batches,
        data=_given_shape(args, config.data.memory == "stream"),
        # A workdir's config.json is data: there is no Python file to run again.
        config_file="" if is_stored(args.config) else args.config,
        path=path,
        say=lambda line: print(line, file=sys.stderr),
    )
    report.print_plan(record)
    if path:
        print(f"Results: {path}")
    return 0 if all(result["compiles"] for result in record["results"]) else NOT_COMPILED


def _given_shape(args: argparse.Namespace, streamed: bool) -> "DataShape | None":
    """The shape of data that is not on this machine, if the flags give one; else None."""
    given = {name: getattr(args, name) for name in ("images", "image_size", "classes")}
    if not any(given.values()):
        return None
    least = {"images": 1, "image_size": 8, "classes": 2}
    for name, value in given.items():
        if value < least[name]:
            raise configuration.ConfigError(
                f"--{name} is {value or 'not given'}: at least {least[name]}; --images, "
                "--image_size and --classes go together"
            )
    from kdjax.plan import DataShape

    sizes = {"train": args.images, "validation": 0, "test": 0}
    return DataShape(sizes, (args.image_size, args.image_size, 3), args.classes, streamed)


def run_prepare(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    """`kdjax prepare`: downloads and prepares a TFDS set."""
    no_more(overrides)
    from kdjax.data.prepare import prepare

    print(f"Prepared in {prepare(args.name, args.data_dir)}")
    return 0
