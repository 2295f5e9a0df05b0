"""The options of the commands that train, measure, plan and prepare."""

import argparse
import os


def add_task_options(command: argparse.ArgumentParser, default: str) -> None:
    """Adds the options of a command that trains; ``default`` is its default workdir."""
    command.add_argument(
        "--config",
        type=os.path.expanduser,
        default="",
        metavar="FILE.py[:ARG]",
        help="a Python file with get_config(), or the config.json of a workdir; default: a recipe "
        "for the embedded digits, or, if --config.data.name sets other data, the default of every "
        "field",
    )
    command.add_argument(
        "--workdir",
        type=os.path.expanduser,
        default="",
        metavar="DIR",
        help=f"where everything is written; default: {default}",
    )
    group = command.add_argument_group(
        "several processes", "detected automatically on TPU pods, under SLURM and Open MPI"
    )
    group.add_argument(
        "--coordinator",
        default="",
        metavar="HOST:PORT",
        help="address of the first process, the same for all processes; auto: ask the cluster",
    )
    group.add_argument(
        "--num_processes", type=int, default=0, metavar="N", help="number of processes"
    )
    group.add_argument(
        "--process_id", type=int, default=-1, metavar="I", help="index of this process, from 0"
    )


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word for word in text.split(",") if word)
    if not words:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return words


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers, such as 1,2") from None


def _size(text: str) -> tuple[int, int]:
    """Parses ``32`` or ``24x32`` to height and width."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, such as 32 or 24x32")
    return int(sides[0]), int(sides[-1])


def add_plan_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        type=os.path.expanduser,
        default="",
        metavar="FILE.py[:ARG]",
        help="a Python file with get_config(), or a workdir's config.json, as for train; default: "
        "the embedded digits",
    )
    for name, kind, metavar, meaning in (
        ("target", _words, "A,B", "what to compile for, such as h200,a100:4,v5e:2x2"),
        ("executions", _words, "A,B", "compare these in place of config.compute.execution"),
        ("batches", _numbers, "A,B", "compare these in place of config.batch_size"),
    ):
        command.add_argument(
            f"--{name}",
            type=kind,
            default=(),
            required=name == "target",
            metavar=metavar,
            help=meaning,
        )
    for name, meaning in (
        ("images", "number of training images, in colour, if the data is not on this machine"),
        ("image_size", "with --images: their height and width in pixels"),
        ("classes", "with --images: number of classes"),
    ):
        command.add_argument(f"--{name}", type=int, default=0, metavar="N", help=meaning)
    command.add_argument(
        "--out",
        type=os.path.expanduser,
        default="",
        metavar="FILE.json",
        help="also write all numbers to this file",
    )


def add_bench_options(command: argparse.ArgumentParser) -> None:
    for name, kind, default, meaning in (
        ("network", _words, "resnet8", "names of networks"),
        ("batch", _numbers, "64", "images per step, over all devices"),
        ("dtype", _words, "float32", "float32, bfloat16"),
        ("execution", _words, "", "strategies; default: auto,sequential,scanned"),
        ("devices", _numbers, "1", "numbers of devices"),
        ("students", _numbers, "5", "numbers of students"),
        ("remat", _numbers, "0", "1: compute blocks again in the backward pass"),
    ):
        text = f"{meaning}; default: {default}" if default else meaning
        command.add_argument(
            f"--{name}",
            type=kind,
            default=kind(default) if default else (),
            help=text,
            metavar="A,B",
        )
    for name, number, meaning in (
        ("rounds", 5, "measurements of each"),
        ("classes", 10, "classes of the generated images"),
        ("image_channels", 3, "with --layers: channels of the images, 1 or 3"),
    ):
        command.add_argument(
            f"--{name}", type=int, default=number, help=f"{meaning}; default: {number}"
        )
    command.add_argument(
        "--image_size",
        type=_size,
        default=(32, 32),
        metavar="N",
        help="size of the images in pixels; default: 32; with --layers also height x width: 24x32",
    )
    for name, meaning in (
        ("choose", "measure all executions, or those of --execution, and record the fastest"),
        ("cached", "use programs compiled earlier, as a second start does"),
        ("layers", "time each layer, for a search by latency; one network, batch and dtype"),
    ):
        command.add_argument(f"--{name}", action="store_true", help=meaning)
    command.add_argument(
        "--network_width",
        type=float,
        default=1.0,
        help="with --layers: factor of all widths; default: 1",
    )
    out = "default: kdjax-runs/bench.json, with --layers kdjax-runs/latency.json"
    command.add_argument(
        "--out", type=os.path.expanduser, default="", metavar="FILE.json", help=out
    )


def add_prepare_options(command: argparse.ArgumentParser) -> None:
    """Adds the options for the name of the data set and its directory."""
    command.add_argument("name", help="as in the TFDS catalogue: cifar10, svhn_cropped, ...")
    command.add_argument(
        "--data_dir",
        default="",
        metavar="DIR",
        help="where to write the set; default: $TFDS_DATA_DIR, else ~/tensorflow_datasets",
    )
