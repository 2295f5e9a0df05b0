"""Data faults, numerical faults and untrusted files: each has to end in one clear error."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
from job import Job, copy, last_line
from trial import Trial


def bad_data(job: Job, count: int, chance: random.Random) -> Iterator[Trial]:
    """Broken data sets, which have to be refused with one line that names the place."""
    for number in range(count):
        fault, (make, expected) = list(_DATA.items())[number % len(_DATA)]
        folder = job.workdir("data")
        folder.mkdir()
        name = make(folder, chance)
        done = job.run(folder / "run", f"--config.data.name={name}", "--config.batch_size=8")
        line = last_line(done.stderr)
        refused = done.returncode == 2 and expected in line and "Traceback" not in done.stderr
        nothing = not (folder / "run" / "checkpoints").exists()
        yield Trial(f"data: {fault}", refused, refused and nothing, note=line)


def changed_data(job: Job, count: int, chance: random.Random) -> Iterator[Trial]:
    """One pixel or label changes between two halves of a run: the second half must be refused."""
    for number in range(count):
        folder = job.workdir("changed")
        folder.mkdir()
        arrays = _arrays(chance)
        np.savez(folder / "set.npz", **arrays)
        more = [f"--config.data.name=npz:{folder / 'set.npz'}", "--config.batch_size=8"]
        first = job.run(folder / "run", *more, "--config.epochs=2")
        field = ("train_images", "train_labels", "test_images", "test_labels")[number % 4]
        values = arrays[field].reshape(-1)
        place = chance.randrange(len(values))
        values[place] = (values[place] + 1) % 4
        np.savez(folder / "set.npz", **arrays)
        second = job.run(folder / "run", *more, "--config.epochs=3")
        refused = second.returncode == 2 and "run on other data" in second.stderr
        yield Trial(
            "data changed since the checkpoint",
            refused,
            refused and first.returncode == 0,
            note=last_line(second.stderr),
        )


def divergence(job: Job, count: int, chance: random.Random) -> Iterator[Trial]:
    """A learning rate that diverges, under each policy: the run has to name the step and stop."""
    for number in range(count):
        policy = ("stop", "skip", "rollback")[number % 3]
        done = job.run(
            job.workdir("diverged"),
            f"--config.schedule.learning_rate={10.0 ** chance.uniform(25, 35)}",
            "--config.schedule.warmup_epochs=0.0",
            f"--config.faults.non_finite={policy}",
            "--config.faults.limit=2",
        )
        line = last_line(done.stderr)
        named = "not finite at step" in line and "of student" in line
        yield Trial(f"NaN, {policy}", named, done.returncode == 2, note=line)


def untrusted(job: Job, count: int, chance: random.Random) -> Iterator[Trial]:
    """Files that would run code, overflow the stack or fill memory if they were trusted."""
    for number in range(count):
        fault, make = list(_FILES.items())[number % len(_FILES)]
        folder = job.workdir("untrusted")
        folder.mkdir()
        done = job.run(folder / "run", *make(folder, chance, job))
        line = last_line(done.stderr)
        harmless = not (folder / "harmed").exists()
        refused = done.returncode == 2 and "Traceback" not in done.stderr
        yield Trial(f"file: {fault}", refused, refused and harmless, note=line)


def _arrays(chance: random.Random) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(chance.randrange(2**32))
    labels = np.arange(80) % 4
    images = (labels[:, None, None] * 60 + rng.integers(0, 40, (80, 8, 8))).astype(np.uint8)
    return {
        "train_images": images[:60],
        "train_labels": labels[:60],
        "test_images": images[60:],
        "test_labels": labels[60:],
    }


def _npz(change: Callable[[dict[str, np.ndarray], random.Random], None]):
    def make(folder: Path, chance: random.Random) -> str:
        arrays = _arrays(chance)
        change(arrays, chance)
        np.savez(folder / "set.npz", **arrays)
        return f"npz:{folder / 'set.npz'}"

    return make


def _label_outside(arrays: dict[str, np.ndarray], chance: random.Random) -> None:
    arrays["test_labels"][chance.randrange(20)] = chance.choice([-1, 4, 99])


def _empty_split(arrays: dict[str, np.ndarray], chance: random.Random) -> None:
    part = chance.choice(["train", "test"])
    for kind in ("images", "labels"):
        arrays[f"{part}_{kind}"] = arrays[f"{part}_{kind}"][:0]


def _other_shapes(arrays: dict[str, np.ndarray], chance: random.Random) -> None:
    size = chance.choice([9, 16])
    arrays["test_images"] = np.resize(arrays["test_images"], (20, size, 8))


def _flipped_archive(folder: Path, chance: random.Random) -> str:
    path = folder / "set.npz"
    np.savez(path, **_arrays(chance))
    content = bytearray(path.read_bytes())
    content[chance.randrange(200, 3000)] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return f"npz:{path}"


def _cut_archive(folder: Path, chance: random.Random) -> str:
    path = folder / "set.npz"
    np.savez(path, **_arrays(chance))
    path.write_bytes(path.read_bytes()[: chance.randrange(10, 3000)])
    return f"npz:{path}"


def _images(folder: Path, chance: random.Random) -> list[Path]:
    paths = []
    for number, image in enumerate(_arrays(chance)["train_images"]):
        path = folder / "images" / f"class{number % 4}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(path)
        paths.append(path)
    return paths


def _corrupt_image(folder: Path, chance: random.Random) -> str:
    path = chance.choice(_images(folder, chance))
    path.write_bytes(path.read_bytes()[: chance.randrange(40)])
    return f"folder:{folder / 'images'}"


def _other_classes(folder: Path, chance: random.Random) -> str:
    _images(folder, chance)
    (folder / "images").rename(folder / "train")
    shutil.copytree(folder / "train", folder / "set" / "test")
    (folder / "set" / "test" / "class0").rename(folder / "set" / "test" / "unseen")
    (folder / "train").rename(folder / "set" / "train")
    return f"folder:{folder / 'set'}"


_DATA: dict[str, tuple[Callable[[Path, random.Random], str], str]] = {
    "label outside the classes": (_npz(_label_outside), "is outside [0, 4)"),
    "empty split": (_npz(_empty_split), "empty"),
    "splits of different shapes": (_npz(_other_shapes), "expected one shape"),
    "bit flipped in an archive": (_flipped_archive, "cannot be read"),
    "archive cut short": (_cut_archive, "cannot be read"),
    "image that does not decode": (_corrupt_image, "does not decode"),
    "splits of different classes": (_other_classes, "classes ['unseen'] that train lacks"),
}


class _Harmful:
    def __init__(self, marker: Path):
        self._marker = marker

    def __reduce__(self):
        return (Path.touch, (self._marker,))


def _pickled_set(folder: Path, chance: random.Random, job: Job) -> list[str]:
    harmful = np.array([_Harmful(folder / "harmed")], dtype=object)
    np.savez(folder / "set.npz", train_images=harmful, train_labels=harmful)
    return [f"--config.data.name=npz:{folder / 'set.npz'}"]


def _deep_widths(folder: Path, chance: random.Random, job: Job) -> list[str]:
    depth = chance.randrange(5_000, 200_000)
    (folder / "deep.json").write_text('{"a":' * depth + "1" + "}" * depth)
    return [f"--config.student_widths=('{folder / 'deep.json'}','{folder / 'deep.json'}')"]


def _long_widths(folder: Path, chance: random.Random, job: Job) -> list[str]:
    (folder / "long.json").write_text("{" + " " * chance.randrange(2_000_000, 20_000_000) + "}")
    return [f"--config.student_widths=('{folder / 'long.json'}','{folder / 'long.json'}')"]


def _huge_widths(folder: Path, chance: random.Random, job: Job) -> list[str]:
    huge = {group: chance.randrange(10**6, 10**12) for group in ("stem", "stage1", "stage2")}
    for number, factor in enumerate((1, 0.5)):
        widths = {group: int(factor * width) for group, width in huge.items()} | {"stage3": 8}
        (folder / f"{number}.json").write_text(json.dumps(widths))
    return [f"--config.student_widths=('{folder / '0.json'}','{folder / '1.json'}')"]


def _no_json(folder: Path, chance: random.Random, job: Job) -> list[str]:
    (folder / "bytes.json").write_bytes(chance.randbytes(500))
    return [f"--config.student_widths=('{folder / 'bytes.json'}','{folder / 'bytes.json'}')"]


def _altered_config(folder: Path, chance: random.Random, job: Job) -> list[str]:
    done = copy(job.folder / "expected-1", folder / "run")
    text = (done / "config.json").read_text()
    place = chance.randrange(len(text) - 2)
    (done / "config.json").write_text(text[:place] + "\x00[" + text[place + 2 :])
    return []


_FILES: dict[str, Callable[[Path, random.Random, Job], list[str]]] = {
    "pickle inside a set": _pickled_set,
    "JSON of extreme depth": _deep_widths,
    "JSON of extreme length": _long_widths,
    "widths beyond memory": _huge_widths,
    "bytes in place of JSON": _no_json,
    "altered configuration in the workdir": _altered_config,
}
