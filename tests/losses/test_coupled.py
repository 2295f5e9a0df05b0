"""Losses over a whole batch: padded rows do not count, and eight devices equal one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from kdjax import losses

ROWS, WIDTH, DEVICES, EXAMPLES = 11, 5, 8, 20
PADDED = 16
INDICES = np.array([3, 19, 0, 7, 12, 4, 9, 15, 1, 11, 6])


def contrast(first, second, *, where=None, axis_name=None, indices, negatives, memory):
    return losses.crd(first, second, memory, indices, negatives, where=where, axis_name=axis_name)


LOSSES = {
    "DIST": functools.partial(losses.dist, inter_weight=2.0, temperature=2.0),
    "MLKD, batch": losses.mlkd_batch,
    "MLKD, class": losses.mlkd_class,
    "SP": losses.similarity_preserving,
    "RKD": losses.rkd,
    "PKT": losses.pkt,
    "CRD": contrast,
}


def contrast_inputs():
    memory = losses.crd_memory(jax.random.key(1), examples=EXAMPLES, dim=WIDTH)
    negatives = np.random.default_rng(2).integers(0, EXAMPLES, (ROWS, 6))
    return {"indices": INDICES, "negatives": negatives, "memory": memory}


def batch(rows=ROWS, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(0, 2, (rows, WIDTH)).astype(np.float32) for _ in range(2)]


def padded(array, order, garbage):
    """Returns ``PADDED`` rows: ``array`` at the positions ``order`` and garbage elsewhere."""
    array = np.asarray(array)
    result = np.full((PADDED, *array.shape[1:]), garbage, array.dtype)
    result[order] = array
    return result


def case(name, garbage, order):
    """Returns the padded batch: arrays, per-row options, constant options."""
    arrays = [padded(array, order, garbage) for array in batch()]
    if name != "CRD":
        return arrays, {}, {}
    inputs = contrast_inputs()
    # Padded rows have the index of an example that is real in another row.
    rows = {key: padded(inputs[key], order, 7) for key in ("indices", "negatives")}
    return arrays, rows, {"memory": inputs["memory"]}


@functools.cache
def compact(name):
    """Returns values of the batch without padding, and gradients of their sum in both arguments."""
    options = contrast_inputs() if name == "CRD" else {}

    @jax.jit
    def compiled(first, second):
        values, pull = jax.vjp(lambda a, b: LOSSES[name](a, b, **options), first, second)
        return values, pull(jnp.ones(ROWS))

    values, gradients = compiled(*batch())
    return np.asarray(values), [np.asarray(gradient) for gradient in gradients]


@pytest.mark.parametrize("name", LOSSES)
def test_padded_rows_count_for_nothing(name):
    order = np.random.default_rng(3).permutation(PADDED)[:ROWS]
    where = np.isin(np.arange(PADDED), order)
    values, gradients = compact(name)

    @jax.jit
    def compiled(first, second, rows, constants):
        result, pull = jax.vjp(
            lambda a, b: LOSSES[name](a, b, where=where, **rows, **constants), first, second
        )
        return result, pull(jnp.ones(PADDED))

    for garbage in (np.nan, np.inf, 1e30):
        arrays, rows, constants = case(name, garbage, order)
        actual, actual_gradients = compiled(*arrays, rows, constants)
        np.testing.assert_array_equal(np.asarray(actual)[~where], 0.0)
        np.testing.assert_allclose(np.asarray(actual)[order], values, rtol=1e-5, atol=1e-6)
        for gradient, expected in zip(actual_gradients, gradients, strict=True):
            np.testing.assert_array_equal(np.asarray(gradient)[~where], 0.0)
            np.testing.assert_allclose(
                np.asarray(gradient)[order], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
            )


@pytest.mark.parametrize("name", LOSSES)
def test_eight_devices_give_the_values_and_gradients_of_one(name):
    # The last two devices have one real row and none.
    order = np.array([0, 1, 2, 3, 5, 6, 8, 9, 10, 11, 12])
    where = np.isin(np.arange(PADDED), order)
    arrays, rows, constants = case(name, np.nan, order)
    values, _ = compact(name)
    arrays = [np.where(where[:, None], array, 0.5) for array in arrays]
    share = functools.partial(jax.tree.map, lambda leaf: leaf.reshape(DEVICES, -1, *leaf.shape[1:]))

    def per_device(weights, first, second, where, rows, constants):
        """Computes like a training step: each device's own sum, then the sum of all gradients."""

        def objective(weights):
            result = LOSSES[name](
                first @ weights[0],
                second @ weights[1],
                where=where,
                axis_name="devices",
                **rows,
                **constants,
            )
            return jnp.sum(jnp.where(where, result, 0.0)), result

        gradients, result = jax.grad(objective, has_aux=True)(weights)
        return jax.lax.psum(gradients, "devices"), result

    def on_one(weights):
        return jnp.sum(
            LOSSES[name](
                arrays[0] @ weights[0], arrays[1] @ weights[1], where=where, **rows, **constants
            )
        )

    mapped = jax.pmap(
        per_device, axis_name="devices", in_axes=(None, 0, 0, 0, 0, None), out_axes=(None, 0)
    )
    unit = np.eye(WIDTH, dtype=np.float32)
    tilted = unit + 0.1 * np.sin(np.arange(WIDTH**2, dtype=np.float32)).reshape(WIDTH, WIDTH)
    _, actual = mapped((unit, unit), *share(arrays), share(where), share(rows), constants)
    np.testing.assert_allclose(np.ravel(actual)[order], values, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.ravel(actual)[~where], 0.0)

    gradients, _ = mapped((tilted, unit), *share(arrays), share(where), share(rows), constants)
    expected = jax.jit(jax.grad(on_one))((tilted, unit))
    for gradient, one in zip(gradients, expected, strict=True):
        assert np.abs(one).max() > 1e-4
        np.testing.assert_allclose(gradient, one, rtol=1e-4, atol=2e-5 * np.abs(one).max())


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_one_row_and_of_none_is_finite(name):
    arrays, rows, constants = case(name, 0.5, np.arange(ROWS))

    @jax.jit
    def compiled(where):
        return jax.vjp(lambda a, b: LOSSES[name](a, b, where=where, **rows, **constants), *arrays)[
            0
        ], jax.grad(lambda arrays: LOSSES[name](*arrays, where=where, **rows, **constants).sum())(
            arrays
        )

    for real in (np.arange(PADDED) == 2, np.zeros(PADDED, bool)):
        values, gradients = compiled(real)
        assert np.isfinite(values).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        np.testing.assert_array_equal(np.asarray(values)[~real], 0.0)


# The memory of the contrastive loss


def test_contrast_equals_the_released_formula():
    inputs = contrast_inputs()
    first, second = batch()
    expected = reference.crd(
        *(np.float64(array) for array in (first, second)),
        *(np.asarray(side, np.float64) for side in inputs["memory"][:2]),
        INDICES,
        inputs["negatives"],
    )
    actual = contrast(first, second, **inputs)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_contrast_gradient_is_that_of_float64_differences():
    # The normalisers are constants in the gradient, so they are set first, and the reference
    # divides by them.
    inputs = contrast_inputs()
    first, second = batch()
    memory = losses.crd_update(inputs["memory"], first, second, INDICES, inputs["negatives"])
    both = [np.asarray(side, np.float64) for side in memory[:2]]

    def exact(first, second):
        total = 0.0
        noise = inputs["negatives"].shape[1] / EXAMPLES
        for vectors, entries, constant in (
            (first, both[1], memory.student_normaliser),
            (second, both[0], memory.teacher_normaliser),
        ):
            unit = reference.rows_of_length_one(vectors)
            candidates = np.concatenate([INDICES[:, None], inputs["negatives"]], axis=1)
            scores = np.exp(np.einsum("bd,bkd->bk", unit, entries[candidates]) / 0.07)
            scores = scores / float(constant)
            total -= np.log(scores[:, 0] / (scores[:, 0] + noise + 1e-7)).sum()
            total -= np.log(noise / (scores[:, 1:] + noise + 1e-7)).sum()
        return total

    gradients = jax.grad(
        lambda a, b: contrast(a, b, **(inputs | {"memory": memory})).sum(), argnums=(0, 1)
    )(first, second)
    generator, step = np.random.default_rng(5), 1e-5
    points = [np.float64(first), np.float64(second)]
    for position in range(2):
        direction = generator.standard_normal(first.shape)
        up, down = list(points), list(points)
        up[position] = points[position] + step * direction
        down[position] = points[position] - step * direction
        expected = (exact(*up) - exact(*down)) / (2 * step)
        actual = np.sum(np.asarray(gradients[position], np.float64) * direction)
        assert actual == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("on_devices", [False, True])
def test_an_update_moves_the_real_examples_half_way_and_sets_the_normalisers_once(on_devices):
    inputs = contrast_inputs()
    before = inputs["memory"]
    order = np.arange(ROWS)
    where = np.arange(PADDED) < ROWS
    (first, second), rows, _ = case("CRD", np.nan, order)

    def update(memory, first, second, where, rows, axis_name=None):
        return losses.crd_update(
            memory,
            first,
            second,
            rows["indices"],
            rows["negatives"],
            where=where,
            axis_name=axis_name,
        )

    if on_devices:
        share = functools.partial(
            jax.tree.map, lambda leaf: leaf.reshape(DEVICES, -1, *leaf.shape[1:])
        )
        mapped = jax.pmap(
            functools.partial(update, axis_name="devices"),
            axis_name="devices",
            in_axes=(None, 0, 0, 0, 0),
        )
        copies = mapped(before, *share([first, second]), share(where), share(rows))
        for leaf in jax.tree.leaves(copies):
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
        after = jax.tree.map(lambda leaf: leaf[0], copies)
    else:
        after = jax.jit(update)(before, first, second, where, rows)
    candidates = np.concatenate([INDICES[:, None], inputs["negatives"]], axis=1)
    for side, vectors, other in (("student", first, "teacher"), ("teacher", second, "student")):
        new = reference.rows_of_length_one(np.float64(vectors[:ROWS]))
        expected = np.array(getattr(before, side), np.float64)
        expected[INDICES] = reference.rows_of_length_one(0.5 * expected[INDICES] + 0.5 * new)
        np.testing.assert_allclose(getattr(after, side), expected, atol=1e-6)
        # The normaliser is n times the mean over the batch and its positives, with the old memory.
        entries = np.float64(getattr(before, other))[candidates]
        mean = np.exp(np.einsum("bd,bkd->bk", new, entries) / 0.07).mean()
        assert float(getattr(after, f"{side}_normaliser")) == pytest.approx(20 * mean, rel=1e-5)
    if not on_devices:
        again = jax.jit(update)(after, second, first, where, rows)
        assert again[2:] == after[2:]


def test_negatives_are_other_examples_or_those_of_other_classes():
    key, indices = jax.random.key(0), jnp.array([0, 5, 9])
    drawn = np.asarray(losses.crd_negatives(key, indices, examples=10, count=5000))
    assert drawn.shape == (3, 9)
    labels = np.array([2, 0, 1, 1, 0, 2, 2, 0, 1, 2])
    seen = [set(), set(), set()]
    of_other_classes = [set(), set(), set()]
    for step in range(60):
        key = jax.random.key(step)
        plain = losses.crd_negatives(key, indices, examples=10)
        other = losses.crd_negatives(key, indices, examples=10, labels=labels)
        for row in range(3):
            seen[row] |= set(np.asarray(plain[row]).tolist())
            of_other_classes[row] |= set(np.asarray(other[row]).tolist())
    assert seen == [set(range(10)) - {int(index)} for index in indices]
    # All three examples have label 2.
    assert of_other_classes == [{1, 2, 3, 4, 7, 8}] * 3


def test_negatives_are_drawn_inside_jit_with_labels_from_outside():
    labels = np.array([0, 1, 2, 0, 1])

    def draw(key, indices):
        return losses.crd_negatives(key, indices, examples=5, count=3, labels=labels)

    key, indices = jax.random.key(0), jnp.array([0, 4])
    drawn = jax.jit(draw)(key, indices)
    np.testing.assert_array_equal(drawn, draw(key, indices))
    assert (labels[drawn] != labels[np.array([[0], [4]])]).all()


def test_what_does_not_fit_the_memory_is_named():
    inputs = contrast_inputs()
    memory, negatives = inputs["memory"], inputs["negatives"]
    first, second = batch()
    cases = [
        (lambda: losses.crd_memory(jax.random.key(0), examples=1, dim=4), "examples is 1"),
        (lambda: losses.crd_negatives(jax.random.key(0), INDICES, examples=9, count=0), "count"),
        (
            lambda: losses.crd_negatives(
                jax.random.key(0), INDICES, examples=9, labels=np.zeros(3, int)
            ),
            r"labels have shape \(3,\): expected \[9\]",
        ),
        (
            lambda: losses.crd_negatives(
                jax.random.key(0), INDICES, examples=9, labels=np.zeros(9, int)
            ),
            "labels are all 0: no example is of another class",
        ),
        (
            lambda: losses.crd(first[:, :4], second[:, :4], memory, INDICES, negatives),
            "embeddings of 5 numbers",
        ),
        (lambda: losses.crd(first, second[:, :4], memory, INDICES, negatives), "must be equal"),
        (
            lambda: losses.crd_update(memory, first, second, INDICES, negatives, momentum=1.0),
            "momentum is 1.0",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("name", ["SP", "RKD", "PKT"])
def test_a_batch_without_rows_has_no_values(name):
    nothing = jnp.zeros((0, 4, 4, 3) if name == "SP" else (0, WIDTH))
    assert LOSSES[name](nothing, nothing).shape == (0,)


def test_crd_is_finite_at_its_lowest_temperature():
    """In few dimensions the first entries are longer than 1."""
    memory = losses.crd_memory(jax.random.key(0), examples=500, dim=3)
    first, second = (jax.random.normal(jax.random.key(seed), (4, 3)) for seed in (1, 2))
    indices, negatives = jnp.arange(4), jnp.arange(80).reshape(4, 20)
    coldest = functools.partial(losses.crd_update, temperature=0.02)
    memory = coldest(memory, first, second, indices, negatives)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(memory))
    loss = losses.crd(first, second, memory, indices, negatives, temperature=0.02)
    assert np.isfinite(loss).all()
    with pytest.raises(ValueError, match=r"temperature is 0.01: it must be from 0\.02 to 1e\+06"):
        losses.crd(first, second, memory, indices, negatives, temperature=0.01)
