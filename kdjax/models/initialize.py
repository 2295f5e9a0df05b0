"""Initial variables, drawn on the host without compilation, in seconds at any depth."""

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.models.student_names import STUDENT, share_stem

Path = tuple[str, ...]

# (generator of the array's own stream, its shape) -> the array.
Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

_CONSTANTS = {
    nn.initializers.zeros: 0.0,
    nn.initializers.ones: 1.0,
    jnp.zeros: 0.0,
    jnp.ones: 1.0,
}
# The settings of he_normal, lecun_normal and similar initialisers, besides their scale.
_FAN_IN: Mapping[str, Any] = {
    "mode": "fan_in",
    "distribution": "truncated_normal",
    "in_axis": -2,
    "out_axis": -1,
    "batch_axis": (),
}


def _equal_before(params: Mapping[str, Any]) -> dict[str, int]:
    """For each student of an ensemble the number of students before it with equal shapes."""
    if not share_stem(params):
        return {}
    seen: list[Any] = []
    numbers = {}
    for student in sorted(params, key=lambda name: (len(name), name)):
        if STUDENT.fullmatch(student):
            shapes = jax.tree.map(lambda leaf: leaf.shape, params[student])
            numbers[student] = seen.count(shapes)
            seen.append(shapes)
    return numbers


def _generator(path: Path, seed: int, twin: int) -> np.random.Generator:
    # Leave out the names that only say where a network stands.
    below = [part for part in path if part != "branch" and not STUDENT.fullmatch(part)]
    name = "/".join([*below, *([f"twin {twin}"] if twin else [])])
    stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, stream])


def _normal(scale: float, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers of variance ``scale / fan-in``, truncated at two deviations as in Flax."""
    numbers = generator.standard_normal(shape, np.float32)
    while (outside := np.abs(numbers) > 2).any():
        numbers[outside] = generator.standard_normal(outside.sum(), np.float32)
    numbers = numbers / np.float32(0.87962566103423978)  # The deviation after truncation.
    # All axes but the last are the inputs of one output, also in grouped convolutions.
    return numbers * np.float32(np.sqrt(scale / np.prod(shape[:-1])))


class Start(NamedTuple):
    """The shapes and the initialisers of a network's variables.

    Attributes:
      shapes: the tree of ``net.init`` with shapes in place of arrays.
      initializers: path of each variable -> the function that draws it, with the distribution of
        the initialiser that its module gave to Flax.
    """

    shapes: dict[str, Any]
    initializers: Mapping[Path, Initializer]


def initialize(
    net: nn.Module, seed: int, image_shape: tuple[int, int, int] = (32, 32, 3)
) -> dict[str, Any]:
    """The variables of a network or an ensemble, with the tree and distributions of ``net.init``.

    ``net.init`` compiles for minutes on deep ensembles; here shapes come from abstract evaluation
    and numbers from NumPy. Each array has its own random stream, given by the seed and by the
    array's path below the student. So a network has the same initial weights alone and at any place
    in an ensemble. There is one exception: two students of equal widths in one ensemble start
    differently, since otherwise they would stay equal.

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
    """The tree of ``net.init`` with shapes in place of arrays.

    This takes nearly as long as initialising the network.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), images)


def start_of(net: nn.Module, image_shape: tuple[int, int, int] = (32, 32, 3)) -> Start:
    """Shapes and initialisers of a network's variables.

    This takes nearly all of the time of :func:`initialize`.

    Raises:
      ValueError: if a variable's initialiser cannot be seen, or it is not float32; the message
        names the variable.
    """
    return start_of_call(net, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))


def start_of_call(net: nn.Module, *shapes: Any, **settings: Any) -> Start:
    """The same as :func:`start_of`, for a module that is called with any arguments.

    Args:
      net: the module.
      shapes: trees of shapes in place of the arrays that the module is called with.
      settings: keyword arguments of that call.

    Raises:
      ValueError: as :func:`start_of`.
    """
    found: dict[Path, tuple[Initializer, tuple[int, ...]]] = {}

    def look(
        call: Any, arguments: Any, keywords: Any, context: nn.module.InterceptorContext
    ) -> Any:
        _record_initializers(context.module, found)
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
        if leaf.dtype != jnp.float32:
            raise ValueError(
                f"{'/'.join(path)} is a variable of dtype {leaf.dtype}: expected float32, whatever "
                "dtype the network computes in"
            )
    return Start(variables, {path: initializer for path, (initializer, _) in found.items()})


def draw(start: Start, seed: int) -> dict[str, Any]:
    """Draws the arrays of :func:`initialize` from the result of :func:`start_of`."""
    flat = flax.traverse_util.flatten_dict(start.shapes)
    twins = _equal_before(start.shapes["params"])
    return flax.traverse_util.unflatten_dict(
        {
            path: start.initializers[path](
                _generator(path, seed, twins.get(path[1], 0)), leaf.shape
            )
            for path, leaf in flat.items()
        }
    )


def _record_initializers(
    module: nn.Module, found: dict[Path, tuple[Initializer, tuple[int, ...]]]
) -> None:
    """Makes a module record in ``found`` the initialiser of each variable that it creates."""
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

    # Modules are frozen, hence object.__setattr__. Flax makes new instances for each call.
    object.__setattr__(module, "param", parameter)
    object.__setattr__(module, "variable", other)


def _of_flax(init: Any, call: Callable[[chex.PRNGKey], chex.Array]) -> Initializer:
    """A NumPy function that draws what ``call`` draws; if there is none, ``call`` itself."""
    if init in _CONSTANTS:
        return lambda _, shape: np.full(shape, _CONSTANTS[init], np.float32)
    fields = inspect.getclosurevars(init).nonlocals if inspect.isfunction(init) else {}
    if fields.items() >= _FAN_IN.items():
        return functools.partial(_normal, fields["scale"])

    def draw(generator: np.random.Generator, _: tuple[int, ...]) -> np.ndarray:
        return np.asarray(call(jax.random.key(int(generator.integers(1 << 32)))), np.float32)

    return draw
