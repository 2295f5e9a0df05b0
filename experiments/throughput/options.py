"""The options that define the training job; all programs in this folder share them."""

import argparse

SCALES = (1.0, 0.8, 0.6, 0.4, 0.2)


def add_job(parser: argparse.ArgumentParser) -> None:
    """Adds the options that both kinds of worker understand."""
    parser.add_argument("--network", default="resnet8", help="a CIFAR ResNet")
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    parser.add_argument("--image_size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument(
        "--students", type=int, default=5, help=f"how many, of scales {SCALES}; at most 5"
    )
    parser.add_argument("--scales", default="", help="their scales instead, with commas between")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))


def student_scales(chosen: argparse.Namespace) -> tuple[float, ...]:
    """Returns one width factor per student."""
    if chosen.scales:
        return tuple(float(scale) for scale in chosen.scales.split(","))
    return SCALES[: chosen.students]


def job(chosen: argparse.Namespace) -> dict[str, object]:
    """Returns the values of the options that :func:`add_job` added, by name."""
    names = ("network", "batch", "image_size", "classes", "students", "scales", "dtype")
    return {name: getattr(chosen, name) for name in names}
