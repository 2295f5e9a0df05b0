"""The built-in dataset: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, 10 classes."""

import numpy as np

from kdjax.data.dataset import RawSet, Split


def read() -> RawSet:
    """Returns all images as ``train``, with pixel values scaled from 0..16 to 0..255.

    The test split is held out of them later.

    References:
      Kaynak, *Methods of Combining Multiple Classifiers and Their Applications to Handwritten
      Digit Recognition*, 1995; UCI repository, optical recognition of handwritten digits.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    whole = Split(images, bunch.target.astype(np.int32))
    return RawSet({"train": whole}, tuple(str(digit) for digit in range(10)))
