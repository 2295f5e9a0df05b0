"""Mixup and cutmix, compared with the same arithmetic in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.data.batches import Batch
from kdjax.data.mixing import mixed

CLASSES, SIZE = 40, 12
RNG = np.random.default_rng(0)
MASK = np.array([True] * 9 + [False] * 3)
# Every example has its own class, so that the labels show which two images were mixed.
BATCH = Batch(
    jnp.asarray(RNG.normal(size=(SIZE, 8, 10, 3)), jnp.float32),
    jnp.arange(SIZE) * 3,
    jnp.asarray(MASK),
    jnp.arange(SIZE),
)
KEYS = [jax.random.fold_in(jax.random.key(0), step) for step in range(40)]


def of_steps(device=0, batch=BATCH, **alphas):
    """Returns the mixed batches of many steps, as NumPy arrays."""
    mix = jax.jit(lambda key: mixed(batch, key, device, classes=CLASSES, **alphas))
    return [jax.tree.map(np.asarray, mix(key)) for key in KEYS]


def share_and_partners(batch):
    """Returns the mixed rows' own shares and each row's partner, read from the labels."""
    own = batch.labels[np.arange(SIZE), np.arange(SIZE) * 3]
    rest = batch.labels.copy()
    rest[np.arange(SIZE), np.arange(SIZE) * 3] = 0
    partners = np.where(rest.max(1) > 1e-6, rest.argmax(1) // 3, np.arange(SIZE))
    return own[partners != np.arange(SIZE)], partners


def test_mixing_does_not_depend_on_64_bit_mode():
    alphas = {"mixup": 0.4, "cutmix": 1.0}
    expected = of_steps(**alphas)
    with jax.enable_x64(True):
        found = of_steps(**alphas)
    for ours, theirs in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-6)


@pytest.mark.parametrize("alphas", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_images_and_labels_are_mixed_in_the_same_shares(alphas):
    images = np.asarray(BATCH.images, np.float64)
    kinds = set()
    for batch in of_steps(**alphas):
        own, partners = share_and_partners(batch)
        np.testing.assert_allclose(batch.labels.sum(1), 1, rtol=1e-6)
        np.testing.assert_array_equal(batch.labels.argmax(1), np.arange(SIZE) * 3)
        assert sorted(partners) == list(range(SIZE))
        np.testing.assert_array_equal(partners[~MASK], np.arange(SIZE)[~MASK])
        np.testing.assert_allclose(batch.images[~MASK], BATCH.images[~MASK], rtol=1e-5)
        if not len(own):  # A box without pixels, or a share of 1.
            continue
        share = own[0]
        assert 0.5 <= share < 1
        np.testing.assert_allclose(own, share, rtol=1e-6)
        np.testing.assert_array_equal(batch.indices, BATCH.indices)
        between = share * images + (1 - share) * images[partners]
        if np.allclose(batch.images, between, atol=1e-5):
            kinds.add("mixup")
            continue
        kinds.add("cutmix")
        # Each pixel is the row's own or its partner's. The partner's pixels are the same positions
        # in all rows: a box, or everything outside it.
        taken = (batch.images == images[partners].astype(np.float32)).all(-1)
        mixed_rows = partners != np.arange(SIZE)
        assert (taken | (batch.images == np.asarray(BATCH.images)).all(-1)).all()
        other = taken[mixed_rows]
        assert (other == other[0]).all()
        np.testing.assert_allclose(1 - other[0].mean(), share, rtol=1e-6)
        boxes = [
            np.array_equal(region, region.any(1)[:, None] & region.any(0))
            for region in (other[0], ~other[0])
        ]
        assert any(boxes)
    assert kinds == set(alphas)


def test_shares_are_those_of_the_beta_distribution():
    keys = jax.random.split(jax.random.key(1), 2000)
    labels = jax.vmap(lambda key: mixed(BATCH, key, 0, classes=CLASSES, mixup=1.0).labels[:1])(keys)
    own = np.asarray(labels)[:, 0, 0]
    # Beta(1, 1) is uniform. The larger of a share and 1 - share has mean .75. 1 of 9 rows is its
    # own partner.
    expected = 8 / 9 * 0.75 + 1 / 9
    assert own.mean() == pytest.approx(expected, abs=0.012)


def test_devices_have_partners_of_their_own_but_one_share():
    first, second = (of_steps(device, mixup=1.0) for device in (0, 1))
    shares, others = zip(*[share_and_partners(batch) for batch in (*first, *second)], strict=True)
    shares = [share[0] for share in shares]
    np.testing.assert_allclose(shares[: len(KEYS)], shares[len(KEYS) :], rtol=1e-6)
    assert any(
        np.any(a != b) for a, b in zip(others[: len(KEYS)], others[len(KEYS) :], strict=True)
    )


def test_padding_changes_nothing():
    compact = jax.tree.map(lambda leaf: leaf[:9], BATCH)
    for key in KEYS[:5]:
        padded = mixed(BATCH, key, 0, classes=CLASSES, mixup=1.0)
        alone = mixed(compact, key, 0, classes=CLASSES, mixup=1.0)
        np.testing.assert_array_equal(padded.images[:9], alone.images)
        np.testing.assert_array_equal(padded.labels[:9], alone.labels)


@pytest.mark.parametrize("alphas", [{}, {"mixup": -1.0, "cutmix": 1.0}])
def test_wrong_alphas_are_refused(alphas):
    with pytest.raises(ValueError, match="one above 0, none below"):
        mixed(BATCH, KEYS[0], 0, classes=CLASSES, **alphas)
