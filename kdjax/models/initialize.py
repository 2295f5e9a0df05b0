"""Initial variables, drawn on the host: no compilation, seconds at any depth."""

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

Path = tuple[str, ...]


# (generator of the array's own stream, its shape) -> the array.
Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


class Start(NamedTuple):
    """How a network starts.

    Attributes:
      shapes: the tree of ``net.init`` with shapes in place of arrays.
      initializers: path of each variable -> what it is drawn by, with the distribution of the
        initialiser that its module gave to Flax.
    """

    shapes: dict[str, Any]
    initializers: Mapping[Path, Initializer]


def initialize(
    net: nn.Module, seed: int, image_shape: tuple[int, int, int] = (32, 32, 3)
) -> dict[str, Any]:
    """The variables of a network or an ensemble, with the tree and distributions of ``net.init``.

    ``net.init`` compiles for minutes on deep ensembles; here shapes come from abstract evaluation
    and numbers from NumPy. Each array has a random stream of its own, named by its path below the
    student. So a network has the same first weights alone, in an ensemble, and at another place in
    it. There is one exception: two students of equal widths in one ensemble start differently,
    since otherwise they would stay equal.

    Args:
      net: any module of :mod:`kdjax.models`.
      seed: non-negative.
      image_shape: (height, width, channels) of the input.

    Returns:
      ``{"params": ..., "batch_stats": ...}`` of float32 NumPy arrays.

    Raises:
      ValueError: as :func:`start_of`.

    References:
      He et al., *Delving Deep into Rectifiers*, ICCV 2015, equation 10 (``he_normal``); LeCun et
      al., *Efficient BackProp*, 1998, section 4.6 (``lecun_normal``, Flax's default).
    """
    return draw(start_of(net, image_shape), seed)


def variable_shapes(
    net: nn.Module, image_shape: tuple[int, int, int] = (32, 32, 3)
) -> dict[str, Any]:
    """The tree of ``net.init`` with shapes in place of arrays; nearly all of the time."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), images)


def start_of(net: nn.Module, image_shape: tuple[int, int, int] = (32, 32, 3)) -> Start:
    """Shapes and initialisers of a network's variables; nearly all of the time.

    Raises:
      ValueError: if a variable is made where it cannot be seen; the message names it.
    """
    return start_of_call(net, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))


def start_of_call(net: nn.Module, *shapes: Any, **settings: Any) -> Start:
    """:func:`start_of` for a module that is called with anything.

    Args:
      net: the module.
      shapes: trees of shapes in place of the arrays that it is called with.
      settings: its keyword arguments.

    Raises:
      ValueError: as :func:`start_of`.
    """
    found: dict[Path, tuple[Initializer, tuple[int, ...]]] = {}

    def look(
        call: Any, arguments: Any, keywords: Any, context: nn.module.InterceptorContext
    ) -> Any:
        _listen(context.module, found)
        return call(*arguments, **keywords)

    with nn.intercept_methods(look):
        # A new function each time, so that JAX does not reuse an earlier trace without calling it.
        variables = jax.eval_shape(
            lambda key, *given: net.init(key, *given, **settings), jax.random.key(0), *shapes
        )
    for path, leaf in flax.traverse_util.flatten_dict(variables).items():
        if path not in found or found[path][1] != leaf.shape:
            raise ValueError(
                f"{'/'.join(path)} is a variable whose initialiser cannot be seen: make it with "
                "self.param or self.variable of a module, outside of nn.scan and nn.vmap"
            )
    return Start(variables, {path: initializer for path, (initializer, _) in found.items()})


def draw(start: Start, seed: int) -> dict[str, Any]:
    """The arrays of :func:`initialize` for what :func:`start_of` found."""
    flat = flax.traverse_util.flatten_dict(start.shapes)
    twins = _twins(start.shapes["params"])
    return flax.traverse_util.unflatten_dict(
        {
            path: start.initializers[path](
                _generator(path, seed, twins.get(path[1], 0)), leaf.shape
            )
            for path, leaf in flat.items()
        }
    )


def _listen(module: nn.Module, found: dict[Path, tuple[Initializer, tuple[int, ...]]]) -> None:
    """Makes a module note, during this call, which initialiser each of its variables has."""
    if "param" in vars(module):
        return
    param, variable = module.param, module.variable

    def parameter(name: str, init: Any, *arguments: Any, **keywords: Any) -> Any:
        made = param(name, init, *arguments, **keywords)
        keywords.pop("unbox", None)
        drawn = _of_flax(init, lambda key: init(key, *arguments, **keywords))
        found["params", *module.path, name] = (drawn, jnp.shape(made))
        return made

    def other(kind: str, name: str, init: Any = None, *arguments: Any, **keywords: Any) -> Any:
        made = variable(kind, name, init, *arguments, **keywords)
        keywords.pop("unbox", None)
        drawn = _of_flax(init, lambda key: init(*arguments, **keywords))
        found[kind, *module.path, name] = (drawn, jnp.shape(made.value))
        return made

    # On the instance: modules are frozen, and made anew for each call.
    object.__setattr__(module, "param", parameter)
    object.__setattr__(module, "variable", other)


def _of_flax(init: Any, call: Callable[[chex.PRNGKey], chex.Array]) -> Initializer:
    """NumPy's way to draw what ``call`` does; where there is none, ``call`` itself."""
    if init in _CONSTANTS:
        return lambda _, shape: np.full(shape, _CONSTANTS[init], np.float32)
    fields = inspect.getclosurevars(init).nonlocals if inspect.isfunction(init) else {}
    if fields.items() >= _FAN_IN.items():
        return functools.partial(_normal, fields["scale"])

    def draw(generator: np.random.Generator, _: tuple[int, ...]) -> np.ndarray:
        return np.asarray(call(jax.random.key(int(generator.integers(1 << 32)))), np.float32)

    return draw


_CONSTANTS = {
    nn.initializers.zeros: 0.0,
    nn.initializers.ones: 1.0,
    jnp.zeros: 0.0,
    jnp.ones: 1.0,
}
# What he_normal, lecun_normal and their like hold, next to their scale.
_FAN_IN: Mapping[str, Any] = {
    "mode": "fan_in",
    "distribution": "truncated_normal",
    "in_axis": -2,
    "out_axis": -1,
    "batch_axis": (),
}


def _twins(params: Mapping[str, Any]) -> dict[str, int]:
    """For each student of an ensemble how many before it have its shapes."""
    if "stem" not in params:  # A single network, or networks that do not see each other.
        return {}
    seen: list[Any] = []
    numbers = {}
    for student in sorted(params, key=lambda name: (len(name), name)):
        if student.startswith("student_"):
            shapes = jax.tree.map(lambda leaf: leaf.shape, params[student])
            numbers[student] = seen.count(shapes)
            seen.append(shapes)
    return numbers


def _generator(path: Path, seed: int, twin: int) -> np.random.Generator:
    # Names that only say where a network stands do not count.
    below = [part for part in path if not re.fullmatch(r"branch|student_\d+", part)]
    name = "/".join([*below, *([f"twin {twin}"] if twin else [])])
    stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, stream])


def _normal(scale: float, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers of variance ``scale / fan-in``, cut at two deviations as Flax cuts them."""
    numbers = generator.standard_normal(shape, np.float32)
    while (outside := np.abs(numbers) > 2).any():
        numbers[outside] = generator.standard_normal(outside.sum(), np.float32)
    numbers = numbers / np.float32(0.87962566103423978)  # The deviation that the cut leaves.
    # The axes before the last hold one output's inputs, also in grouped convolutions.
    return numbers * np.float32(np.sqrt(scale / np.prod(shape[:-1])))
