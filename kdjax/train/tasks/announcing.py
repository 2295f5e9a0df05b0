"""What is about to be trained, on what and where: the words that every task begins with."""

from kdjax.train.devices import processes
from kdjax.train.tasks.experiment import Experiment


def data(experiment: Experiment) -> str:
    """``digits: 300 train, 72 validation, 1,438 test images of 8 x 8 x 1, 10 classes``."""
    dataset = experiment.dataset
    height, width, channels = dataset.image_shape
    sizes = ", ".join(f"{size:,} {split}" for split, size in dataset.sizes.items())
    return (
        f"{dataset.name}: {sizes} images of {height} x {width} x {channels}, "
        f"{dataset.num_classes} classes"
    )


def epochs(number: int) -> str:
    """``1 epoch``, ``100 epochs``."""
    return _counted(number, "epoch")


def students(experiment: Experiment) -> str:
    """``1 student``, ``5 students``."""
    return _counted(len(experiment.student_widths), "student")


def devices(experiment: Experiment) -> str:
    """``8 TPU v5e devices of 2 processes``."""
    found, machines = experiment.parallel.devices, processes.count()
    text = _counted(len(found), f"{found[0].device_kind} device")
    return text + (f" of {machines} processes" if machines > 1 else "")


def seeds(experiment: Experiment) -> str:
    """``seed 0``, ``seeds 0, 1, 2``."""
    numbers = experiment.config.seeds
    return f"{'seed' if len(numbers) == 1 else 'seeds'} {', '.join(map(str, numbers))}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
