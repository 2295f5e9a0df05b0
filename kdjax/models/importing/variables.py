"""Converts PyTorch's tensors to the variables of our networks: other names and axis orders."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from kdjax.models.architecture import Architecture
from kdjax.models.efficientnet import NORM
from kdjax.models.importing.torchvision import Module, epsilon_of, modules_of, present_name
from kdjax.models.initialize import initialize, variable_shapes
from kdjax.models.vgg import VGG

_CLASSIFIER = "branch/classifier"
# Our names of a module's arrays -> PyTorch's.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_SHOWN = 3  # Tensors of each kind that an error names.


def import_torch(
    architecture: Architecture,
    tensors: Mapping[str, np.ndarray],
    *,
    image_shape: tuple[int, int, int] = (224, 224, 3),
    new_classifier: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """The variables of a network from the tensors of torchvision's network of the same name.

    In evaluation both compute the same function. Convolutions and poolings already pad alike.
    Where torchvision adds a different epsilon to the variances (EfficientNet-B0 to B4: 1e-5, kdjax
    1e-3), scales are multiplied by ``sqrt((var + 1e-3) / (var + 1e-5))``. Note for further
    training: PyTorch's running variances are unbiased, ours are not.

    >>> from kdjax import models
    >>> tensors = models.read_tensors("resnet18.npz")  # doctest: +SKIP
    >>> arch = models.create("resnet18", num_classes=1000)
    >>> variables = models.import_torch(arch, tensors)  # doctest: +SKIP
    >>> arch.build().apply(variables, images, train=False).logits  # doctest: +SKIP

    Args:
      architecture: the architecture of the network; its full widths are those of the tensors.
      tensors: torchvision's name -> array of floats; ``num_batches_tracked`` is ignored.
      image_shape: (height, width, channels) of the input. VGG's dense layers depend on it;
        torchvision's fit only 224 x 224.
      new_classifier: initialise a new classifier, for other classes than those of the tensors.
      seed: the seed of the new classifier.

    Returns:
      ``{"params": ..., "batch_stats": ...}`` of ``architecture.build()``, float32 NumPy arrays.

    Raises:
      ValueError: if torchvision has no such network, or tensors are missing, left over or of
        another shape, or hold NaN or infinity; the message names them and what is expected.
    """
    wanted = _sources(architecture, image_shape)
    paths = list(wanted)
    classifier = modules_of(architecture)[_CLASSIFIER].name
    given = {
        present_name(name): np.asarray(tensor)
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    if new_classifier:
        wanted = {path: own for path, own in wanted.items() if _module_of(path) != _CLASSIFIER}
        given = {name: tensor for name, tensor in given.items() if _module_name(name) != classifier}
    _check(architecture, wanted, given, classifier)
    found = {path: own.convert(given[own.name]) for path, own in wanted.items()}
    for path, array in found.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{wanted[path].name} has numbers that are not finite")
    _match_epsilon(architecture, found)
    if new_classifier:
        start = initialize(architecture.build(), seed, image_shape)
        drawn = flax.traverse_util.flatten_dict(start, sep="/")
        found |= {path: drawn[path] for path in paths if path not in found}
    return flax.traverse_util.unflatten_dict({path: found[path] for path in paths}, sep="/")


def torch_shapes(
    architecture: Architecture, image_shape: tuple[int, int, int] = (224, 224, 3)
) -> dict[str, tuple[int, ...]]:
    """The tensors that :func:`import_torch` wants: torchvision's name -> shape.

    Raises:
      ValueError: if torchvision has no such network, or not for images of that size.
    """
    return {own.name: own.shape for own in _sources(architecture, image_shape).values()}


class _Source(NamedTuple):
    """A tensor that an array of ours is made of, and how to convert it.

    Attributes:
      name: PyTorch's name of the tensor.
      shape: the shape that the tensor must have.
      unfolded: the shape to which the tensor is reshaped first.
      axes: the order to which the axes of ``unfolded`` are then transposed.
      own_shape: the shape of our array.
    """

    name: str
    shape: tuple[int, ...]
    unfolded: tuple[int, ...]
    axes: tuple[int, ...]
    own_shape: tuple[int, ...]

    def convert(self, tensor: np.ndarray) -> np.ndarray:
        ordered = tensor.astype(np.float32).reshape(self.unfolded).transpose(self.axes)
        return np.ascontiguousarray(ordered.reshape(self.own_shape))


def _sources(architecture: Architecture, image_shape: tuple[int, int, int]) -> dict[str, _Source]:
    """Path of each array of a network -> the tensor that it is made of."""
    modules = modules_of(architecture)
    _check_size(architecture, image_shape)
    shapes = variable_shapes(architecture.build(), image_shape)
    return {
        path: _source(path, leaf.shape, modules, image_shape)
        for path, leaf in flax.traverse_util.flatten_dict(shapes, sep="/").items()
    }


def _source(
    path: str,
    shape: tuple[int, ...],
    modules: Mapping[str, Module],
    image_shape: tuple[int, int, int],
) -> _Source:
    """The tensor that one of our arrays is made of.

    Args:
      path: the path of the array, as in ``params/stem/conv/conv/kernel``.
      shape: the shape of the array.
      modules: the result of :func:`modules_of`.
      image_shape: (height, width, channels) of the input.
    """
    module, leaf = modules[_module_of(path)], path.rpartition("/")[2]
    name = f"{module.name}.{_LEAVES[leaf]}"
    if leaf != "kernel":
        return _Source(name, shape, shape, (0,), shape)
    out = shape[-1]
    if len(shape) == 4:  # [height, width, in, out] of [out, in, height, width].
        there = (out, shape[2], *shape[:2])
        return _Source(name, there, there, (2, 3, 1, 0), shape)
    if module.layout == "pointwise":
        return _Source(name, (out, shape[0], 1, 1), (out, shape[0]), (1, 0), shape)
    if module.layout == "flattened":
        # kdjax flattens a map in the order height, width, channel.
        height, width = image_shape[0] // _SHRINKS, image_shape[1] // _SHRINKS
        unfolded = (out, shape[0] // (height * width), height, width)
        return _Source(name, (out, shape[0]), unfolded, (2, 3, 1, 0), shape)
    return _Source(name, (out, shape[0]), (out, shape[0]), (1, 0), shape)


_SHRINKS = 32  # VGG's five poolings, each by 2.


def _check_size(architecture: Architecture, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError if VGG's poolings would round a size, as torchvision rounds differently."""
    if isinstance(architecture, VGG) and any(size % _SHRINKS for size in image_shape[:2]):
        raise ValueError(
            f"images are {image_shape[0]} x {image_shape[1]}: for parameters of another program, "
            f"{architecture.name} needs sides that are multiples of {_SHRINKS} (torchvision's: "
            "224), since poolings round odd sizes differently"
        )


def _module_of(path: str) -> str:
    """The module that has an array: ``stem/conv/conv`` of ``params/stem/conv/conv/kernel``."""
    return path.partition("/")[2].rpartition("/")[0]


def _module_name(name: str) -> str:
    """The module that has a tensor: ``layer1.0.conv1`` of ``layer1.0.conv1.weight``."""
    return name.rpartition(".")[0]


def _check(
    architecture: Architecture,
    wanted: Mapping[str, _Source],
    given: Mapping[str, np.ndarray],
    classifier: str,
) -> None:
    """Raises ValueError if tensors are missing, left over or wrong.

    Args:
      architecture: the architecture of the network, for the message.
      wanted: the tensors that are needed.
      given: the tensors that were given.
      classifier: torchvision's name of the classifier.
    """
    expected = dict(sorted((own.name, own.shape) for own in wanted.values()))
    missing = [f"{name} {shape}" for name, shape in expected.items() if name not in given]
    wrong = {
        name: f"{name} is {given[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in given and given[name].shape != shape
    }
    numbers = [
        f"{name} is {given[name].dtype}, expected floats"
        for name in expected
        if name in given and not jnp.issubdtype(given[name].dtype, jnp.floating)
    ]
    left = [name for name in given if name not in expected]
    found = {
        "missing": missing,
        "of another shape": list(wrong.values()),
        "of another type": numbers,
        "left over": left,
    }
    if not any(found.values()):
        return
    parts = "; ".join(f"{what}: {_few(which)}" for what, which in found.items() if which)
    other_classes = wrong and set(map(_module_name, wrong)) == {classifier}
    hint = ". With new_classifier, a new classifier is initialised" if other_classes else ""
    raise ValueError(
        f"the tensors are not those of {architecture.name} with {architecture.num_classes} "
        f"classes: {parts}{hint}"
    )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _match_epsilon(architecture: Architecture, found: dict[str, np.ndarray]) -> None:
    """Changes scales so that kdjax's epsilon gives the same results as torchvision's."""
    theirs = epsilon_of(architecture)
    if theirs is None:
        return
    own = NORM["epsilon"]
    for path in found:
        if path.endswith("/scale"):
            variance = found[f"batch_stats/{_module_of(path)}/var"].astype(np.float64)
            factor = np.sqrt((variance + own) / (variance + theirs))
            found[path] = (found[path] * factor).astype(np.float32)
