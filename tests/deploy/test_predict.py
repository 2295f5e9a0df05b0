"""`kdjax predict`: classes of image files, the same as in evaluation."""

import csv
import json
import shutil

import numpy as np
import pytest

import kdjax
from kdjax import cli
from kdjax.data import DataError
from kdjax.deploy import find_images, predict
from kdjax.deploy.predict import _compiled


def test_predictions_are_those_of_the_network(trained, photos):
    """13 files in batches of 4, of which the last is padded."""
    student = kdjax.load_student(trained[0], student=1)
    files = find_images([str(photos / "test")])[:13]
    found = predict(student, files, top=4, batch_size=4)
    assert found.images == tuple(files)
    pixels = student.preprocess(files)
    scores = student.network.apply(student.variables, pixels, train=False).logits
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    for row, names, probabilities in zip(shares, found.classes, found.probabilities, strict=True):
        order = np.argsort(-row, kind="stable")
        assert names == tuple(student.class_names[index] for index in order)
        np.testing.assert_allclose(probabilities, row[order], rtol=1e-4, atol=1e-6)
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-5)


def test_predict_agrees_with_evaluate(trained, moved, photos, tmp_path, capsys):
    """The accuracy is the same for images given as files and as a dataset."""
    workdir, data = moved
    out = tmp_path / "numbers.json"
    options = [f"--workdir={workdir}", "--student=student 1, distilled"]
    assert cli.main(["evaluate", *options, f"--data={data}", f"--out={out}"]) == 0
    evaluated = json.loads(out.read_text())["networks"][0]["runs"]
    for run in evaluated:
        answers = tmp_path / "answers.json"
        arguments = [f"--seed={run['seed']}", f"--out={answers}", str(photos / "test")]
        assert cli.main(["predict", *options, *arguments]) == 0
        found = json.loads(answers.read_text())
        assert found["run"] == run["run"]
        right = [
            entry["classes"][0]["class"] == entry["image"].split("/")[-2]
            for entry in found["predictions"]
        ]
        assert len(right) == 30
        assert np.mean(right) == run["accuracy"]
    assert "30 images. Classes: " in capsys.readouterr().err


def test_a_file_is_found_by_its_shortest_name_and_an_empty_name_is_none(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_images([f"{tmp_path}/**/*.png"]) == [tmp_path / "a.png"]
    with pytest.raises(DataError, match="'' names no file"):
        find_images([""])


def test_a_damaged_image_is_a_warning(trained, photos, tmp_path, caplog, capsys):
    folder = tmp_path / "in"
    shutil.copytree(photos / "test" / "cloud", folder / "deep" / "deeper")
    (folder / "broken.png").write_bytes(b"no image")
    out = tmp_path / "classes.csv"
    arguments = ["predict", f"--workdir={trained[0]}", "--top=2", f"--out={out}"]
    assert cli.main([*arguments, str(folder)]) == 0
    assert [record.message for record in caplog.records if "broken.png" in record.message]
    assert len(caplog.records) == 1
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == 2 * 7
    assert [row["rank"] for row in rows[:4]] == ["1", "2", "1", "2"]
    assert rows[0]["image"].endswith("deep/deeper/002.png")
    assert rows[0]["class"] in ("apple", "birch", "cloud", "daisy")
    assert float(rows[0]["probability"]) >= float(rows[1]["probability"])
    assert "7 images, 1 could not be read" in capsys.readouterr().err
    assert cli.main([*arguments, str(folder / "broken.png")]) == 2
    assert "kdjax predict: none of 1 images could be read" in capsys.readouterr().err


def test_the_table_shows_class_and_probability(trained, photos, capsys):
    file = photos / "test" / "apple" / "000.png"
    assert cli.main(["predict", f"--workdir={trained[0]}", "--top=1", str(file)]) == 0
    found = predict(kdjax.load_student(trained[0]), [file], top=1)
    shown = capsys.readouterr().out
    assert found.classes[0][0] in shown
    assert f"{100 * found.probabilities[0][0]:.2f}" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top=5"], "top is 5: there are 4 classes"),
        (["--top=0"], "top is 0: there are 4 classes"),
        (["--out=x.txt"], "--out is 'x.txt': it must end in .json or .csv"),
        (["--out=nothing/x.csv"], "--out is 'nothing/x.csv': there is no nothing"),
        (["--batch=0"], "--batch is 0: expected at least 1"),
        (["--student=9"], "student is '9': this workdir has 1 to 2"),
    ],
)
def test_bad_options_are_one_line(trained, photos, arguments, message, capsys):
    assert cli.main(["predict", f"--workdir={trained[0]}", *arguments, str(photos)]) == 2
    assert message in capsys.readouterr().err


def test_the_last_batch_is_padded_not_compiled_anew(trained, photos, monkeypatch):
    sizes = []

    def counted(student, top):
        run = _compiled(student, top)
        return lambda images: (sizes.append(len(images)), run(images))[1]

    monkeypatch.setitem(predict.__globals__, "_compiled", counted)
    student = kdjax.load_student(trained[0])
    found = predict(student, find_images([str(photos / "test")]), batch_size=16)
    assert sizes == [16, 16]
    assert len(found.images) == 30


def test_an_output_that_is_not_finite_is_an_error(trained, photos):
    student = kdjax.load_student(trained[0])
    classifier = student.variables["params"]["branch"]["classifier"]
    classifier["bias"] = np.full_like(classifier["bias"], np.nan)
    with pytest.raises(ArithmeticError, match=r"student 1, distilled .*: its output is not finite"):
        predict(student, find_images([str(photos / "test" / "apple" / "000.png")]))


def test_folders_patterns_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.JPG", "deep/c.bmp", ".hidden/d.png", ".e.png", "notes.txt", "odd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def found(*named):
        return [path.as_posix() for path in find_images(named)]

    assert found(".") == ["a.JPG", "b.png", "deep/c.bmp"]
    assert found("*.png") == ["b.png"]
    assert found("**/*.bmp", "b.png", "*.png") == ["deep/c.bmp", "b.png"]
    assert found("b.png", str(tmp_path / "b.png"), "deep/../b.png") == ["b.png"]
    # Files that are named directly are always taken.
    assert found("odd", ".e.png") == ["odd", ".e.png"]
    with pytest.raises(DataError, match=r"\*.gif: there is no such file or folder"):
        found("*.gif")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no images \(.bmp, .gif"):
        found("b.png", "empty")
