"""The embedded set: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, 10 classes."""

import numpy as np

from kdjax.data.dataset import RawSet, Split
from kdjax.data.splits import stratified

# The split belongs to the set, so that every result on it is measured on the same test images.
_TEST_FRACTION = 0.2
_SPLIT_SEED = 0


def read() -> RawSet:
    """1,438 training and 359 test images, stratified; pixel values 0..16 become 0..255.

    References:
      Kaynak, *Methods of Combining Multiple Classifiers and Their Applications to Handwritten
      Digit Recognition*, 1995; UCI repository, optical recognition of handwritten digits.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    whole = Split(images, bunch.target.astype(np.int32))
    train, test = stratified(whole.labels, _TEST_FRACTION, _SPLIT_SEED)
    splits = {"train": whole.take(train), "test": whole.take(test)}
    return RawSet(splits, tuple(str(digit) for digit in range(10)))
