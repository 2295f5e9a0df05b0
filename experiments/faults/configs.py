"""Tries random configurations and width vectors: each trains two steps or gives one clear error.

Command:  python experiments/faults/configs.py --examples=1000 --out=configs.json
"""

import argparse
import collections
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Thousands of small programs are compiled, and each runs only twice: optimising does not pay.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdjax import config as configuration
from kdjax.config import FIELDS, ConfigError
from kdjax.data import DataError
from kdjax.train.tasks.experiment import resolve

# The base is small enough that two steps take seconds, whatever the drawn fields add.
_BASE = {
    "method": "ensemble",
    "seeds": (0,),
    "network_width": 0.25,
    "student_scales": (1.0, 0.5),
    "batch_size": 8,
    "compute.devices": 1,
}
_NAMES = (
    "resnet8", "resnet14", "resnet20", "vgg16_bn", "mobilenet_v2", "resnet7", "lenet", "digits",
    "cifar10", "npz:none.npz", "folder:/none", "tfds:/none", "nothing:else", "stop", "skip",
    "float32", "bfloat16", "cosine", "step", "adam", "rmsprop", "packed", "merged_scanned", "best",
)  # fmt: skip
_NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 8, 64, -1, 10**6, 10**12, 2**63, 10**30]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(0, 1),
    st.integers(-3, 40),
)
_VALUES = st.one_of(
    _NUMBERS,
    st.booleans(),
    st.sampled_from(_NAMES),
    st.text(max_size=4),
    st.none(),
    st.lists(_NUMBERS, max_size=4).map(tuple),
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0.05, 1)),
)
_GROUPS = ("stem", "stage1", "stage2", "stage3")
_WIDTHS = st.dictionaries(
    st.sampled_from([*_GROUPS, "stage9"]),
    st.one_of(st.integers(1, 12), st.integers(-2, 70), _NUMBERS, st.none()),
    max_size=5,
) | st.fixed_dictionaries({group: st.integers(1, 12) for group in _GROUPS})


@st.composite
def near(draw: st.DrawFn, name: str) -> Any:
    """Draws a value for a field, mostly of the fitting type and sometimes of any kind."""
    default = FIELDS[name].default
    if isinstance(default, bool):
        fitting: st.SearchStrategy[Any] = st.booleans()
    elif isinstance(default, int):
        fitting = st.integers(-1, 40)
    elif isinstance(default, float):
        fitting = st.floats(0, 2) | st.floats(allow_nan=True)
    elif isinstance(default, str):
        words = FIELDS[name].allowed.removeprefix("one of ").split(", ")
        fitting = st.sampled_from([*words, *words, *_NAMES])
    else:
        fitting = st.lists(st.floats(0, 1) | st.integers(0, 9), max_size=3).map(tuple)
    return draw(_VALUES if draw(st.integers(0, 11)) == 0 else fitting)


@st.composite
def inputs(draw: st.DrawFn) -> tuple[dict[str, Any], list[Any]]:
    """Draws values for some fields, and sometimes width vectors in place of scales."""
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=3, unique=True))
    vectors = draw(st.one_of(st.just([]), st.just([]), st.lists(_WIDTHS, min_size=1, max_size=3)))
    return {name: draw(near(name)) for name in names}, vectors


def check(overrides: dict[str, Any], vectors: list[Any], folder: Path) -> str:
    """Returns ``trained`` or the kind of the clear error; any other error is raised as it is.

    Args:
      overrides: field -> value.
      vectors: contents of width files, if any.
      folder: where the width files are written.
    """
    config = configuration.default()
    try:
        config.update_from_flattened_dict({**_BASE, **overrides})
    except (KeyError, TypeError, ValueError):
        return "refused by ml_collections"  # As it refuses `--config.name=value`, with the reason.
    for number, vector in enumerate(vectors):
        (folder / f"{number}.json").write_text(json.dumps(vector))
    if vectors:
        config.student_widths = tuple(str(folder / f"{n}.json") for n in range(len(vectors)))
    try:
        configuration.validate(config)
        experiment = resolve(config)
    except (ConfigError, DataError) as error:
        message = str(error)
        assert message.strip(), "an error without a word"
        assert len(message) < 2000, "an error nobody reads"
        return type(error).__name__
    method = experiment.methods[0]
    runner = experiment.runner(method, experiment.feed())
    state = runner.place(runner.initial_state(config.seeds[0]))
    inputs, step = runner.epoch(state, 0), 0
    for _ in range(2):
        state, metrics, taken = runner.steps(state, inputs, step, runner.steps_per_epoch)
        step += taken
        if step >= runner.steps_per_epoch:
            break
    assert np.all(runner.to_host(metrics)["loss"][1] >= 0)
    assert int(runner.fetch(state).step) == step
    return "trained"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--out", default="", help="JSON")
    chosen = parser.parse_args()
    found: collections.Counter[str] = collections.Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:

        @settings(
            max_examples=chosen.examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs())
        def one(drawn: tuple[dict[str, Any], list[Any]]) -> None:
            found[check(*drawn, Path(folder))] += 1
            if sum(found.values()) % 50 == 0:
                jax.clear_caches()
                print(dict(found), file=sys.stderr, flush=True)

        one()
    record = {"command": " ".join(["python", *sys.argv]), "inputs": sum(found.values()), **found}
    print(f"{record['inputs']} inputs in {time.monotonic() - started:.0f} s: {dict(found)}")
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
