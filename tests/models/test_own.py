"""Networks written by a user: the example is trained; wrong files and functions are refused."""

import contextlib
import functools
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bare import BARE, bare

from kdjax import config as configuration
from kdjax import costs, models, tracing
from kdjax.config import ConfigError
from kdjax.deploy.student import load_student
from kdjax.models import registry
from kdjax.models.execution import execution_named
from kdjax.train import train
from kdjax.train.run import network_files, workdir
from kdjax.train.run.workdir import WorkdirError
from kdjax.train.tasks.evaluate import evaluate
from kdjax.train.tasks.experiment import resolve
from kdjax.train.tasks.search_teacher import load_teacher

EXAMPLE = f"{Path(__file__).parents[2] / 'configs' / 'networks' / 'forked.py'}:create"


@functools.cache
def forked():
    return models.create(EXAMPLE, 4, width=0.25)


def test_the_example_costs_what_its_layers_do():
    assert dict(forked().widths) == {"stem": 4, "near": 8, "far": 4, "join": 16}
    # (weights, normalisation or bias, pixels, channels) for an 8 x 8 x 1 input.
    layers = [
        (9 * 1 * 4, 2 * 4, 8 * 8, 4),
        (9 * 4 * 8, 2 * 8, 4 * 4, 8),
        (25 * 4 * 4, 2 * 4, 4 * 4, 4),
        (9 * 12 * 16, 2 * 16, 2 * 2, 16),
        (16 * 4, 4, 1, 4),
    ]
    assert costs.count(forked(), forked().widths, (8, 8, 1)) == costs.Cost(
        params=sum(weights + own for weights, own, _, _ in layers),
        macs=sum(weights * pixels for weights, _, pixels, _ in layers),
        activations=sum(pixels * channels for _, _, pixels, channels in layers),
    )


def test_the_join_reads_both_sides_of_the_fork():
    found = tracing.trace_architecture(forked(), (8, 8, 1))
    assert [(group.name, group.channels, group.held) for group in found.groups] == [
        *(("stem", 4, ""), ("near", 8, ""), ("far", 4, ""), ("join", 16, ""))
    ]
    reads = {layer.name: layer.reads.tolist() for layer in found.layers}
    assert reads["join"] == [*found.widths["near"], *found.widths["far"]]


def test_the_example_is_trained_as_an_ensemble(small_config, tmp_path):
    small_config.network = EXAMPLE
    small_config.epochs = 1
    summary = train(small_config, tmp_path / "run")
    assert [student["params"] for student in summary["students"]] == [
        costs.count(forked(), forked().student(factor), (8, 8, 1)).params for factor in (1.0, 0.5)
    ]
    student = load_student(tmp_path / "run", student=2)
    assert student.network.architecture == forked()
    assert student.network.widths == {"stem": 4, "near": 4, "far": 2, "join": 8}
    assert jax.tree.leaves(student.variables)[0].dtype == "float32"


def test_a_workdir_keeps_the_network(small_config, tmp_path):
    file = tmp_path / "bare.py"
    file.write_text(BARE)
    small_config.network, small_config.network_width = f"{file}:create", 1.0
    small_config.update(method="ensemble", epochs=1)
    train(small_config, tmp_path / "run")
    images = jnp.linspace(-1, 1, 128).reshape(2, 8, 8, 1)
    there = load_student(tmp_path / "run", student=2)
    expected = there.network.apply(there.variables, images).logits
    file.write_text(BARE.replace("nn.relu(nn.Conv(self.width", "nn.tanh(nn.Conv(self.width"))
    small_config.epochs = 2
    with pytest.raises(WorkdirError, match=r"bare\.py has changed since the run began: .*networks"):
        train(small_config, tmp_path / "run")
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "run", moved)
    for change in (lambda: None, file.unlink):
        change()
        student = load_student(moved, student=2)
        found = student.network.apply(student.variables, images).logits
        np.testing.assert_array_equal(found, expected)
    assert evaluate(moved, student=2)["networks"][0]["name"] == "student 2, distilled"


def test_a_network_without_normalisation_is_trained(small_config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bare.py").write_text(BARE)
    small_config.network = "~/bare.py:create"
    small_config.network_width = 1.0
    small_config.method = "both"
    small_config.epochs = 1
    small_config.faults.non_finite = "skip"
    summary = train(small_config, tmp_path / "run")
    assert [student["params"] for student in summary["students"]] == [
        (9 * 1 + 1) * 4 + (9 * 4 + 1) * width + (width + 1) * 4 for width in (8, 4)
    ]
    student = load_student(tmp_path / "run", student=2)
    outputs = student.network.apply(student.variables, jnp.zeros((2, 8, 8, 1)), train=False)
    assert outputs.logits.shape == (2, 4)


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        (None, "create", "there is no file .*mine.py"),
        ("x = 1", "create", "mine.py has no function 'create', which takes the number of classes"),
        ("x = 1", "", "mine.py has no function ''"),
        ("import no_such_library", "create", "cannot be run: ModuleNotFoundError: No module named"),
        ("create = (", "create", "cannot be run: SyntaxError: '.' was never closed"),
        ("create = str", "create", "returned a str: expected a kdjax.models.Architecture"),
        (
            "from kdjax import models\ncreate = lambda _: models.create('resnet8', 7)",
            "create",
            "returned a network of 7 classes: expected 2, with which it was called",
        ),
    ],
)
def test_a_file_that_does_not_fit(small_config, tmp_path, text, function, message):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    small_config.network = f"{tmp_path / 'mine.py'}:{function}"
    with pytest.raises(ValueError, match=f"^config.network: '.*mine.py:{function}'.*{message}"):
        resolve(small_config)


def test_a_registered_network_has_a_name_like_all_others(monkeypatch):
    monkeypatch.setattr(registry, "_NETWORKS", dict(registry._NETWORKS))
    models.register("mine", lambda classes: models.create("resnet8", classes))
    assert "mine" in models.names()
    architecture = models.create("mine", 5, width=0.5)
    assert (architecture.name, architecture.num_classes) == ("mine", 5)
    assert architecture.widths == models.create("resnet8", 5, width=0.5).widths
    for name, wrong in (("mine", "taken"), ("resnet20", "taken"), ("", "empty")):
        with pytest.raises(ValueError, match=f"the network name '{name}' is {wrong}"):
            models.register(name, models.create)
    models.register("other", str)
    with pytest.raises(ValueError, match="'other' returned a str"):
        models.create("other", 5)


def test_a_shared_group_has_to_be_one(monkeypatch):
    monkeypatch.setattr(registry, "_NETWORKS", dict(registry._NETWORKS))
    vgg = models.create("vgg16_bn", 5)
    wrong = type("Wrong", (type(vgg),), {"shared": ("stem",)})
    fields = {name: getattr(vgg, name) for name in vgg.__dataclass_fields__}
    models.register("wrong", lambda _: wrong(**fields))
    with pytest.raises(ValueError, match=r"'wrong' shares 'stem', which is not one of its widths"):
        models.create("wrong", 5)


@functools.cache
def bare_ensemble(file):
    architecture = models.create(f"{file}:create", 4)
    net = models.StudentEnsemble(architecture, models.student_vectors(architecture, (1.0, 0.5)))
    return net, models.initialize(net, 0, (8, 8, 1))


ROOTS = "x = jnp.sqrt(x + 1e-6)\n        x = nn.relu(nn.Conv(self.width, (3, 3), 2"
DEPTHWISE = """c = x.shape[-1]
        x = nn.Conv(c, (3, 3), feature_group_count=c)(x)
        x = nn.relu("""


@pytest.mark.parametrize("first", ["x = nn.relu(", DEPTHWISE])
def test_students_merge_whatever_reads_the_stem_first(first, tmp_path):
    """A depthwise convolution has different parameters in each student for the shared channels."""
    file = tmp_path / "bare.py"
    file.write_text(BARE.replace("x = nn.relu(", first))
    net, variables = bare_ensemble(file)
    images = jnp.linspace(-1, 1, 128).reshape(2, 8, 8, 1)
    expected = net.apply(variables, images).logits
    merged = net.clone(execution=execution_named("merged")).apply(variables, images).logits
    np.testing.assert_allclose(merged, expected, atol=1e-6)
    assert np.ptp(expected) > 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("x = jnp.roll(x, 1, axis=-1)", "numbers differ from"),
        ("x = x / x.shape[-1]", "numbers differ from"),
        ("x = nn.Conv(8, (1, 1), use_bias=False)(x)", "numbers differ from"),
        ("x = nn.Conv(self.width, (1, 1), feature_group_count=4)(x)", "Conv_0/bias has 9 channels"),
        ("x = x * self.param('t', nn.initializers.ones, ())", r"t: the students' arrays overlap"),
    ],
)
def test_networks_that_change_when_merged_are_refused(change, message, tmp_path):
    """Also inside a compiled function, which must not contain the comparison."""
    file = tmp_path / "bare.py"
    file.write_text(
        BARE.replace("        logits = nn.Dense", f"        {change}\n        logits = nn.Dense")
    )
    net, variables = bare_ensemble(file)
    merged = net.clone(execution=execution_named("merged"))
    with pytest.raises(ValueError, match=f"cannot run several students as one network.*{message}"):
        jax.jit(merged.apply)(variables, jnp.ones((2, 8, 8, 1)))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "Dense(self.classes",
            "Dense(7",
            "create returns 7 logits: expected one for each of the 4",
        ),
        ("x = nn.relu(", "x = nn.rellu(", "cannot be built: AttributeError: .*rellu"),
        ("(3, 3), 2", "(3, 3), feature_group_count=3", "cannot be built: AssertionError"),
        (
            "def create(num_classes)",
            "def create()",
            r"cannot be made: TypeError: create\(\) takes 0",
        ),
        (
            "(x,))",
            "(x, x))",
            r"bare.py:create has 1 blocks \(body\), and its branch returns 2 feature",
        ),
        (
            "self.width, (3, 3), 2",
            "8, (3, 3), 2",
            "'body'\\] are no layer's number of outputs",
        ),
    ],
)
def test_what_a_network_says_of_itself_is_checked(small_config, tmp_path, before, after, message):
    file = tmp_path / "bare.py"
    file.write_text(BARE.replace(before, after))
    small_config.network, small_config.network_width = f"{file}:create", 1.0
    with pytest.raises(ConfigError, match=message):
        resolve(small_config)


BODY = "x = nn.relu(nn.Conv(self.width, (3, 3), 2, dtype=self.dtype)(x))"
CONV = "nn.Conv(self.width, (3, 3), 2)(x)"
PLAIN = f"x = nn.BatchNorm(not train)({CONV})"
MASKED = f"""rows = None if mask is None else mask[:, None, None, None]
        x = nn.BatchNorm(not train)({CONV}, mask=rows)"""
DROPOUT = f"x = nn.Dropout(0.5, deterministic=not train)({CONV})"
GROUPS = f"""x = {CONV}
        if train:  # The batch size has to be a multiple of five.
            x = (x.reshape(-1, 5, *x.shape[1:]) - 0.5).reshape(x.shape)"""
PADDED = "lets padded rows of a batch change its results for other rows"
RANDOM = "draws random numbers in training: write `drops = True`"


@pytest.mark.parametrize(
    ("layer", "batch", "refused"),
    [
        (PLAIN, 40, PADDED),
        (PLAIN, 45, ""),  # Half of the 90 images: no batch is padded.
        (GROUPS, 40, ""),
        (MASKED, 40, ""),
        (DROPOUT, 40, RANDOM),
        (DROPOUT, 45, RANDOM),
        (f"x = {CONV} if not train else 1", 40, "cannot be run in training: "),
    ],
)
def test_a_network_is_checked_in_training_too(small_config, tmp_path, layer, batch, refused):
    text = BARE.replace(BODY, layer)
    assert text != BARE
    small_config.network, small_config.network_width = bare(tmp_path, text), 1.0
    small_config.data.validation, small_config.batch_size = 0.0, batch
    with pytest.raises(ConfigError, match=refused) if refused else contextlib.nullcontext():
        resolve(small_config)
    if layer == DROPOUT:
        bare(tmp_path, text.replace("blocks = ", "drops = True\n    blocks = "))
        resolve(small_config)


def test_a_branch_may_take_roots_of_what_the_stem_gives(tmp_path):
    file = tmp_path / "bare.py"
    file.write_text(BARE.replace("x = nn.relu(nn.Conv(self.width, (3, 3), 2", ROOTS))
    net, variables = bare_ensemble(file)
    images = jnp.linspace(-1, 1, 128).reshape(2, 8, 8, 1)
    merged = net.clone(execution=execution_named("merged")).apply(variables, images).logits
    np.testing.assert_allclose(merged, net.apply(variables, images).logits, atol=1e-6)


def test_a_search_takes_no_teacher_whose_file_has_changed(small_config, tmp_path):
    file = tmp_path / "bare.py"
    file.write_text(BARE)
    small_config.network, small_config.network_width = f"{file}:create", 1.0
    small_config.update(method="independent", student_scales=(1.0,), epochs=1)
    small_config.teacher_weights = ()
    train(small_config, tmp_path / "run")
    source = configuration.search_default().teacher
    source.workdir = str(tmp_path / "run")
    assert load_teacher(source, resolve(small_config))
    file.write_text(BARE.replace("x = nn.relu(", "x = nn.tanh("))
    with pytest.raises(ConfigError, match=r"bare\.py:create has changed since it was trained, or"):
        load_teacher(source, resolve(small_config))


def test_a_network_that_is_changed_in_a_program_is_read_again(tmp_path):
    file = tmp_path / "bare.py"
    for width in (8, 6):
        file.write_text(BARE.replace('"body": 8', f'"body": {width}'))
        assert models.create(f"{file}:create", 4).widths["body"] == width


def test_bytecode_that_is_as_old_as_the_file_is_not_run(tmp_path):
    """Python compares whole seconds and the size, which an edit may leave equal."""
    file = tmp_path / "bare.py"
    for width in (8, 6):
        file.write_text(BARE.replace('"body": 8', f'"body": {width}'))
        os.utime(file, (1, 1))
        assert models.create(f"{file}:create", 4).widths["body"] == width


def test_students_around_a_stem_without_parameters_are_extracted(tmp_path):
    plain = "jnp.repeat(x, self.width, -1)"
    text = BARE.replace("nn.relu(nn.Conv(self.width, (3, 3), dtype=self.dtype)(x))", plain)
    architecture = models.create(bare(tmp_path, text), 4)
    vectors = models.student_vectors(architecture, (1.0, 1.0, 0.5))
    net = models.StudentEnsemble(architecture, vectors)
    variables = models.initialize(net, 0, (8, 8, 1))
    assert "stem" not in variables["params"]
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    logits = np.asarray(net.apply(variables, images).logits)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3  # Twins start differently.
    for number, vector in enumerate(vectors, start=1):
        own = models.extract_student(variables, number)
        found = architecture.build(vector).apply(own, images).logits
        np.testing.assert_allclose(found, logits[number - 1], rtol=1e-5, atol=1e-6)


def test_a_variable_that_is_not_float32_is_named(small_config, tmp_path):
    text = BARE.replace(
        "nn.Conv(self.width, (3, 3), 2,", "nn.Conv(self.width, (3, 3), 2, param_dtype=jnp.bfloat16,"
    )
    small_config.network, small_config.network_width = bare(tmp_path, text), 1.0
    with pytest.raises(ConfigError, match="Conv_0/bias is a variable of dtype bfloat16: expected"):
        resolve(small_config)


def test_processes_with_other_files_of_one_name_differ(small_config, tmp_path):
    file = tmp_path / "bare.py"
    small_config.network = f"{file}:create"
    assert network_files.digests(small_config) == {}
    found = []
    for text in (BARE, BARE, "# Another one.\n" + BARE):
        file.write_text(text)
        found.append(network_files.digests(small_config))
    assert found[0] == found[1] != found[2] and found[0].keys() == {str(file)}


def test_a_start_that_died_leaves_no_copy_behind(small_config, tmp_path):
    file, path = tmp_path / "bare.py", tmp_path / "run"
    file.write_text("# An earlier one.\n" + BARE)
    small_config.network, small_config.network_width = f"{file}:create", 1.0
    network_files.keep(path, small_config)
    file.write_text(BARE)
    workdir.create(path, small_config)
    (copy,) = (path / network_files.FOLDER).iterdir()
    assert copy.read_text() == BARE and not network_files.changed(path, small_config)


def test_a_workdir_keeps_the_file_that_was_run(small_config, tmp_path):
    """The file may be edited while a run reads its data."""
    file = tmp_path / "bare.py"
    file.write_text(BARE)
    small_config.network, small_config.network_width = f"{file}:create", 1.0
    models.create(small_config.network, 4)
    file.write_text(BARE + "# Edited.\n")
    workdir.create(tmp_path / "run", small_config)
    (copy,) = (tmp_path / "run" / network_files.FOLDER).iterdir()
    assert copy.read_text() == BARE
    (said,) = network_files.changed(tmp_path / "run", small_config)
    assert "bare.py has changed since the run began" in said


def test_classes_that_meet_are_not_merged(tmp_path):
    """Merged logits of all students are one row, so a softmax would be over all students."""
    file = tmp_path / "bare.py"
    file.write_text(BARE.replace("Outputs(logits.", "Outputs(nn.log_softmax(logits)."))
    net, variables = bare_ensemble(file)
    with pytest.raises(ValueError, match="channels of branch/Dense_0 would be mixed: numbers"):
        net.clone(execution=execution_named("merged")).apply(variables, jnp.ones((2, 8, 8, 1)))
