"""Adapters that run together, and the distances that they compute themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses, models
from kdjax.models.adapters import add_biases, biases_one_by_one, distances_from_pivot
from kdjax.models.execution import execution_named
from kdjax.models.packing import Packing, pack_kernels


def test_biases_are_added_alike_in_both_forms():
    generator = np.random.default_rng(0)
    packing = Packing.of([2, 1, 2], lanes=8)
    y = generator.normal(size=(3, 2, 2, 8)).astype(np.float32)
    biases = [generator.normal(size=width).astype(np.float32) for width in packing.widths]
    direction = [generator.normal(size=(3, 2, 2, width)) for width in packing.widths]

    def total(form, y, biases):
        return sum(map(jnp.vdot, form(y, biases, packing), direction))

    for ours, bias, theirs in zip(
        add_biases(y, biases, packing), biases, biases_one_by_one(y, biases, packing), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.shape[-1] == bias.size
    np.testing.assert_array_equal(add_biases(y, biases, packing)[1], y[..., 2:3] + biases[1])
    gradients = [
        jax.grad(functools.partial(total, form), argnums=(0, 1))(y, biases)
        for form in (add_biases, biases_one_by_one)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), *gradients)
    np.testing.assert_allclose(gradients[0][1][0], direction[0].sum((0, 1, 2)), rtol=1e-5)


def adapted_case():
    """A joint map of three students with one unused channel, and the last two's adapters."""
    generator = np.random.default_rng(1)
    source, pivot = Packing((4, 3, 2), 10), 4
    x = generator.normal(size=(5, 3, 2, 10)).astype(np.float32)
    kernels = [generator.normal(size=(1, 1, width, pivot)).astype(np.float32) for width in (3, 2)]
    biases = [generator.normal(size=pivot).astype(np.float32) for _ in kernels]
    weights = generator.uniform(size=(2, 5)).astype(np.float32)
    return source, pivot, x, kernels, biases, weights


def test_distances_and_their_derivatives_are_those_of_adapted_maps():
    source, pivot, x, kernels, biases, weights = adapted_case()

    def at_once(x, kernels, biases):
        target = Packing.of([0, pivot, pivot], lanes=1)
        kernel = pack_kernels([jnp.zeros((1, 1, pivot, 0)), *kernels], source, target)
        found = distances_from_pivot(x, kernel, target.join(biases), pivot)
        return jnp.vdot(found, weights), found

    def from_maps(x, kernels, biases):
        own = source.split(x)
        found = jnp.stack(
            [
                losses.feature_mse(
                    jnp.einsum("nhwi,io->nhwo", part, kernel[0, 0], precision="highest") + bias,
                    jax.lax.stop_gradient(own[0]),
                )
                for part, kernel, bias in zip(own[1:], kernels, biases, strict=True)
            ]
        )
        return jnp.vdot(found, weights), found

    (_, ours), gradients = jax.value_and_grad(at_once, (0, 1, 2), has_aux=True)(x, kernels, biases)
    (_, theirs), expected = jax.value_and_grad(from_maps, (0, 1, 2), has_aux=True)(
        x, kernels, biases
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    close(ours, theirs)
    jax.tree.map(close, gradients, expected)
    assert not np.asarray(gradients[0])[..., :pivot].any()  # The pivot gets no gradient.
    # Check one distance by hand, in float64.
    own = np.einsum("hwi,io->hwo", x[0, ..., 4:7].astype(float), kernels[0][0, 0]) + biases[0]
    close(ours[0, 0], np.mean((own - x[0, ..., :4]) ** 2))


@pytest.mark.parametrize(
    ("execution", "dtype", "blocks"),
    [("merged", jnp.bfloat16, 3), ("merged", jnp.float32, 0), ("sequential", jnp.bfloat16, 0)],
)
def test_an_ensemble_gives_distances_where_they_cost_no_precision(execution, dtype, blocks):
    architecture = models.create("resnet8", 10)
    widths = models.student_vectors(architecture, (1.0, 0.5, 0.3))
    model = models.StudentEnsemble(
        architecture, widths, dtype, execution=execution_named(execution)
    )
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = models.initialize(model, 0, images.shape[1:])
    run = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    outputs, _ = jax.jit(run)(variables, images)
    assert len(outputs.distances) == blocks
    for block, found in enumerate(outputs.distances):
        assert found.shape == (2, 4) and found.dtype == jnp.float32
        expected = [
            losses.feature_mse(own, outputs.features[block][0]) for own in outputs.adapted[block]
        ]
        np.testing.assert_allclose(found, expected, rtol=0.02)
