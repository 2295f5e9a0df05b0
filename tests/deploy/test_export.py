"""An exported student gives the same outputs as the student, without kdjax."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import flax.linen as nn
import numpy as np
import pytest

import kdjax
from kdjax import cli, deploy

WITHOUT_KDJAX = """
import sys
sys.modules["kdjax"] = sys.modules["flax"] = None
import numpy as np
from jax import export
call = export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call
images = np.load(sys.argv[2])
np.savez(sys.argv[3], one=call(images[:1]), all=call(images))
"""


def test_the_program_answers_as_the_student_without_kdjax(trained, tmp_path):
    path, experiment = trained
    student = kdjax.load_student(path, 2)
    images = experiment.dataset.test.images
    out = tmp_path / "two.jaxexport"
    deploy.export(student, out)
    np.save(tmp_path / "images.npy", images)
    files = [str(tmp_path / name) for name in (out.name, "images.npy", "logits.npz")]
    subprocess.run([sys.executable, "-c", WITHOUT_KDJAX, *files], check=True)
    expected = student.network.apply(
        student.variables, student.preprocess(images), train=False
    ).logits
    with np.load(tmp_path / "logits.npz") as found:
        assert found["all"].dtype == np.float32
        np.testing.assert_allclose(found["all"], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["one"], expected[:1], rtol=1e-5, atol=1e-5)
    program = jax_export().deserialize(bytearray(out.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    described = json.loads((tmp_path / "two.jaxexport.json").read_text())
    assert described["class_names"] == list(experiment.dataset.class_names)
    assert described["input"].startswith("uint8") and "inside" in described["normalisation"]
    assert described["image_shape"] == list(images.shape[1:])
    assert described["widths"] == dict(student.widths) and described["resize"] == "to image_shape"


def jax_export():
    import jax.export

    return jax.export


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_arrays_are_the_variables(searched, tmp_path, ending, capsys):
    out = tmp_path / f"found.{ending}"
    arguments = [f"--workdir={searched[0]}", "--student=compact", f"--out={out}", "--seed=1"]
    assert cli.main(["export", *arguments]) == 0
    assert f"{out} (" in capsys.readouterr().out
    student = kdjax.load_student(searched[0], "compact", seed=1)
    kernel = student.variables["params"]["branch"]["classifier"]["kernel"]
    if ending == "npz":
        with np.load(out) as file:
            found = dict(file)
    else:
        from safetensors.numpy import load_file

        found = load_file(out)
    np.testing.assert_array_equal(found["params/branch/classifier/kernel"], kernel)
    assert {name.partition("/")[0] for name in found} == {"params", "batch_stats"}
    leaves = sum(value.size for value in found.values())
    assert leaves > kernel.size
    described = json.loads((tmp_path / f"{out.name}.json").read_text())
    assert described["input"].startswith("float32") and "/ 255" in described["normalisation"]


def test_a_network_that_computes_with_the_batch_is_told_apart(trained, tmp_path):
    class Counting(nn.Module):
        architecture = SimpleNamespace(name="counting.py:create")

        def __call__(self, images, train):
            return images if images.shape[0] > 4 else -images

    student = dataclasses.replace(kdjax.load_student(trained[0]), network=Counting(), variables={})
    with pytest.raises(ValueError, match=r"counting.py:create computes with the size of the batch"):
        deploy.export(student, tmp_path / "a.jaxexport")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out=a.tflite"], "--out is 'a.tflite': it must end in .onnx, .jaxexport, .npz, .saf"),
        (["--out=a.npz", "--platforms=cpu"], "--platforms is 'cpu': only .jaxexport files depend"),
        (["--out=no/a.npz"], "there is no no"),
        (
            ["--out=a.jaxexport", "--platforms=cpu,gpu"],
            "--platforms is 'cpu,gpu': 'gpu' is none of",
        ),
        (["--out=a.npz", "--student=7"], "student is '7': this workdir has"),
    ],
)
def test_what_cannot_be_exported_is_said_and_nothing_written(
    trained, tmp_path, flags, message, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", f"--workdir={trained[0]}", *flags]) != 0
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="such a file needs the package flatbuffers, pip install"):
        deploy.check_export("a.jaxexport")
    deploy.check_export("a.npz")
    deploy.check_export("~/a.npz")
