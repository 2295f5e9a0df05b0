"""Mixup and cutmix: mixes training images, and their labels, with others, inside jit."""

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
    """Returns a batch in which every image is mixed with a real one of the device's share.

    That one is drawn at random; now and then it is the image itself.

    An image's own share is drawn from Beta(alpha, alpha), once per step. Mixup weights every pixel
    of the image with this share. Cutmix keeps this share of the pixels: those outside a box. The
    box has the proportions of the image, its centre is any pixel of the image, and the part of it
    that lies beyond the image has no effect. If both alphas are above 0, each step uses mixup or
    cutmix with equal probability. If an image's own share is below a half, the two images are
    swapped. This does not change the probability of any mixed image, and the most likely class of
    a row is then that of the row's own example.

    Args:
      batch: one device's share of a batch, with integer labels. Padded rows stay as they are.
      key: the step's key, equal on all devices.
      device: the number of this device, from 0.
      classes: the number of classes.
      mixup: alpha of mixup; 0 means no mixup.
      cutmix: alpha of cutmix; 0 means no cutmix.

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
        kept *= jax.random.beta(key_mixup, mixup, mixup, dtype=jnp.float32)
    if cutmix:
        outside = _outside_of_box(key_cutmix, cutmix, size)
        either = jax.random.bernoulli(key_kind, jnp.float32(0.5)) | (mixup == 0)
        kept = jnp.where(either, outside, kept)
    kept = jnp.where(jnp.mean(kept) < 0.5, 1.0 - kept, kept)
    share = jnp.mean(kept)
    partners = _partners(jax.random.fold_in(key_partner, device), batch.mask)
    pixels = kept[None, :, :, None]
    images = pixels * batch.images + (1.0 - pixels) * batch.images[partners]
    own = jax.nn.one_hot(batch.labels, classes, dtype=jnp.float32)
    return batch._replace(images=images, labels=share * own + (1.0 - share) * own[partners])


def _outside_of_box(key: chex.PRNGKey, alpha: float, size: tuple[int, int]) -> chex.Array:
    """Returns ``[height, width]``: 0 inside a random box, else 1.

    The box, before it is cut off at the image's edges, has a share of 1 - Beta(alpha, alpha) of the
    image's area.
    """
    key_share, *keys = jax.random.split(key, 3)
    part = jnp.sqrt(1.0 - jax.random.beta(key_share, alpha, alpha, dtype=jnp.float32))

    def inside(key: chex.PRNGKey, length: int) -> chex.Array:
        side = jnp.floor(length * part)
        first = jax.random.randint(key, (), 0, length, jnp.int32) - side // 2
        places = jnp.arange(length)
        return (places >= first) & (places < first + side)

    rows, columns = (inside(each, length) for each, length in zip(keys, size, strict=True))
    return 1.0 - (rows[:, None] & columns).astype(jnp.float32)


def _partners(key: chex.PRNGKey, mask: chex.Array) -> chex.Array:
    """A permutation of the real rows, ``[batch]`` integers; padded rows stay where they are."""
    rows = jnp.arange(mask.shape[0])
    order = jnp.argsort(jnp.where(mask, jax.random.uniform(key, mask.shape, jnp.float32), 2.0))
    return jnp.where(mask, order[jnp.cumsum(mask) - 1], rows)
