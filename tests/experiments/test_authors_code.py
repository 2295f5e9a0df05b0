"""The habits of the authors' code do what their names say."""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models

FOLDER = Path(__file__).parents[2] / "experiments" / "authors_code"


@pytest.fixture(scope="module")
def habits():
    spec = importlib.util.spec_from_file_location("authors_code", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_only_the_widest_student_trains_the_stem():
    network = models.create(f"{FOLDER / 'stem_from_pivot.py'}:create", 4).scaled(0.25)
    widths = models.student_vectors(network, (1.0, 0.5))
    model = models.StudentEnsemble(network, widths)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = models.initialize(model, 1, (8, 8, 3))

    def gradient(student):
        def logit(params):
            outputs = model.apply({**variables, "params": params}, images)
            return outputs.logits[student].sum()

        stem = jax.jit(jax.grad(logit))(variables["params"])["stem"]
        return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(stem))

    assert gradient(0) > 0 and gradient(1) == 0


def test_adapters_are_silent_for_as_many_steps_as_said(habits):
    updates = {"adapters": {"kernel": jnp.ones(2)}, "stem": {"kernel": jnp.ones(2)}}
    silent = habits.silent(2)
    state = silent.init(updates)
    for heard in (0.0, 0.0, 1.0):
        found, state = silent.update(updates, state)
        np.testing.assert_array_equal(found["adapters"]["kernel"], heard)
        np.testing.assert_array_equal(found["stem"]["kernel"], 1.0)


def test_changes_of_gains_are_paired_by_seed(habits):
    base = np.zeros((2, 3, 1))  # [seeds, epochs, students]
    curves = {name: base.copy() for name in habits.ROWS}
    curves["paper"][:, :, 0] = [[1, 5, 2], [1, 3, 4]]
    curves["stem"][:, -1, 0] = [3, 3]
    found = habits.summarize(curves)
    assert found["gain"]["mean"]["points"] == 3.0
    changes = {name: row["mean"]["points"] for name, row in found["change_of_gain"].items()}
    assert changes["the widest student alone trains the stem"] == 0.0
    assert changes["the best epoch of each student, also alone"] == 1.5
    # The differences are 1 and -1, so the half width is t(.975, 1).
    stem = found["change_of_gain"]["the widest student alone trains the stem"]
    assert stem["students"][0]["half_width"] == pytest.approx(12.7062, abs=1e-3)
    lines = habits.table(found).splitlines()
    assert "| gain with the paper's weights | +3.00 ± 12.71 | +3.00 ± 12.71 |" in lines
