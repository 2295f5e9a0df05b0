"""Exports a trained student for other software: as a program for any device, or as arrays."""

import contextlib
import importlib.util
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import jax.errors
import jax.export
import jax.numpy as jnp
import numpy as np

import kdjax
from kdjax import atomic, models
from kdjax.deploy import onnx
from kdjax.deploy.student import Student

PLATFORMS = ("cpu", "cuda", "tpu")
_NORMALISATION = "(pixels / 255 - mean) / std, before the network"
_CROPPED = "to cover 256/224 of image_shape with its proportions kept, then the middle cut out"
# Additional Python packages that a format needs; `pip install ".[export]"` installs them all.
_NEEDS: Mapping[str, str] = {
    ".jaxexport": "flatbuffers",
    ".onnx": "onnx",
    ".safetensors": "safetensors",
}
_PROGRAMS = (".jaxexport", ".onnx")


def export(student: Student, path: str | Path, *, platforms: Sequence[str] = ()) -> None:
    """Writes a student to a file, and a description of its input and output to ``<path>.json``.

    ``.onnx`` and ``.jaxexport`` are programs that contain the parameters and the normalisation.
    They turn uint8 images ``[batch, height, width, channels]``, of any batch size, into float32
    logits ``[batch, classes]``. An ONNX file (operator set 17) computes in float32 and runs in ONNX
    Runtime and in other software that reads ONNX. A ``.jaxexport`` file is a program of
    :mod:`jax.export`, in the dtype of the run. JAX needs the package flatbuffers to load it, and
    promises to load it only in its releases of the next six months, so keep the arrays too.
    ``.npz`` and ``.safetensors`` hold the arrays, by names such as ``params/stem/conv/kernel``.

    Args:
      student: what :func:`kdjax.load_student` returns.
      path: a file in an existing directory; its ending decides the format.
      platforms: the platforms of a ``.jaxexport`` program, from ``cpu``, ``cuda`` and ``tpu``;
        empty means all.

    Raises:
      ValueError: if the ending or a platform is not one of these, platforms are given for another
        format, the directory does not exist, a package that the format needs is missing, or the
        network cannot be a program for any batch size, or has an operation that cannot be written
        with ONNX's.
    """
    path = Path(os.path.expanduser(path))
    check_export(path, platforms)
    contents = _WRITERS[path.suffix](student, platforms)
    # The description first: a file is never there without one.
    atomic.write_json(path.with_name(path.name + ".json"), _description(student, path.suffix))
    atomic.write(path, contents)


def check_export(path: str | Path, platforms: Sequence[str] = ()) -> None:
    """Checks the arguments of :func:`export` before a student is loaded; raises its errors."""
    ending = Path(path).suffix
    if ending not in _WRITERS:
        raise ValueError(f"out is {str(path)!r}: it must end in {', '.join(_WRITERS)}")
    path = Path(os.path.expanduser(path))
    if not path.resolve().parent.is_dir():
        raise ValueError(f"out is {str(path)!r}: there is no {path.parent}")
    needed = _NEEDS.get(ending)
    if needed and importlib.util.find_spec(needed) is None:
        raise ValueError(
            f"out is {str(path)!r}: such a file needs the package {needed}, "
            "pip install '.[export]'; .npz needs none"
        )
    if platforms and ending != ".jaxexport":
        raise ValueError(f"platforms is {_listed(platforms)}: only .jaxexport files depend on them")
    if unknown := [name for name in platforms if name not in PLATFORMS]:
        raise ValueError(
            f"platforms is {_listed(platforms)}: {unknown[0]!r} is none of {', '.join(PLATFORMS)}"
        )


def _listed(names: Sequence[str]) -> str:
    return repr(",".join(names))


def _program(student: Student, platforms: Sequence[str]) -> bytes:
    with _any_batch(student) as images:
        program = jax.jit(_logits(student, student.network))
        exported = jax.export.export(program, platforms=platforms or PLATFORMS)(images)
    return bytes(exported.serialize())


def _onnx(student: Student, platforms: Sequence[str]) -> bytes:
    del platforms  # A graph names none.
    # Runtimes compute in float32: few have convolutions of bfloat16 on CPUs.
    network = student.network.clone(dtype=jnp.float32)
    producer = {"producer_name": "kdjax", "producer_version": kdjax.__version__}
    with _any_batch(student) as images:
        try:
            return onnx.translate(_logits(student, network), images, producer)
        except onnx.UnsupportedError as error:
            raise ValueError(
                f"{student.network.architecture.name} cannot be written as ONNX, because of "
                f"{error}; .jaxexport and .npz can be written"
            ) from error


def _logits(student: Student, network: models.Network) -> Callable[[jax.Array], jax.Array]:
    """Returns the function from uint8 images to float32 logits."""

    def logits(images: jax.Array) -> jax.Array:
        normal = student.preprocess.normalize(images)
        found: Any = network.apply(student.variables, normal, train=False)
        return found.logits.astype(jnp.float32)

    return logits


@contextlib.contextmanager
def _any_batch(student: Student) -> Iterator[jax.ShapeDtypeStruct]:
    """Gives a batch of any size; replaces JAX's error where a network computes with its size."""
    like = (None, *student.preprocess.image_shape)
    shape = jax.export.symbolic_shape("batch, _, _, _", like=like)
    try:
        yield jax.ShapeDtypeStruct(shape, jnp.uint8)
    except jax.errors.InconclusiveDimensionOperation:
        raise ValueError(
            f"{student.network.architecture.name} computes with the size of the batch and cannot "
            "be a program for any batch; arrays (.npz) can be written"
        ) from None


def _arrays(student: Student) -> dict[str, np.ndarray]:
    """Returns parameters and running statistics by their path in the network."""
    flat = flax.traverse_util.flatten_dict(dict(student.variables), sep="/")
    return {name: np.asarray(value) for name, value in flat.items()}


def _npz(student: Student, platforms: Sequence[str]) -> bytes:
    del platforms  # Arrays are the same on all platforms.
    file = io.BytesIO()
    contents: dict[str, Any] = {**_arrays(student)}
    np.savez(file, **contents)
    return file.getvalue()


def _safetensors(student: Student, platforms: Sequence[str]) -> bytes:
    del platforms
    from safetensors.numpy import save

    return bytes(save(_arrays(student)))


_WRITERS: Mapping[str, Callable[[Student, Sequence[str]], bytes]] = {
    ".onnx": _onnx,
    ".jaxexport": _program,
    ".npz": _npz,
    ".safetensors": _safetensors,
}


def _description(student: Student, ending: str) -> dict[str, Any]:
    """Returns what a user of a file with this ending has to know, as JSON."""
    fit, program = student.preprocess, ending in _PROGRAMS
    names = {"input_name": onnx.INPUT, "output_name": onnx.OUTPUT} if ending == ".onnx" else {}
    return {
        **names,
        "input": f"{'uint8' if program else 'float32'} [batch, height, width, channels]",
        "output": "float32 logits [batch, classes], in the order of class_names",
        "normalisation": "inside, of pixels from 0 to 255" if program else _NORMALISATION,
        "image_shape": list(fit.image_shape),
        "resize": _CROPPED if fit.memory == "stream" else "to image_shape",
        "mean": list(fit.mean),
        "std": list(fit.std),
        "class_names": list(student.class_names),
        "network": student.network.architecture.name,
        "widths": dict(student.widths),
        "student": student.name,
        "run": student.run,
        "step": student.step,
        "kdjax": kdjax.__version__,
        "jax": jax.__version__,
    }
