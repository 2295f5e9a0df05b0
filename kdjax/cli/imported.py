"""The command that takes parameters trained elsewhere: `import-torch`."""

import argparse
import os
from collections.abc import Sequence

from kdjax import config as configuration
from kdjax.cli.configs import read_config


def add_import_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `kdjax import-torch`."""
    command.add_argument(
        "--weights",
        type=os.path.expanduser,
        required=True,
        metavar="FILE",
        help="a state_dict with torchvision's names: a file.npz or file.safetensors",
    )
    command.add_argument(
        "--workdir",
        type=os.path.expanduser,
        required=True,
        metavar="DIR",
        help="where everything is written; new or empty",
    )
    command.add_argument(
        "--config",
        type=os.path.expanduser,
        default="",
        metavar="FILE.py[:ARG]",
        help="a Python file with get_config() for `kdjax train`; the file and the overrides set "
        "the network, the data and how both are used; without it, config.network_width is 1.0",
    )
    command.add_argument(
        "--new_classifier",
        action="store_true",
        help="initialise a new classifier, for data with other classes",
    )


def import_torch(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Writes a workdir from a file of tensors, and prints what the workdir contains."""
    # The recipe for the embedded digits, used without --config, has a narrow network.
    full = [] if args.config else ["--config.network_width=1.0"]
    config = read_config(args.config, [*full, *overrides])
    configuration.validate(config)
    from kdjax.train.tasks.imported import import_network

    found = import_network(config, args.workdir, args.weights, new_classifier=args.new_classifier)
    height, width, channels = found["image_shape"]
    classifier = ", its classifier initialised anew" if args.new_classifier else ""
    print(
        f"{found['network']} from {args.weights}: {found['params']:,} parameters{classifier}\n"
        f"for {found['dataset']}: images of {height} x {width} x {channels}, {found['classes']} "
        f"classes, in the order of the data; normalised with mean {_numbers(found['mean'])}, "
        f"deviation {_numbers(found['std'])}\n"
        f"Network: {args.workdir} (as a teacher: kdjax search "
        f"--config.teacher.workdir={args.workdir})"
    )
    return 0


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
