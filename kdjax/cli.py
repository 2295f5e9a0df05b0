"""The command line: flags in, one library call each."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_collections

import kdjax
from kdjax import config as configuration
from kdjax import process

_USAGE_ERROR = 2
_STOPPED = 130  # What shells use for a process that Ctrl-C ended.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status. Errors that a person can mend print one line."""
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    if arguments is None:  # Called as a program, not by one.
        process.restart_tuned(sys.orig_argv, process.cache_directory() / "compiled")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return known.run(known, rest)
    except (ValueError, ArithmeticError, OSError) as error:
        if os.environ.get("KDJAX_TRACEBACK"):
            raise
        print(f"kdjax {known.command}: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        print(f"\nkdjax {known.command}: stopped at once", file=sys.stderr)
        return _STOPPED


def _train(known: argparse.Namespace, overrides: Sequence[str]) -> int:
    config = read_config(known.config, overrides)
    configuration.validate(config)
    path = Path(known.workdir or default_workdir(config))
    from kdjax import report
    from kdjax.train import train

    summary, status = _until_interrupted(train, config, path)
    if summary is not None:
        written = report.write(summary, path)
        report.print_table(summary)
        _say_where(path, written)
    return status


def _search(known: argparse.Namespace, overrides: Sequence[str]) -> int:
    config = read_config(known.config, overrides, "search")
    configuration.validate(config)
    path = Path(known.workdir or default_workdir(config))
    from kdjax import report
    from kdjax.train import search

    summary, status = _until_interrupted(search, config, path)
    if summary is not None:
        written = report.write_search(summary, path)
        report.print_search(summary)
        _say_where(path, written)
        print(f"Widths: {path / 'widths.json'} (as a student: --config.student_widths, see --help)")
    return status


def _until_interrupted(
    run: Callable[[ml_collections.ConfigDict, Path], dict[str, Any]],
    config: ml_collections.ConfigDict,
    path: Path,
) -> tuple[dict[str, Any] | None, int]:
    """What a run returns and exit status 0; None and another status if a signal stopped it."""
    from kdjax.train.interrupt import Interrupted

    try:
        return run(config, path), 0
    except Interrupted as interrupted:
        print(f"{interrupted}. The same command goes on from there.", file=sys.stderr)
        return None, 0 if interrupted.signal_name == "SIGTERM" else _STOPPED


def _say_where(path: Path, written: Sequence[Path]) -> None:
    names = ", ".join(file.name for file in written)
    print(f"Results: {path / 'results.json'}  Report: {written[0].parent} ({names})")


def _evaluate(known: argparse.Namespace, overrides: Sequence[str]) -> int:
    _no_more(overrides)
    from kdjax import report
    from kdjax.train.evaluate import evaluate

    rows = evaluate(
        known.workdir, student=known.student, split=known.split, checkpoint=known.checkpoint
    )
    report.print_evaluation(rows, known.split)
    return 0


def _bench(known: argparse.Namespace, overrides: Sequence[str]) -> int:
    _no_more(overrides)
    from kdjax import report
    from kdjax.bench import Settings, bench

    settings = Settings(
        networks=known.network,
        batch_sizes=known.batch,
        dtypes=known.dtype,
        executions=known.execution,
        devices=known.devices,
        students=known.students,
        rounds=known.rounds,
        classes=known.classes,
        image_size=known.image_size,
        choose=known.choose,
        cached=known.cached,
    )
    path = Path(known.out)
    record = bench(settings, path, lambda line: print(line, file=sys.stderr))
    report.print_bench(record)
    kept = f"  Choice: {record['chosen_in']}" if "chosen_in" in record else ""
    print(f"Results: {path}{kept}")
    return 0


def _prepare(known: argparse.Namespace, overrides: Sequence[str]) -> int:
    _no_more(overrides)
    from kdjax.data.prepare import prepare

    print(f"Prepared in {prepare(known.name, known.data_dir)}")
    return 0


def read_config(
    path: str, overrides: Sequence[str], kind: configuration.Kind = "train"
) -> ml_collections.ConfigDict:
    """The configuration of a file with overrides applied.

    Args:
      path: ``file.py`` or ``file.py:argument`` with a ``get_config``; empty means the default.
        A config file is Python and is run.
      overrides: ``--config.a.b=value`` (or the value as the next argument).
      kind: ``train`` or ``search``.

    Raises:
      ConfigError: if the file cannot be used or is of the other kind, an argument is not an
        override, or a field does not exist or has another type.
    """
    from absl import flags
    from ml_collections import config_flags

    fields = configuration.fields_of(kind)
    default = {"train": configuration.default, "search": configuration.search_default}[kind]
    for name in (text.split("=")[0] for text in overrides if text.startswith("--config.")):
        field = name.removeprefix("--config.")
        if field not in fields:
            raise configuration.unknown_field(field, fields)
    values = flags.FlagValues()
    arguments = ["kdjax", *([f"--config={path}"] if path else []), *overrides]
    # Without sys_argv the flags would look at the arguments of whatever process this is.
    settings = {"flag_values": values, "sys_argv": arguments}
    if path:
        if not Path(path.partition(":")[0]).is_file():
            raise configuration.ConfigError(f"--config={path}: there is no such file")
        # Like a script: a config file may import its neighbours.
        sys.path.insert(0, str(Path(path.partition(":")[0]).resolve().parent))
        config_flags.DEFINE_config_file("config", **settings)
    else:
        config_flags.DEFINE_config_dict("config", default(), **settings)
    try:
        left = values(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        _check_kind(path, kind)
        if unknown := re.search(r'Key "(\w+)" does not exist', str(error)):
            raise configuration.unknown_field(unknown[1], fields) from None
        raise configuration.ConfigError(f"{' '.join(arguments[1:])}: {error}") from None
    _no_more(left[1:])
    _check_kind(path, kind)
    return values["config"].value


def _check_kind(path: str, kind: configuration.Kind) -> None:
    """Raises ConfigError if a file, before any override, is a configuration of the other kind."""
    if not path:
        return
    from absl import flags
    from ml_collections import config_flags

    values, arguments = flags.FlagValues(), ["kdjax", f"--config={path}"]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError):
        return  # What is wrong with the file itself is said where it is read.
    found = configuration.kind(values["config"].value)
    if found != kind:
        raise configuration.ConfigError(
            f"--config={path} is a configuration of `kdjax {found}`, not of `kdjax {kind}`"
        )


def default_workdir(config: ml_collections.ConfigDict) -> Path:
    """Where an experiment goes if nothing is said."""
    name = f"{config.data.name}-{config.network}".replace("/", "-").replace(":", "-")
    prefix = "search-" if configuration.kind(config) == "search" else ""
    return Path("kdjax-runs") / f"{prefix}{name}"


def _no_more(arguments: Sequence[str]) -> None:
    if arguments:
        raise configuration.ConfigError(
            f"unknown argument {arguments[0]!r}; overrides look like --config.weights.soft=0.3"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdjax",
        description="Compress convolutional networks by knowledge distillation.",
        epilog="Start with `kdjax train`: five students on real digits in minutes, on a CPU.",
    )
    parser.add_argument("--version", action="version", version=f"kdjax {kdjax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str,
        run: Callable[[argparse.Namespace, Sequence[str]], int],
        summary: str,
        description: str,
        epilog: str = "",
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(run=run)
        return added

    train = command(
        "train",
        _train,
        "train a student ensemble and its baselines, and compare them",
        "Trains students of several widths at once, distilled from their own average, and the\n"
        "same students each by itself; prints what distillation gained each of them.\n\n"
        "  kdjax train\n"
        "  kdjax train --config=configs/cifar10_resnet20.py --workdir=runs/c10\n"
        "  kdjax train --config.weights.soft=0.3 --config.seeds='(0,)' --workdir=runs/soft3\n\n"
        "The same command again continues an unfinished run, and shows a finished one.",
        _describe_fields("train"),
    )
    _add_config_and_workdir(train, "kdjax-runs/<dataset>-<network>")

    search = command(
        "search",
        _search,
        "find a compact structure under a budget, distil it, and compare",
        "Trains a teacher, learns which of its channels are worth their cost until the network\n"
        "meets a budget, builds the smaller network, distils it from the teacher, and compares it\n"
        "with the same structure trained alone and with uniform thinning at equal budget.\n\n"
        "  kdjax search\n"
        "  kdjax search --config.search.target.flops=0.3 --workdir=runs/third\n"
        "  kdjax search --config=configs/search_cifar10_resnet56.py --workdir=runs/r56 \\\n"
        "    --config.search.target.flops=0.5 --config.search.target.params=0.4\n\n"
        "The same command again continues at whatever stage it was in. The structure it finds can\n"
        "be a student of an online ensemble:\n\n"
        '  kdjax train --config.student_widths=\'("W/full.json", "W/widths.json")\'\n\n'
        "with W the workdir of the search.",
        _describe_fields("search"),
    )
    _add_config_and_workdir(search, "kdjax-runs/search-<dataset>-<network>")

    evaluate = command(
        "evaluate",
        _evaluate,
        "evaluate the students of a finished or running experiment",
        "Restores the checkpoints of an experiment and evaluates its students with running\n"
        "statistics on a whole split.\n\n"
        "  kdjax evaluate --workdir=kdjax-runs/digits-resnet8 --student=3",
    )
    evaluate.add_argument(
        "--workdir", required=True, metavar="DIR", help="of `kdjax train` or `kdjax search`"
    )
    evaluate.add_argument(
        "--student",
        type=int,
        default=0,
        metavar="N",
        help="one student, as its own deployable network; of a search 1 compact and distilled, "
        "2 compact, 3 uniform and distilled; default: all, and the ensemble where there is one",
    )
    evaluate.add_argument(
        "--split", choices=("train", "validation", "test"), default="test", help="default: test"
    )
    evaluate.add_argument(
        "--checkpoint",
        choices=("last", "best"),
        default="last",
        help="the last one, or the best on validation; default: last",
    )

    _add_bench_options(
        command(
            "bench",
            _bench,
            "measure training speed, start-up and memory on this machine",
            "Measures the full training step of a student ensemble on generated images, for every\n"
            "combination of the values given (separated by commas), in turns; prints images/s\n"
            "beside the limit that the device's measured bandwidth and arithmetic allow.\n\n"
            "  kdjax bench\n"
            "  kdjax bench --network=resnet20,resnet110 --batch=128,512 --dtype=float32,bfloat16\n"
            "  kdjax bench --choose --network=resnet20\n\n"
            "--choose measures all executions and records the fastest, which\n"
            "--config.compute.execution=auto then takes on this machine.",
        )
    )

    prepare = command(
        "prepare",
        _prepare,
        "download and prepare a TFDS set as array_record",
        "Downloads a TensorFlow Datasets set and writes it in the format that kdjax reads\n"
        "without TensorFlow. Preparing itself needs TensorFlow and the network:\n\n"
        '  pip install "kdjax[prepare]"\n'
        "  kdjax prepare cifar100",
    )
    prepare.add_argument("name", help="as in the TFDS catalogue: cifar10, svhn_cropped, ...")
    prepare.add_argument(
        "--data_dir",
        default="",
        metavar="DIR",
        help="default: $TFDS_DATA_DIR, else ~/tensorflow_datasets",
    )
    return parser


def _add_config_and_workdir(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--config",
        default="",
        metavar="FILE.py[:ARG]",
        help="a Python file with get_config(); default: the embedded digits",
    )
    command.add_argument(
        "--workdir",
        default="",
        metavar="DIR",
        help=f"where everything is written; default: {default}",
    )


def _add_bench_options(command: argparse.ArgumentParser) -> None:
    def words(text: str) -> tuple[str, ...]:
        return tuple(word for word in text.split(",") if word)

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(word) for word in words(text))

    for name, kind, default, meaning in (
        ("network", words, "resnet8", "names of networks"),
        ("batch", numbers, "64", "images a step, over all devices"),
        ("dtype", words, "float32", "float32, bfloat16"),
        ("execution", words, "", "strategies; default: auto,sequential,scanned"),
        ("devices", numbers, "1", "numbers of devices"),
        ("students", numbers, "5", "numbers of students"),
    ):
        text = f"{meaning}; default: {default}" if default else meaning
        command.add_argument(
            f"--{name}", type=kind, default=kind(default), help=text, metavar="A,B"
        )
    for name, number, meaning in (
        ("rounds", 5, "turns of each"),
        ("classes", 10, "of the generated images"),
        ("image_size", 32, "in pixels"),
    ):
        command.add_argument(f"--{name}", type=int, default=number, help=f"{meaning}; {number}")
    for name, meaning in (
        ("choose", "record the fastest execution"),
        ("cached", "use programs compiled earlier, as a second start"),
    ):
        command.add_argument(f"--{name}", action="store_true", help=meaning)
    out = "kdjax-runs/bench.json"
    command.add_argument("--out", default=out, metavar="FILE.json", help=f"default: {out}")


def _describe_fields(kind: configuration.Kind) -> str:
    lines = ["fields (--config.NAME=VALUE), with the default:"]
    for name, field in configuration.fields_of(kind).items():
        lines.append(f"  {name} = {field.default!r}".replace("%", "%%"))
        lines.append(f"      {field.meaning}".replace("%", "%%"))
    return "\n".join(lines)
