"""The configurations that the commands use without ``--config``: recipes for the embedded digits.

This data set is small and easy, so with all labels and all parameters there would be little to
gain. Therefore `train` and `distill` get few labels and `search` few parameters. The settings were
chosen on validation splits of other split seeds. Those splits share images with the test splits
used here (experiments/digits, search_digits and distill say how many).
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from kdjax.config.tasks import Task, default_of

# 20 labels of each class are for training, and four fifths of the data set for testing.
_FEW_LABELS: Mapping[str, Any] = {
    "seeds": (0, 1, 2, 3, 4, 5),
    "network_width": 0.625,
    "data.test": 0.8,
    "data.validation": 0.3,
    "data.labels_per_class": 20,
    "batch_size": 32,
    "epochs": 100,
    "weights.hard": 1.0,
    "weights.feature": 0.0,
    "weights.soft": 1.0,
    "teacher_weights": (0.4, 0.25, 0.2, 0.1, 0.05),
    "evaluation.every_epochs": 20,
    "checkpoint.every_epochs": 50,
}
# If only a tenth of the parameters is kept, it matters which channels these are.
_FEW_PARAMETERS: Mapping[str, Any] = {
    "seeds": (0, 1, 2, 3, 4, 5, 6),
    "network_width": 0.625,
    "search.target.flops": 0.0,
    "search.target.params": 0.1,
    "evaluation.every_epochs": 10,
    "checkpoint.every_epochs": 10,
}

# A thin student of one family learns from a wider and deeper teacher of another.
_ANOTHER_FAMILY: Mapping[str, Any] = {
    "seeds": (0, 1, 2, 3, 4, 5, 6),
    "network": "resnet8",
    "network_width": 0.25,
    "data.test": 0.8,
    "data.validation": 0.3,
    "data.labels_per_class": 20,
    "teacher.network": "wrn_16_2",
    "teacher.network_width": 0.5,
    "teacher.epochs": 100,
    "batch_size": 32,
    "epochs": 150,
    "schedule.learning_rate": 0.05,
    "weights.hard": 0.1,
    "weights.soft": 0.9,
    "evaluation.every_epochs": 25,
    "checkpoint.every_epochs": 50,
}


def first_run(task: Task) -> ml_collections.ConfigDict:
    """The configuration of a command without ``--config``."""
    changes = {
        "train": _FEW_LABELS,
        "search": _FEW_PARAMETERS,
        "distill": _ANOTHER_FAMILY,
    }
    made = default_of(task)
    made.update_from_flattened_dict(changes[task])
    return made
