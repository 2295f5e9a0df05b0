"""Mixup and cutmix: training images with parts of others, and labels alike, inside jit."""

import chex
import jax
import jax.numpy as jnp

from kdjax.data.batches import Batch


def mixed(
    batch: Batch,
    key: chex.PRNGKey,
    device: chex.Numeric,
    *,
    classes: int,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> Batch:
    """A batch in which every image is mixed with another real one of this device's share.

    The share of the own image is drawn from Beta(alpha, alpha), once for a step. With mixup it is
    that of every pixel, with cutmix that of the pixels outside of a box, whose sides have the
    proportions of the image and whose centre is any of its pixels; what lies beyond the image is
    not cut. With both, each step does one of them, each as often. Where the own share is below a
    half, the two images change places: what comes out is as likely as before, and the likeliest
    class is that of the example which keeps its place in the batch.

    Args:
      batch: one device's share, its labels integers. Padded rows stay as they are.
      key: of the step, equal on all devices.
      device: the number of this device, from 0.
      classes: how many there are.
      mixup: alpha; 0: no mixup.
      cutmix: alpha; 0: no cutmix.

    Returns:
      The batch with new images, and labels ``[batch, classes]`` float32, each a distribution.

    Raises:
      ValueError: if both alphas are 0, or one is below 0.

    References:
      Zhang, Cisse, Dauphin, Lopez-Paz, *mixup: Beyond Empirical Risk Minimization*, ICLR 2018;
      Yun et al., *CutMix*, ICCV 2019, section 3.1.
    """
    if min(mixup, cutmix) < 0 or max(mixup, cutmix) == 0:
        raise ValueError(f"mixup is {mixup} and cutmix {cutmix}: one above 0, none below")
    key_kind, key_mixup, key_cutmix, key_partner = jax.random.split(key, 4)
    size = batch.images.shape[1:3]
    kept = jnp.ones(size, jnp.float32)
    if mixup:
        kept *= jax.random.beta(key_mixup, mixup, mixup)
    if cutmix:
        outside = _outside_of_box(key_cutmix, cutmix, size)
        either = jax.random.bernoulli(key_kind) | (mixup == 0)
        kept = jnp.where(either, outside, kept)
    kept = jnp.where(jnp.mean(kept) < 0.5, 1.0 - kept, kept)
    share = jnp.mean(kept)
    partners = _partners(jax.random.fold_in(key_partner, device), batch.mask)
    pixels = kept[None, :, :, None]
    images = pixels * batch.images + (1.0 - pixels) * batch.images[partners]
    own = jax.nn.one_hot(batch.labels, classes)
    return batch._replace(images=images, labels=share * own + (1.0 - share) * own[partners])


def _outside_of_box(key: chex.PRNGKey, alpha: float, size: tuple[int, int]) -> chex.Array:
    """``[height, width]``: 0 in a box of a share of 1 - Beta(alpha, alpha) of the image, else 1."""
    key_share, *keys = jax.random.split(key, 3)
    part = jnp.sqrt(1.0 - jax.random.beta(key_share, alpha, alpha))

    def inside(key: chex.PRNGKey, length: int) -> chex.Array:
        side = jnp.floor(length * part)
        first = jax.random.randint(key, (), 0, length) - side // 2
        places = jnp.arange(length)
        return (places >= first) & (places < first + side)

    rows, columns = (inside(each, length) for each, length in zip(keys, size, strict=True))
    return 1.0 - (rows[:, None] & columns).astype(jnp.float32)


def _partners(key: chex.PRNGKey, mask: chex.Array) -> chex.Array:
    """``[batch]`` integers: a permutation of the real rows; padded rows are their own partners."""
    rows = jnp.arange(mask.shape[0])
    order = jnp.argsort(jnp.where(mask, jax.random.uniform(key, mask.shape), 2.0))
    return jnp.where(mask, order[jnp.cumsum(mask) - 1], rows)
