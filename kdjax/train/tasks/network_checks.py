"""Checks of networks: that a user-written one is what it says, and that losses find their maps."""

import jax
import ml_collections
import numpy as np

from kdjax import config as configuration
from kdjax import models, tracing
from kdjax.config import ConfigError
from kdjax.models.initialize import start_of


def check_own(architecture: models.Architecture, image_shape: tuple[int, int, int]) -> None:
    """Checks that the modules of a user-written network do what its architecture says.

    Args:
      architecture: the network.
      image_shape: (height, width, channels) of the images.

    Raises:
      ValueError: if it cannot be built or initialised, a width is used by no layer, or it returns
        other numbers of logits or feature maps than its architecture says.
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
