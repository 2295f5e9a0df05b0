"""A loss term from outside the package: a config file registers it, flags set its fields."""

import contextlib
import importlib.util
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small_fields

from kdjax import cli, load_student
from kdjax import config as configuration
from kdjax.config import ConfigError, Term
from kdjax.train import distill, search, train
from kdjax.train.run import own_terms
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.run.workdir import WorkdirError

OWN = """
import jax.numpy as jnp
from kdjax import config as configuration
from kdjax.config.fields import number


def distance(student, teacher, *, power):
    return jnp.mean(jnp.abs(student - teacher) ** power, axis=-1)


configuration.register_term(
    "distance",
    configuration.Term(
        "distance of logits", "logits", loss=distance, fields={"power": number(2.0, "exponent", 1)}
    ),
)


def get_config():
    return configuration.default()
"""

# A term with a module and a memory: the distance of embeddings, minus its mean so far.
OWN_PARTS = """
import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax import config as configuration
from kdjax.config.fields import number


class Projection(nn.Module):
    @nn.compact
    def __call__(self, student, teacher, mode):
        return nn.Dense(teacher.shape[-1])(student), teacher


def parts(*, momentum):
    def loss(student, teacher, *, memory, examples):
        values = jnp.mean(jnp.square(student - (teacher - memory["mean"])), axis=-1)
        total = jnp.where(examples.mask[:, None], teacher, 0.0).sum(0)
        count = examples.mask.sum()
        if examples.devices:
            total, count = jax.lax.psum((total, count), examples.devices)
        mean = momentum * memory["mean"] + (1 - momentum) * total / count
        return values, {"mean": mean}

    def memory(student, teacher, *, examples, key):
        return {"mean": jnp.zeros(teacher.shape[-1])}

    return configuration.Parts(loss, Projection(), memory)


configuration.register_term(
    "distance",
    configuration.Term(
        "distance of embeddings less their mean",
        "embedding",
        parts=parts,
        fields={"momentum": number(0.9, "share of the mean that a step keeps", 0, 1)},
    ),
)


def get_config():
    return configuration.default()
"""


@pytest.fixture
def own_term(tmp_path):
    tables = (
        *(configuration.TERMS, configuration.FIELDS),
        *(configuration.SEARCH_FIELDS, configuration.DISTILL_FIELDS),
    )
    before = [dict(table) for table in tables]

    def forget():
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)

    yield tmp_path / "own.py", forget
    forget()


@pytest.mark.parametrize(("text", "field"), [(OWN, "power"), (OWN_PARTS, "momentum")])
def test_a_config_file_adds_a_loss_that_the_command_line_steers(
    own_term, small_config, tmp_path, capsys, text, field
):
    file, forget = own_term
    file.write_text(text)
    workdir = tmp_path / "run"
    changes = dict(configuration.flatten(small_config)) | {
        "weights.distance": 0.5,
        f"distance.{field}": 1.0,
        "epochs": 1,
    }
    default = dict(configuration.flatten(configuration.default()))
    flags = [f"--config.{n}={v}" for n, v in changes.items() if default.get(n) != v]
    assert cli.main(["train", f"--config={file}", f"--workdir={workdir}", *flags]) == 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(value > 0 for value in lines[0]["distance"][1:])
    assert json.loads((workdir / "config.json").read_text())["distance"] == {field: 1.0}
    # Another loss under the same name is another objective, so the run is refused.
    file.write_text(text.replace("jnp.mean(", "2 * jnp.mean("))
    more = [f"--config={file}", f"--workdir={workdir}", *flags, "--config.epochs=2"]
    forget()
    assert cli.main(["train", *more]) == 2
    assert "the loss of config.weights.distance has changed since" in capsys.readouterr().err
    forget()
    assert load_student(workdir, student=2).name == "student 2, distilled"
    stored = json.loads((workdir / "config.json").read_text())
    stored["weights"] = {term: float(term == "distance") for term in stored["weights"]}
    alone = configuration.from_json(json.dumps(stored), all_terms=False)
    assert not any(alone.weights.values())
    with pytest.raises(WorkdirError, match="no loss term 'distance' is registered, and JSON"):
        train(configuration.default(), workdir)
    if field == "momentum":
        with contextlib.closing(Checkpoints(workdir / "checkpoints/ensemble-seed0")) as found:
            stored = found.read("last")[1]["params"]["terms"]["distance"]
        assert stored["student_2"]["Dense_0"]["kernel"].shape == (8, 16)


@pytest.mark.parametrize(
    ("returned", "found"),
    [("0.0", "0.0"), ("jnp.mean(student)", r"shape \(\)"), ("student", r"shape \(16, 4\)")],
)
def test_a_loss_that_is_not_one_number_for_each_example_is_named(
    own_term, small_config, tmp_path, returned, found
):
    def loss(student, teacher):
        return {"0.0": 0.0, "jnp.mean(student)": jnp.mean(student), "student": student}[returned]

    configuration.register_term("distance", Term("mine", "logits", loss=loss))
    config = configuration.default()
    config.update_from_flattened_dict(dict(configuration.flatten(small_config)))
    config.weights.distance = 1.0
    message = rf"the loss of config.weights.distance returned {found}: expected one number for"
    with pytest.raises(ConfigError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _with_memory(loss, first=lambda student: np.zeros(student.shape[-1], np.float32)):
    """A term that reads embeddings and has a memory."""
    parts = configuration.Parts(
        lambda student, teacher, *, memory, examples: loss(student, teacher, memory, examples),
        memory=lambda student, teacher, *, examples, key: first(student),
    )
    return Term("mine", "embedding", parts=lambda: parts)


def _no_gradient(student, teacher):
    return jax.lax.while_loop(lambda x: x.sum() > 1e9, lambda x: x / 2, student.sum(-1))


# Term -> what is said of it. The line in a file is that of the loss.
MISTAKES = {
    "other shapes": (
        Term("mine", "embedding", loss=lambda student, teacher: abs(student - teacher).sum(-1)),
        r"the loss of config.weights.distance raised TypeError: sub got incompatible shapes.*"
        r"\(.*test_own_terms.py, line \d+\)",
    ),
    "too few values": (
        Term("mine", "last map", loss=lambda student, teacher: student[0, 0, 0, :1]),
        r"config.weights.distance returned shape \(1,\): expected .* shape \(\d+,\)",
    ),
    "another memory": (
        _with_memory(lambda student, teacher, memory, examples: (student[:, 0], teacher[0, 0])),
        r"the loss of config.weights.distance returned a memory whose student_\d is float32\[\]: "
        r"expected what it was given, float32\[\d+\]",
    ),
    "another tree": (
        _with_memory(lambda student, teacher, memory, examples: (student[:, 0], {"a": memory})),
        r"returned a memory whose student_\d is missing: expected what it was given, float32",
    ),
    "a name that is none": (
        Term("mine", "logits", loss="soft_target_kll"),
        "the loss of config.weights.distance is 'soft_target_kll': kdjax.losses has none",
    ),
    "no gradient": (
        Term("mine", "embedding", loss=_no_gradient),
        "a step with the loss of config.weights.distance fails: ValueError: Reverse-mode",
    ),
}


def _start_of(task, small_npz, devices=1):
    default = {
        train: configuration.default,
        search: configuration.search_default,
        distill: configuration.distill_default,
    }
    config = default[task]()
    config.update_from_flattened_dict(small_fields(small_npz))
    config.compute.devices = devices
    config.weights.distance = 1.0
    if task is not search:
        config.student_scales = (1.0, 0.5)
    return config


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize(("task", "devices"), [(train, 1), (search, 1), (distill, 2)])
def test_a_mistake_in_a_loss_is_found_before_anything_is_trained(
    own_term, small_npz, tmp_path, task, devices, mistake
):
    term, message = MISTAKES[mistake]
    configuration.register_term("distance", term)
    with pytest.raises(ConfigError, match=message):
        task(_start_of(task, small_npz, devices), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _gathered(student, teacher, memory, examples):
    """Compares with what all devices saw in the step before."""
    found = jax.lax.all_gather(teacher, examples.devices, tiled=True)
    size = student.shape[-1]
    return jnp.square(student - memory.mean(0)[:size]).mean(-1), found


def test_a_loss_may_gather_and_make_its_memory_on_the_host(own_term, small_npz, tmp_path):
    def first(student):
        size = student.shape[-1]
        return np.random.default_rng(0).random((16, 2 * size)).astype(np.float32)

    configuration.register_term("distance", _with_memory(_gathered, first))
    config = _start_of(train, small_npz, devices=2)
    config.update_from_flattened_dict({"method": "ensemble", "epochs": 1})
    summary = train(config, tmp_path / "run")
    assert train(config, tmp_path / "run") == summary


def test_names_that_are_taken_are_refused():
    for name in (
        "soft",
        "epochs",
        "accuracy",
        "two words",
        "step",
        "penalty",
        "learning_rate",
        "class",
        5,
    ):
        with pytest.raises(ConfigError, match=repr(name)):
            configuration.register_term(name, Term("mine", "logits"))
    with pytest.raises(ConfigError, match="'mine' has parts and reads 'logits'"):
        configuration.register_term("mine", Term("mine", "logits", parts="vid"))
    with pytest.raises(ConfigError, match="'mine' reads 'logitz': expected one of 'labels', 'log"):
        configuration.register_term("mine", Term("mine", "logitz"))
    with pytest.raises(ConfigError, match="'mine' has neither loss nor parts"):
        configuration.register_term("mine", Term("mine", "logits"))
    with pytest.raises(
        ConfigError, match=r"fields\['power'\] = 2.0: expected a kdjax.config.Field"
    ):
        configuration.register_term(
            "mine", Term("mine", "logits", loss="dkd", fields={"power": 2.0})
        )
    assert "mine" not in configuration.TERMS


def test_a_term_that_is_registered_again_has_its_new_fields_only(own_term):
    for field in ("first", "second"):
        fields = {field: configuration.Field(1.0, "a number")}
        configuration.register_term("mine", Term("mine", "logits", loss="dkd", fields=fields))
    for made in (configuration.default(), configuration.search_default()):
        assert made.mine.to_dict() == {"second": 1.0}


# A loss with one constant, in every form in which a loss can hold it; and functions in a tuple.
CONSTANTS = {
    "a closure": "def make(power):\n    def loss(s, t):\n        return abs(s - t) ** power\n"
    "    return loss\nloss = make({})",
    "partial": "import functools\ndef own(s, t, power):\n    return abs(s - t) ** power\n"
    "loss = functools.partial(own, power={})",
    "a dict": "P = {{'power': {}}}\ndef loss(s, t):\n    return abs(s - t) ** P['power']",
    "an array": "import numpy as np\nP = np.array({})\ndef loss(s, t):\n    return abs(s - t) ** P",
    "a default": "def loss(s, t, power={}):\n    return abs(s - t) ** power",
    "a property": "class P:\n    @property\n    def power(self):\n        return {}\n"
    "def loss(s, t):\n    return abs(s - t) ** P().power",
    "a cached property": "import functools\nclass P:\n    @functools.cached_property\n"
    "    def power(self):\n        return {}\ndef loss(s, t):\n    return s ** P().power",
    "a class method": "class P:\n    @classmethod\n    def power(cls):\n        return {}\n"
    "def loss(s, t):\n    return abs(s - t) ** P.power()",
    "an attribute": "class P:\n    def __init__(self, power):\n        self.power = power\n"
    "    def loss(self, s, t):\n        return abs(s - t) ** self.power\nloss = P({}).loss",
    "a callable": "class P:\n    def __init__(self, power):\n        self.power = power\n"
    "    def __call__(self, s, t):\n        return s ** self.power\nloss = P({})",
    "a tuple": "def f(x):\n    return x\nP = (f, {})\ndef loss(s, t):\n    return P[0](s) * P[1]",
}


@pytest.mark.parametrize("text", CONSTANTS.values(), ids=CONSTANTS)
def test_a_loss_is_its_source_and_its_constants(tmp_path, monkeypatch, text):
    def found(power):
        file = tmp_path / f"own_{power}.py"
        file.write_text(text.format(power))
        specification = importlib.util.spec_from_file_location("own_loss", file)
        module = importlib.util.module_from_spec(specification)
        monkeypatch.setitem(sys.modules, "own_loss", module)
        specification.loader.exec_module(module)
        return own_terms.digest(module.loss)

    assert "" != found(2) == found(2) != found(3)
