"""Texts with which every task announces what it will train, on which data and devices."""

from kdjax.train.devices import processes
from kdjax.train.tasks.experiment import Experiment


def data(experiment: Experiment) -> str:
    """Returns the dataset in words.

    For example ``digits: 300 train, 72 validation, 1,438 test images of 8 x 8 x 1, 10 classes``.
    """
    dataset = experiment.dataset
    height, width, channels = dataset.image_shape
    sizes = ", ".join(f"{size:,} {split}" for split, size in dataset.sizes.items())
    return (
        f"{dataset.name}: {sizes} images of {height} x {width} x {channels}, "
        f"{dataset.num_classes} classes"
    )


def epochs(number: int) -> str:
    """Returns a number of epochs in words, such as ``1 epoch`` or ``100 epochs``."""
    return _counted(number, "epoch")


def students(experiment: Experiment) -> str:
    """Returns the number of students in words, such as ``1 student`` or ``5 students``."""
    return _counted(len(experiment.student_widths), "student")


def devices(experiment: Experiment) -> str:
    """Returns the devices in words, such as ``8 TPU v5e devices of 2 processes``."""
    found, machines = experiment.parallel.devices, processes.count()
    text = _counted(len(found), f"{found[0].device_kind} device")
    return text + (f" of {machines} processes" if machines > 1 else "")


def seeds(experiment: Experiment) -> str:
    """Returns the seeds in words, such as ``seed 0`` or ``seeds 0, 1, 2``."""
    numbers = experiment.config.seeds
    return f"{'seed' if len(numbers) == 1 else 'seeds'} {', '.join(map(str, numbers))}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
