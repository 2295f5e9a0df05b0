"""What a step has to compute and to move, and the highest speed that a device's rates allow.

Operations and bytes are counted layer by layer, for all students. They are counted per image, for
one training step and for one evaluation.

Operations: two for each multiply-accumulate of the convolutions and dense layers. A training step
takes three times the forward pass: the forward pass itself, the gradient with respect to each
layer's input, and the gradient with respect to its weights.

Bytes: the feature maps between layers are too large for caches, so each pass over a map goes to
memory. A touch is one read or one write. A layer's output of ``activations`` numbers is touched

- 14 times in a training step if it is normalised. Forward (5): it is written, read for the batch
  statistics, read and written by the normalisation, and read by the next layer. Backward (9): the
  next layer writes the gradient after the normalisation and reads the map (2); the normalisation
  reads both map and gradient for its sums, reads both again, and writes its gradient (5); and the
  layer reads the gradient for its input and for its weights (2).
- 6 times in a training step if it is not normalised (classifier, adapters): it is written and read,
  its gradient is written, the map is read for the weights of the layer after it, and the gradient
  is read twice.
- 3 times in an evaluation. This is between 2, if the normalisation is merged into the convolution,
  and 4, if it is a separate pass.

Each touch moves as many bytes as a number of the networks' dtype has. Parameters are touched 8
times in a training step (read forward and backward; gradient written and read; momentum and
parameter read and written) and once in an evaluation. Each touch of a parameter moves 4 bytes, and
all images of a batch share it. Images, element-wise operations and losses are not counted. A
compiler that keeps maps in a cache, or merges passes, can move fewer bytes: the limit is only a
guide. In a DenseNet each layer normalises all maps before it, of which only one is counted here:
its limit is too high.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kdjax import models, tracing
from kdjax.costs import Cost
from kdjax.models import Architecture

TRAINING_TOUCHES = {True: 14, False: 6}  # The key says whether the output is normalised.
EVALUATION_TOUCHES = 3
TRAINING_PARAMETER_TOUCHES = 8
NORMALISATION_SCALE = "scale"  # The name of batch normalisation's factors.
PARAMETER_BYTES = 4  # Parameters are float32 with any dtype of the networks.


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution or dense layer: its path, its cost, and whether its output is normalised."""

    path: tuple[str, ...]
    cost: Cost
    norm: bool


@dataclasses.dataclass(frozen=True)
class Work:
    """The cost of one image: ``bytes`` moved, and floating-point operations ``flops``."""

    bytes: float
    flops: float


@dataclasses.dataclass(frozen=True)
class Rates:
    """The rates that devices reach: ``bytes_per_second`` moved, ``flops_per_second`` computed."""

    bytes_per_second: float
    flops_per_second: float


def ensemble_layers(
    architecture: Architecture,
    student_widths: Sequence[Mapping[str, int]],
    image_shape: tuple[int, int, int],
) -> tuple[Layer, ...]:
    """Returns the layers of students that share one stem, without adapters.

    Args:
      architecture: the family, depth and classes.
      student_widths: one width vector per student, the pivot's first.
      image_shape: (height, width, channels).
    """
    pivot, *others = independent_layers(architecture, student_widths, image_shape)
    return (*pivot, *(layer for table in others for layer in table if layer.path[0] != "stem"))


def independent_layers(
    architecture: Architecture,
    student_widths: Sequence[Mapping[str, int]],
    image_shape: tuple[int, int, int],
) -> list[tuple[Layer, ...]]:
    """Returns the layers of each student; every student has its own stem.

    Args:
      architecture: the family, depth and classes.
      student_widths: one width vector per student.
      image_shape: (height, width, channels).
    """
    return [_layers(architecture, widths, image_shape) for widths in student_widths]


def _layers(
    architecture: Architecture, widths: Mapping[str, int], image_shape: tuple[int, int, int]
) -> tuple[Layer, ...]:
    traced = tracing.trace(architecture.build(widths), image_shape)
    normalised = {
        number for path, number in traced.owners.items() if path[-1] == NORMALISATION_SCALE
    }
    return tuple(
        Layer(layer.path, cost, number in normalised)
        for number, (layer, cost) in enumerate(
            zip(traced.layers, tracing.layer_costs(traced), strict=True)
        )
    )


def adapter_layers(
    student_maps: Sequence[Sequence[tuple[int, ...]]],
) -> tuple[Layer, ...]:
    """Returns the 1x1 convolutions that map features of students 2..S to the pivot's channels.

    Args:
      student_maps: for each student, the pivot first, the shape of the map after each block:
        (height, width, channels).
    """
    pivot, *students = student_maps
    return tuple(
        Layer(
            ("adapters", f"{models.student_name(number)}_block{block}"),
            Cost((channels + 1) * full, height * width * channels * full, height * width * full),
            norm=False,
        )
        for number, maps in enumerate(students, start=2)
        for block, ((height, width, channels), (_, _, full)) in enumerate(
            zip(maps, pivot, strict=True), start=1
        )
    )


def training_work(layers: Sequence[Layer], number_bytes: int, batch_size: int) -> Work:
    """Returns the work of a training step per image.

    Args:
      layers: the layers of all students, and the adapters.
      number_bytes: bytes of a number of the networks' dtype.
      batch_size: images per step on one device.
    """
    moved = (
        sum(TRAINING_TOUCHES[layer.norm] * layer.cost.activations for layer in layers)
        * number_bytes
    )
    parameters = (
        TRAINING_PARAMETER_TOUCHES * PARAMETER_BYTES * sum(layer.cost.params for layer in layers)
    )
    macs = 3 * sum(layer.cost.macs for layer in layers)
    return Work(bytes=moved + parameters / batch_size, flops=2 * macs)


def evaluation_work(layers: Sequence[Layer], number_bytes: int, batch_size: int) -> Work:
    """Returns the work of an evaluation per image; adapters do not run in it.

    Args:
      layers: the layers of the network, without adapters.
      number_bytes: bytes of a number in a map, such as 4 for float32.
      batch_size: images in a batch of one device; they share the reading of the parameters.
    """
    moved = EVALUATION_TOUCHES * sum(layer.cost.activations for layer in layers) * number_bytes
    parameters = PARAMETER_BYTES * sum(layer.cost.params for layer in layers)
    return Work(
        bytes=moved + parameters / batch_size, flops=2 * sum(layer.cost.macs for layer in layers)
    )


def limit(work: Work, rates: Rates, reached: float) -> dict[str, Any]:
    """Returns the speed that the rates allow, the rate that bounds it, and the share reached.

    Args:
      work: the work of one image.
      rates: the rates of all devices together.
      reached: the measured speed in images/s.

    Returns:
      ``bytes_per_image``, ``flops_per_image``, ``images_per_second``, ``bound_by`` (``bytes`` or
      ``operations``) and ``reached``, a fraction.
    """
    speeds = {
        "bytes": rates.bytes_per_second / work.bytes,
        "operations": rates.flops_per_second / work.flops,
    }
    bound = min(speeds, key=lambda name: speeds[name])
    return {
        "bytes_per_image": work.bytes,
        "flops_per_image": work.flops,
        "images_per_second": speeds[bound],
        "bound_by": bound,
        "reached": reached / speeds[bound],
    }
