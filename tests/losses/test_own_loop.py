"""The losses in a user's own training loop with linen and nnx, as in the README."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from kdjax import losses

CLASSES = 3


def examples():
    """Returns (images as vectors, labels, a teacher's logits) of three separable classes."""
    labels = np.arange(24) % CLASSES
    noise = np.random.default_rng(0).normal(0, 0.3, (24, CLASSES))
    inputs = np.eye(CLASSES)[labels] + noise
    return jnp.float32(inputs), jnp.asarray(labels), jnp.float32(6 * np.eye(CLASSES)[labels])


def objective(logits, teacher_logits, labels):
    distilled = losses.dkd(logits, teacher_logits, labels, temperature=2.0)
    return jnp.mean(losses.hard_label_cross_entropy(logits, labels) + distilled)


def test_with_linen():
    inputs, labels, teacher_logits = examples()
    student, optimizer = nn.Dense(CLASSES), optax.adam(0.1)
    params = student.init(jax.random.key(0), inputs)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        loss, gradients = jax.value_and_grad(
            lambda params: objective(student.apply(params, inputs), teacher_logits, labels)
        )(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    history = []
    for _ in range(60):
        params, state, loss = step(params, state)
        history.append(float(loss))
    assert history[-1] < 0.5 * history[0]
    assert (student.apply(params, inputs).argmax(-1) == labels).all()


def test_with_nnx():
    inputs, labels, teacher_logits = examples()
    student = nnx.Linear(CLASSES, CLASSES, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(student, optax.adam(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(student, optimizer):
        loss, gradients = nnx.value_and_grad(
            lambda student: objective(student(inputs), teacher_logits, labels)
        )(student)
        optimizer.update(student, gradients)
        return loss

    history = [float(step(student, optimizer)) for _ in range(60)]
    assert history[-1] < 0.5 * history[0]
    assert (student(inputs).argmax(-1) == labels).all()
