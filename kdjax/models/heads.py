"""The last layers that most families share: global average pooling and a dense layer."""

import chex
import flax.linen as nn
import jax.numpy as jnp


def pooled_logits(x: chex.Array, num_classes: int, dtype: chex.ArrayDType) -> chex.Array:
    """The logits computed from a map's means by a dense layer of the calling module.

    It must be called in a compact ``__call__``.

    Args:
      x: ``[batch, height, width, channels]``.
      num_classes: outputs of the layer, which is named ``classifier``.
      dtype: the dtype of the layer's computation; the means are float32.

    Returns:
      ``[batch, num_classes]`` float32.
    """
    pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    logits = nn.Dense(num_classes, dtype=dtype, name="classifier")(pooled)
    return logits.astype(jnp.float32)
