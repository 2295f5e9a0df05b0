"""kdjax: compress convolutional networks by knowledge distillation, in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdjax.deploy import load_student as load_student

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported when it is first needed: `import kdjax` alone starts neither JAX nor Flax.
    if name == "load_student":
        from kdjax.deploy import load_student

        return load_student
    raise AttributeError(f"module 'kdjax' has no attribute {name!r}")
