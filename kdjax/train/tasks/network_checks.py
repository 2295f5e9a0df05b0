"""Checks of networks: that a user-written one is what it says, and that losses find their maps."""

import contextlib
import itertools
from typing import Any

import chex
import flax.errors
import jax
import ml_collections
import numpy as np

from kdjax import config as configuration
from kdjax import models, tracing
from kdjax.config import ConfigError
from kdjax.models.initialize import start_of, variable_shapes
from kdjax.train.program.methods.method import apply_training

_FEW = 4  # Rows of a batch: two real ones and two of padding.
_TOLERANCE = 1e-4  # Relative to the largest value; float32 rounding stays far below.


def check_own(
    architecture: models.Architecture,
    image_shape: tuple[int, int, int],
    *,
    rows: int,
    padded: bool,
) -> None:
    """Checks that the modules of a user-written network do what its architecture says.

    Args:
      architecture: the network.
      image_shape: (height, width, channels) of the images.
      rows: images of one device in a training step.
      padded: whether an epoch has a batch with padded rows.

    Raises:
      ValueError: if it cannot be built or initialised, a width is used by no layer, it returns
        other numbers of logits or feature maps than its architecture says, it draws random numbers
        although its architecture does not say so, or padded rows change other rows' results.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    try:
        net = architecture.build()
        start_of(net, image_shape)
        outputs = jax.eval_shape(net.init_with_output, jax.random.key(0), images)
        maps = tracing.trace_architecture(architecture, image_shape).maps
    except (NotImplementedError, ValueError) as error:  # The message says what to do.
        raise ValueError(str(error)) from error
    except Exception as error:  # User-written modules may raise anything.
        text = f"{type(error).__name__}: {error}"
        raise ValueError(f"{architecture.name} cannot be built: {text}") from error
    if (found := outputs[0].logits.shape[-1]) != architecture.num_classes:
        raise ValueError(
            f"{architecture.name} returns {found} logits: expected one for each of the "
            f"{architecture.num_classes} classes"
        )
    if len(maps) != len(architecture.blocks):
        raise ValueError(
            f"{architecture.name} has {len(architecture.blocks)} blocks "
            f"({', '.join(architecture.blocks)}), and its branch returns {len(maps)} feature maps: "
            "expected one after each block"
        )
    if wrong := [output.shape for output in outputs[0].features if len(output.shape) != 4]:
        raise ValueError(
            f"{architecture.name} returns a feature map of shape {wrong[0]}: expected "
            "[batch, height, width, channels]"
        )
    _check_training(architecture, net, image_shape, rows, padded)


def _check_training(
    architecture: models.Architecture,
    net: models.Network,
    image_shape: tuple[int, int, int],
    rows: int,
    padded: bool,
) -> None:
    """Runs a network in training mode: on shapes, and if there is padding, on random images."""
    key, shapes = jax.random.key(0), variable_shapes(net, image_shape)

    def run(variables: Any, images: chex.Array) -> Any:
        """The logits and maps of the real rows, which are the first half, and the statistics."""
        real = len(images) - len(images) // 2
        mask = np.arange(len(images)) < real
        outputs, statistics = apply_training(net, variables, images, mask, key)
        return outputs.logits[:real], [each[:real] for each in outputs.features], statistics

    def trace(rows: int) -> None:
        jax.eval_shape(run, shapes, jax.ShapeDtypeStruct((rows, *image_shape), np.float32))

    try:
        trace(rows)
    except flax.errors.InvalidRngError:
        raise ValueError(
            f"{architecture.name} draws random numbers in training: write `drops = True` in its "
            "architecture, and draw from the key 'dropout'"
        ) from None
    except Exception as error:  # User-written modules may raise anything.
        text = f"{type(error).__name__}: {error}"
        raise ValueError(f"{architecture.name} cannot be run in training: {text}") from error
    if not padded or rows == 1:
        return
    with contextlib.suppress(Exception):  # Few rows are enough, but for a network that counts them.
        trace(_FEW)
        rows = min(rows, _FEW)
    variables = models.initialize(net, seed=0, image_shape=image_shape)
    batch = np.random.default_rng(0).standard_normal((rows, *image_shape), np.float32)
    other = batch.copy()
    other[rows - rows // 2 :] = 0.0  # The batches differ in padded rows only.
    compiled = jax.jit(run)
    results = (jax.tree.leaves(compiled(variables, each)) for each in (batch, other))
    if not all(itertools.starmap(_equal, zip(*results, strict=True))):
        raise ValueError(
            f"{architecture.name} lets padded rows of a batch change its results for other rows, "
            "and the last batch of an epoch is padded: its statistics must ignore rows where mask "
            "is False, as those of kdjax.models.layers.ConvNorm do (flax's BatchNorm takes "
            "mask[:, None, None, None]), or config.batch_size must divide the number of training "
            "images"
        )


def _equal(one: chex.Array, other: chex.Array) -> bool:
    largest = np.max(np.abs(np.nan_to_num(one, posinf=0.0, neginf=0.0)), initial=0.0)
    tolerance = _TOLERANCE * largest
    return np.allclose(one, other, rtol=0.0, atol=tolerance, equal_nan=True)


def check_maps(
    config: ml_collections.ConfigDict, architecture: models.Architecture, name: str = ""
) -> None:
    """Checks that a student's or a teacher's network has the feature maps that a loss reads.

    Args:
      config: the configuration of the task.
      architecture: the network; it has one map for each of its blocks.
      name: the network's name in the error; empty: the architecture's.

    Raises:
      ConfigError: if a term or rule that is on reads more maps than there are.
    """
    if config.get("method") == "independent":  # Baselines learn from labels alone.
        return
    blocks, needed = len(architecture.blocks), {}
    for term in configuration.terms_of_maps(config):
        pairs = configuration.TERMS[term].reads == "map pairs"
        needed[f"config.weights.{term} is {config.weights[term]}"] = 2 if pairs else 1
    if "ensemble" in config and configuration.RULES[config.ensemble.rule].has_gate:
        needed[f"config.ensemble.rule is {config.ensemble.rule!r}"] = 1
    for setting, least in needed.items():
        if blocks < least:
            maps = "feature maps" if least == 1 else "the maps of neighbouring blocks"
            raise ConfigError(
                f"{setting}: it reads {maps}, and {name or architecture.name} has "
                f"{'one block only' if blocks else 'no blocks'}"
            )
