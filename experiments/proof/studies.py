"""What is measured: studies, and the rows of each, fixed before anything was trained.

A row is a set of overrides of one recipe. The row ``alone`` trains the students each by itself; all
other rows are ensembles, and are compared with it seed by seed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

Overrides = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Study:
    """A question that is answered by rows on one data set with one recipe.

    Attributes:
      question: what is asked.
      config: file under configs/.
      recipe: overrides that all rows share.
      rows: name -> (what it is, overrides).
      seeds: how many seeds are meant, from 0.
    """

    question: str
    config: str
    recipe: Overrides
    rows: Mapping[str, tuple[str, Overrides]]
    seeds: int


_ALONE = ("each student by itself", {"method": "independent"})
_WHOLE = {"method": "ensemble", "weights.hard": 1.0, "weights.soft": 1.0, "weights.feature": 0.0}
_ONLINE: Mapping[str, tuple[str, Overrides]] = {
    "alone": _ALONE,
    "strong": (
        "labels and soft targets at full weight, teacher weights .5 .25 .15 .07 .03",
        {**_WHOLE, "teacher_weights": "(.5, .25, .15, .07, .03)"},
    ),
    "soft": ("labels and soft targets at full weight, plain average", _WHOLE),
    "stem": ("control: a shared stem, labels alone", {**_WHOLE, "weights.soft": 0.0}),
    "paper": ("the paper's weights .7 .15 .15", {"method": "ensemble"}),
    "feature": ("as soft, with the feature term at .15", {**_WHOLE, "weights.feature": 0.15}),
}
_RESNET8: Overrides = {
    "network": "resnet8",
    "batch_size": 64,
    "schedule.name": "cosine",
    "schedule.warmup_epochs": 1.0,
    "evaluation.every_epochs": 15,
    "checkpoint.every_epochs": 10,
    "log.tensorboard": False,
}
_LONG: Overrides = {
    "compute.dtype": "bfloat16",
    "evaluation.every_epochs": 10,
    "checkpoint.every_epochs": 5,
    "log.tensorboard": False,
}

STUDIES: Mapping[str, Study] = {
    "cifar10_5000": Study(
        "Does the online ensemble help where labels are few, and whom?",
        "cifar10_resnet20.py",
        {**_RESNET8, "data.labels_per_class": 500, "epochs": 60},
        _ONLINE,
        3,
    ),
    "cifar10_50000": Study(
        "And with all labels?",
        "cifar10_resnet20.py",
        {**_RESNET8, "epochs": 30},
        _ONLINE,
        1,
    ),
    "cifar10_resnet20": Study(
        "And at the paper's size, for 100 epochs? Meant for an accelerator",
        "cifar10_resnet20.py",
        {**_LONG, "epochs": 100},
        _ONLINE,
        3,
    ),
    "tin100a_resnet110": Study(
        "And the paper's headline, a deep network and 100 classes? Meant for an accelerator",
        "tin100a_resnet110.py",
        {**_LONG, "epochs": 100},
        {name: _ONLINE[name] for name in ("alone", "strong", "paper")},
        1,
    ),
    "tin100a": Study(
        "And with 100 classes?",
        "tin100a_resnet20.py",
        {**_RESNET8, "epochs": 30},
        {name: _ONLINE[name] for name in ("alone", "strong", "soft", "stem")},
        1,
    ),
}
