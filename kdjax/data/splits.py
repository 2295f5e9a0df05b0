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
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    exact = fraction * counts
    share = np.floor(exact).astype(int)
    extra = round(fraction * len(labels)) - share.sum()
    share[np.argsort(share - exact, kind="stable")[:extra]] += 1
    held_out = np.zeros(len(labels), bool)
    held_out[_drawn(inverse, counts, share, seed)] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


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
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.min() < count:
        scarce = counts.argmin()
        raise ValueError(
            f"class {classes[scarce]} (from 0) has {counts[scarce]} training examples, not {count}"
        )
    return np.sort(_drawn(inverse, counts, np.full(len(classes), count), seed))


def _drawn(classes: np.ndarray, counts: np.ndarray, share: np.ndarray, seed: int) -> np.ndarray:
    """Draws ``share`` examples of each class at random; takes one sort for all classes.

    Args:
      classes: ``[n]`` integers, the class of each example, from 0.
      counts: ``[classes]`` integers, how many examples each class has.
      share: ``[classes]`` integers, how many to draw.
      seed: decides which.

    Returns:
      The examples' indices, class by class.
    """
    shuffled = np.random.default_rng(seed).permutation(len(classes))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    place_in_class = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return by_class[place_in_class < np.repeat(share, counts)]
