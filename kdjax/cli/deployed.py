"""The commands that use trained networks: `evaluate`, `predict` and `export`."""

import argparse
import csv
import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdjax import atomic
from kdjax import config as configuration
from kdjax.cli.configs import no_more

_LOGGER = logging.getLogger(__name__)


def add_evaluate_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `kdjax evaluate`."""
    _add_network_options(
        command,
        "0",
        "one network, by number or name; for a search, 1 is compact and distilled, 2 compact, "
        "3 uniform and distilled; for a distillation, the distilled students come first, then the "
        "same ones alone; for both also 'teacher', if it was trained there; default: all networks, "
        "and the average of an ensemble",
    )
    command.add_argument(
        "--split", choices=("train", "validation", "test"), default="test", help="default: test"
    )
    command.add_argument(
        "--data",
        type=os.path.expanduser,
        default="",
        metavar="PLACE",
        help="where the training data is now: a directory, a file, or a name as in "
        "--config.data.name; default: where it was during training",
    )
    command.add_argument(
        "--other_data",
        type=os.path.expanduser,
        default="",
        metavar="PLACE",
        help="other data of the same classes, given as for --data; all of it is evaluated",
    )
    command.add_argument(
        "--out",
        type=os.path.expanduser,
        default="",
        metavar="FILE.json",
        help="also write all numbers to this file",
    )


def add_predict_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `kdjax predict`."""
    _add_student_options(command)
    command.add_argument(
        "--top", type=int, metavar="K", help="how many classes for each image; default: up to 5"
    )
    command.add_argument(
        "--batch", type=int, default=64, metavar="N", help="images per batch; default: 64"
    )
    command.add_argument(
        "--out",
        type=os.path.expanduser,
        default="",
        metavar="FILE",
        help="a file.json or file.csv to write, instead of a table",
    )
    command.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="files, folders (with subfolders, without hidden files) or patterns in quotes",
    )


def add_export_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `kdjax export`."""
    _add_student_options(command)
    command.add_argument(
        "--platforms",
        default="",
        metavar="NAMES",
        help="platforms on which a .jaxexport file can run; default: cpu,cuda,tpu",
    )
    command.add_argument(
        "--out",
        type=os.path.expanduser,
        required=True,
        metavar="FILE",
        help="a file.onnx, file.jaxexport, file.npz or file.safetensors to write",
    )


def _add_student_options(command: argparse.ArgumentParser) -> None:
    """Adds the options that name one trained network."""
    _add_network_options(
        command, "1", "number or name of the network, such as 3, compact or teacher; default: 1"
    )
    command.add_argument(
        "--seed", type=int, metavar="N", help="seed of the run; default: the first seed"
    )


def _add_network_options(command: argparse.ArgumentParser, student: str, meaning: str) -> None:
    command.add_argument(
        "--workdir",
        type=os.path.expanduser,
        required=True,
        metavar="DIR",
        help="workdir of `kdjax train`, `search` or `distill`",
    )
    command.add_argument("--student", default=student, metavar="N", help=meaning)
    command.add_argument(
        "--checkpoint",
        choices=("last", "best"),
        default="last",
        help="the last one, or the best on validation; default: last",
    )


def evaluate(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Evaluates networks; prints and draws the result, and writes it to ``--out`` if given."""
    no_more(overrides)
    out = _out(args.out, ".json")
    from kdjax import report
    from kdjax.train.tasks.evaluate import evaluate

    summary = evaluate(
        args.workdir,
        student=args.student,
        split=args.split,
        checkpoint=args.checkpoint,
        data=args.data,
        other_data=args.other_data,
    )
    if out is not None:
        # On one line, because a confusion matrix has a number for every pair of classes.
        atomic.write(out, json.dumps(summary, allow_nan=False) + "\n")
    report.print_evaluation(summary)
    try:
        figures = report.draw_confusion(summary, Path(args.workdir))
        print(f"Figures: {figures[0].parent}")
    except OSError as error:  # A read-only workdir can still be evaluated.
        _LOGGER.warning("no figures were written: %s", error)
    if out is not None:
        print(f"Numbers: {out}")
    return 0


def predict(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Classifies images, and prints their classes or writes them to ``--out``."""
    no_more(overrides)
    out = _out(args.out, ".json", ".csv")
    if args.batch < 1:
        raise configuration.ConfigError(f"--batch is {args.batch}: expected at least 1")
    from kdjax import deploy, report

    files = deploy.find_images(args.images)
    student = deploy.load_student(
        args.workdir, args.student, seed=args.seed, checkpoint=args.checkpoint
    )
    found = deploy.predict(student, files, top=args.top, batch_size=args.batch).to_json()
    found = {"workdir": args.workdir, "student": student.name, "run": student.run} | found
    if out is None:
        report.print_predictions(found)
    elif out.suffix == ".json":
        atomic.write_json(out, found)
    else:
        atomic.write(out, _csv(found))
    count, unread = len(found["predictions"]), len(found["unread"])
    left_out = f", {unread} could not be read" if unread else ""
    where = "" if out is None else f". Classes: {out}"
    print(f"{student.name}, {student.run}: {count} images{left_out}{where}", file=sys.stderr)
    return 0


def export(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Writes a trained student to a file that needs no kdjax."""
    no_more(overrides)
    out, platforms = Path(args.out), tuple(filter(None, args.platforms.split(",")))
    from kdjax import deploy

    try:
        deploy.check_export(out, platforms)
    except ValueError as error:  # The message begins with the argument's name: here, an option's.
        raise configuration.ConfigError(f"--{error}") from None
    student = deploy.load_student(
        args.workdir, args.student, seed=args.seed, checkpoint=args.checkpoint
    )
    deploy.export(student, out, platforms=platforms)
    print(
        f"{student.name}, {student.run}: {out} ({out.stat().st_size:,} bytes); what goes in and "
        f"comes out: {out}.json"
    )
    return 0


def _csv(found: dict[str, Any]) -> str:
    """Returns CSV with one line for each image and class, the likeliest class first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "probability"])
    for entry in found["predictions"]:
        for rank, one in enumerate(entry["classes"], start=1):
            writer.writerow([entry["image"], rank, one["class"], one["probability"]])
    return text.getvalue()


def _out(name: str, *endings: str) -> Path | None:
    """The file to write, checked before anything is computed.

    Raises:
      ConfigError: if the file has another ending, or there is no such directory.
    """
    if not name:
        return None
    path = Path(name)
    if path.suffix not in endings:
        raise configuration.ConfigError(f"--out is {name!r}: it must end in {' or '.join(endings)}")
    if not path.resolve().parent.is_dir():
        raise configuration.ConfigError(f"--out is {name!r}: there is no {path.parent}")
    return path
