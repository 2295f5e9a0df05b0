"""Computes the results of an evaluation on the host, from labels and the likeliest classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.statistics import deviation, half_width

# With this many classes or fewer, top-5 accuracy says little.
_FEW = 10


def of_run(labels: np.ndarray, ranks: np.ndarray, classes: int) -> dict[str, Any]:
    """Returns the accuracies and the confusion matrix of one network, as JSON.

    Args:
      labels: ``[n]`` integers.
      ranks: ``[n, top]`` the likeliest classes, the likeliest first.
      classes: how many there are.

    Returns:
      ``accuracy``; ``top5``, None with up to 10 classes; ``class_accuracy`` ``[classes]``, None for
      a class without examples; ``confusion`` ``[true][predicted]``, counts.
    """
    from sklearn.metrics import confusion_matrix

    confusion = confusion_matrix(labels, ranks[:, 0], labels=np.arange(classes))
    right, counts = np.diag(confusion), confusion.sum(axis=1)
    top5 = float(np.mean(np.any(ranks[:, :5] == labels[:, None], axis=1)))
    return {
        "accuracy": float(right.sum() / len(labels)),
        "top5": top5 if classes > _FEW else None,
        "class_accuracy": [
            float(hits / count) if count else None
            for hits, count in zip(right, counts, strict=True)
        ],
        "confusion": confusion.tolist(),
    }


def mean_of_runs(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns means over runs of what :func:`of_run` returned, with deviations and half intervals.

    The deviations are sample deviations. The half intervals are half the widths of 95 % intervals
    over the runs. Both are None for a single run. The counts of ``confusion`` are added up.
    """
    found: dict[str, Any] = {}
    for name in ("accuracy", "top5"):
        values = [run[name] for run in runs]
        known = values[0] is not None
        found[name] = float(np.mean(values)) if known else None
        found[f"{name}_std"] = deviation(values) if known else None
        found[f"{name}_half_width"] = half_width(values) if known else None
    by_class = zip(*(run["class_accuracy"] for run in runs), strict=True)
    found["class_accuracy"] = [
        None if values[0] is None else float(np.mean(values)) for values in by_class
    ]
    found["confusion"] = np.sum([run["confusion"] for run in runs], axis=0).tolist()
    small = ("run", "seed", "step", "accuracy", "top5")
    found["runs"] = [{name: run[name] for name in small} for run in runs]
    return found
