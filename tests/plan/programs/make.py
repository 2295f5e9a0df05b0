"""Writes the small programs that test the parser: a loop of three steps, for each compiler.

    python tests/plan/programs/make.py h200      (with the compiler for GPUs installed)
    python tests/plan/programs/make.py h200:2
    python tests/plan/programs/make.py v5e       (with the compiler for TPUs installed)

A step takes eight of a hundred images, convolves them, and updates the kernel.
"""

import os
import sys
from pathlib import Path

from kdjax.plan import targets, topology


def main(name):
    target = targets.parse(name)
    os.environ.update(topology.environment(target, os.environ))
    import jax
    import jax.numpy as jnp

    from kdjax.plan.absent import AbsentParallel

    parallel = AbsentParallel(topology.devices(target))

    def convolve(kernel, images):
        labels = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=labels
        )

    def loss(kernel, images):
        return jnp.sum(jnp.square(convolve(kernel, images)).astype(jnp.float32))

    def run(kernel, images, order):
        def step(kernel, start):
            batch = jax.lax.dynamic_slice_in_dim(images, start, 8)
            value, gradient = jax.value_and_grad(loss)(kernel, batch)
            if parallel.axis_name:
                gradient = jax.lax.psum(gradient, parallel.axis_name)
            return kernel - gradient, value

        return jax.lax.scan(step, kernel, order)

    shapes = (
        jax.ShapeDtypeStruct((3, 3, 16, 32), jnp.bfloat16),
        jax.ShapeDtypeStruct((100, 16, 16, 16), jnp.bfloat16),
        jax.ShapeDtypeStruct((3,), jnp.int32),
    )
    program = parallel.compile(run).lower(*(parallel.replicate(shape) for shape in shapes))
    text = program.compile().as_text()
    # Remove the path of this checkout from the text.
    text = text.replace(str(Path(__file__).resolve()), "/checkout/kdjax/make.py")
    text = text.replace(str(Path(__file__).resolve().parents[3]), "/checkout")
    path = Path(__file__).parent / f"{name.replace(':', '_')}.hlo"
    path.write_text(text)
    print(path, len(text))


if __name__ == "__main__":
    main(sys.argv[1])
