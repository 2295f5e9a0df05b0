"""Stratified, seeded splits."""

import numpy as np


def stratified(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Holds out the same fraction of every class, as nearly as possible.

    The held-out part has ``round(fraction * n)`` examples. The share of every class is first
    rounded down. The classes with the largest remainders then give one more example each.

    Args:
      labels: ``[n]`` integers.
      fraction: the share to hold out, in [0, 1).
      seed: decides which examples of a class are held out.

    Returns:
      ``(kept, held_out)``: sorted index arrays that partition ``range(n)``.
    """
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    exact = fraction * counts
    share = np.floor(exact).astype(int)
    extra = round(fraction * len(labels)) - share.sum()
    share[np.argsort(share - exact, kind="stable")[:extra]] += 1
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    held_out = np.concatenate(
        [shuffled[inverse[shuffled] == index][: share[index]] for index in range(len(classes))]
        or [np.empty(0, int)]
    )
    held_out = np.sort(held_out).astype(int)
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def few_per_class(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of ``count`` examples of each class, drawn at random.

    With the same seed, a larger ``count`` includes all examples of a smaller one.

    Args:
      labels: ``[n]`` integers.
      count: examples to take of each class that occurs.
      seed: decides which examples are drawn.

    Returns:
      ``[count * classes]`` integers, sorted.

    Raises:
      ValueError: if a class has fewer examples; the message names the class.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < count:
        scarce = counts.argmin()
        raise ValueError(
            f"class {classes[scarce]} (from 0) has {counts[scarce]} training examples, not {count}"
        )
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    taken = [shuffled[labels[shuffled] == one][:count] for one in classes]
    return np.sort(np.concatenate(taken))
