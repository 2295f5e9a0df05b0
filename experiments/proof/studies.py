"""The studies and their rows, which are fixed before they are trained."""

import dataclasses
from collections.abc import Mapping

from rows import (
    ALONE,
    ONLINE,
    PAPER,
    RULES,
    STEM,
    STRONG_DIGITS,
    Overrides,
    Row,
    ablation,
    searched,
)


@dataclasses.dataclass(frozen=True)
class Study:
    """A question that is answered by rows on one data set with one recipe.

    Attributes:
      question: the question in words.
      config: task -> its file under configs/.
      recipe: task -> overrides that all rows of the task share.
      rows: rows by name; a row comes after the rows that it needs.
      seeds: how many seeds are planned; they count from 0.
      one_run: whether one run trains all seeds of a row, because seeds are quick.
      baselines: the study that has the baseline rows; empty: this study.
      reference: a row of the baselines' study that all rows are also compared with: a control, or
        the row that the others change.
    """

    question: str
    config: Mapping[str, str]
    recipe: Mapping[str, Overrides]
    rows: Mapping[str, Row]
    seeds: int
    one_run: bool = False
    baselines: str = ""
    reference: str = ""


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
_QUIET: Overrides = {"log.tensorboard": False}
_TEACHER: Overrides = {"teacher.epochs": 60, "search.epochs": 30, "distil.epochs": 60}
_FEW_DIGITS: Overrides = {
    "data.test": 0.8,
    "data.validation": 0.3,
    "data.labels_per_class": 20,
    "batch_size": 32,
}
_HALF_AND_QUARTER = searched(
    {
        "half": ("searched at half the FLOPs", {"search.target.flops": 0.5}),
        "quarter": ("searched at a quarter of the FLOPs", {"search.target.flops": 0.25}),
    }
)
_RESNET8_SEARCH: Overrides = {
    **_QUIET,
    "network": "resnet8",
    "batch_size": 64,
    "teacher.epochs": 30,
    "search.epochs": 15,
    "distil.epochs": 30,
    "evaluation.every_epochs": 15,
    "data.labels_per_class": 250,
}
_SEARCHES = {"search": "search_cifar10_resnet56.py", "train": "cifar10_resnet20.py"}

STUDIES: Mapping[str, Study] = {
    "cifar10_5000": Study(
        "Does the online ensemble help where labels are few, and whom?",
        {"train": "cifar10_resnet20.py"},
        {"train": {**_RESNET8, "data.labels_per_class": 500, "epochs": 60}},
        ONLINE,
        3,
        reference="stem",
    ),
    "digits_rules": Study(
        "Who should teach whom, on the embedded digits?",
        {"train": "digits.py"},
        {"train": _QUIET},
        {
            "alone": ALONE,
            "stem": STEM,
            "strong": STRONG_DIGITS,
            **RULES,
        },
        6,
        one_run=True,
        reference="stem",
    ),
    "digits_ablation": Study(
        "Which part of it, on the embedded digits?",
        {"train": "digits.py"},
        {"train": _QUIET},
        {
            "paper": ONLINE["paper"],
            "paper_ramped": Row(
                "the paper's weights, the feature term ramped up",
                {**PAPER, "weight_ramp.feature": "cosine"},
            ),
            "paper_logits": Row(
                "the paper's weights, no feature term", {**PAPER, "weights.feature": 0.0}
            ),
            **ablation(
                STRONG_DIGITS, {2: "(.62, .38)", 3: "(.47, .29, .24)", 4: "(.42, .26, .21, .11)"}
            ),
        },
        6,
        one_run=True,
        baselines="digits_rules",
        reference="strong",
    ),
    "digits_long": Study(
        "And in four times as many epochs?",
        {"train": "digits.py"},
        {"train": {**_QUIET, "epochs": 400}},
        {
            "alone": ALONE,
            "strong": STRONG_DIGITS,
            "paper": ONLINE["paper"],
        },
        6,
        one_run=True,
    ),
    "digits_searched": Study(
        "Does the searched structure help, and both methods together, on the embedded digits?",
        {"search": "search_digits.py", "train": "digits.py"},
        {
            "search": {
                **_QUIET,
                **_FEW_DIGITS,
                "evaluation.every_epochs": 20,
                "teacher.epochs": 100,
                "search.epochs": 60,
                "distil.epochs": 100,
            },
            "train": _QUIET,
        },
        searched(
            {
                "half": ("searched at half the parameters", {"search.target.params": 0.5}),
                "quarter": ("searched at a quarter", {"search.target.params": 0.25}),
                "tenth": ("searched at a tenth", {"search.target.params": 0.1}),
            }
        ),
        5,
    ),
    "cifar10_50000": Study(
        "And with all 45,000 labels outside validation?",
        {"train": "cifar10_resnet20.py"},
        # At half width a row takes less than two hours on one core.
        {"train": {**_RESNET8, "network_width": 0.5, "epochs": 30}},
        {**ONLINE, "gate": RULES["gate"]},
        1,
        reference="stem",
    ),
    "cifar10_50000_full_width": Study(
        "And with all 45,000 labels and full-width networks?",
        {"train": "cifar10_resnet20.py"},
        # A row takes two to four hours on one core.
        {"train": {**_RESNET8, "epochs": 30}},
        {**{name: ONLINE[name] for name in ("alone", "strong", "stem")}, "gate": RULES["gate"]},
        1,
        reference="stem",
    ),
    "tin100a_10000": Study(
        "And with 100 classes and few labels?",
        {"train": "tin100a_resnet20.py"},
        # As many steps as in cifar10_5000.
        {"train": {**_RESNET8, "data.labels_per_class": 100, "epochs": 30}},
        {
            **{name: ONLINE[name] for name in ("alone", "strong", "stem", "soft")},
            "gate": RULES["gate"],
        },
        3,
        reference="stem",
    ),
    "tin100a": Study(
        "And with 100 classes and all 45,000 labels outside validation?",
        {"train": "tin100a_resnet20.py"},
        {"train": {**_RESNET8, "epochs": 30}},
        {name: ONLINE[name] for name in ("alone", "strong", "soft", "stem")},
        1,
        reference="stem",
    ),
    "cifar10_ablation": Study(
        "Which part of it?",
        {"train": "cifar10_resnet20.py"},
        {"train": {**_RESNET8, "data.labels_per_class": 500, "epochs": 60}},
        {
            **ablation(
                ONLINE["strong"], {2: "(.67, .33)", 3: "(.56, .28, .16)", 4: "(.5, .27, .16, .07)"}
            ),
            **{name: row for name, row in RULES.items() if name != "average"},
        },
        1,
        baselines="cifar10_5000",
        reference="strong",
    ),
    "cifar10_rules": Study(
        "Who should teach whom, on CIFAR-10 with few labels?",
        {"train": "cifar10_resnet20.py"},
        {
            "train": {
                **_RESNET8,
                "network_width": 0.5,
                "data.labels_per_class": 250,
                "epochs": 30,
            }
        },
        {"alone": ALONE, "stem": STEM, "strong": ONLINE["strong"], **RULES},
        3,
        reference="stem",
    ),
    "cifar10_distill": Study(
        "What is a fixed teacher worth?",
        {"distill": "distill_cifar100.py"},
        {
            "distill": {
                "data.name": "cifar10",
                "data.labels_per_class": 500,
                "data.validation": 0.1,
                "teacher.network": "resnet20",
                "network": "resnet8",
                "teacher.epochs": 30,
                "epochs": 30,
                "log.tensorboard": False,
            }
        },
        {
            name: Row(what, overrides, "distill", "the student alone")
            for name, what, overrides in (
                ("soft", "ResNet20 > ResNet8, plain distillation", {}),
                (
                    "dkd",
                    "the same, DKD",
                    {"weights.hard": 1.0, "weights.soft": 0.0, "weights.dkd": 1.0},
                ),
            )
        },
        3,
        one_run=True,
    ),
    "cifar10_searched": Study(
        "Does the searched structure help, and both methods together?",
        _SEARCHES,
        {
            "search": {
                **_QUIET,
                "network": "resnet20",
                "batch_size": 64,
                **_TEACHER,
                "data.labels_per_class": 500,
            },
            "train": {
                **_RESNET8,
                "network": "resnet20",
                "data.labels_per_class": 500,
                "epochs": 60,
            },
        },
        _HALF_AND_QUARTER,
        3,
    ),
    "cifar10_searched_resnet8": Study(
        "The same with a small network and few labels",
        _SEARCHES,
        {
            "search": _RESNET8_SEARCH,
            "train": {**_RESNET8, "data.labels_per_class": 250, "epochs": 30},
        },
        {
            **_HALF_AND_QUARTER,
            # The first search finds a network with more FLOPs than the uniform one; the second
            # limits FLOPs too.
            **{
                name: Row(
                    f"searched at a tenth of the {words}",
                    {"search.target.flops": flops, "search.target.params": 0.1},
                    "search",
                    "uniform network of equal cost",
                )
                for name, words, flops in (
                    ("tenth", "parameters", 0.0),
                    ("tenth_of_both", "parameters and FLOPs", 0.1),
                )
            },
        },
        3,
    ),
    "cifar10_searched_again": Study(
        "The searches at a quarter once more; the students above have the widths found here",
        _SEARCHES,
        {"search": _RESNET8_SEARCH},
        {"quarter": _HALF_AND_QUARTER["quarter"]},
        3,
    ),
    "digits_searched_mobilenet_v2": Study(
        "And the second paper's network and budget, on the embedded digits?",
        {"search": "search_digits.py"},
        {
            # The learning rate was chosen on a validation split, where it gives this network 97 %.
            "search": {
                **_QUIET,
                "network": "mobilenet_v2",
                "network_width": 0.35,
                "data.test": 0.5,
                "data.validation": 0.2,
                "batch_size": 32,
                "schedule.learning_rate": 0.05,
                "evaluation.every_epochs": 20,
                "teacher.epochs": 60,
                "search.epochs": 40,
                "distil.epochs": 60,
            }
        },
        {
            "both_targets": Row(
                "half the FLOPs and 5.2 times fewer parameters",
                {"search.target.flops": 0.5, "search.target.params": 1 / 5.2},
                "search",
                "uniform network of equal cost",
            )
        },
        6,
    ),
    "cifar10_searched_mobilenet_v2": Study(
        "And in the second paper's own setting? Meant for an accelerator",
        {"search": "search_cifar10_mobilenet_v2.py"},
        {"search": {**_LONG, **_TEACHER}},
        {
            "both_targets": Row(
                "half the FLOPs and 5.2 times fewer parameters",
                {},
                "search",
                "uniform network of equal cost",
            )
        },
        1,
    ),
    "cifar10_resnet20": Study(
        "Does it help at the paper's size, for 100 epochs? Meant for an accelerator",
        {"train": "cifar10_resnet20.py"},
        {"train": {**_LONG, "epochs": 100}},
        ONLINE,
        3,
        reference="stem",
    ),
    "tin100a_resnet110": Study(
        "And the paper's headline, a deep network and 100 classes? Meant for an accelerator",
        {"train": "tin100a_resnet110.py"},
        {"train": {**_LONG, "epochs": 100}},
        {name: ONLINE[name] for name in ("alone", "strong", "paper")},
        1,
    ),
}
