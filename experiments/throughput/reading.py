"""Compares how fast images are read for training: kdjax's stream and PyTorch's DataLoader.

    python experiments/throughput/reading.py --torch_python=PATH --out=cpu_reading.json

The images are generated JPEGs of 500 x 375 pixels in a folder for each class. Every turn is a
process of its own (`read_images.py`), so that one contestant works at a time; rounds A B C A B C
... follow each other. ``PATH`` is a Python with PyTorch and torchvision; both should have the same
Pillow.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import records

HERE = Path(__file__).parent
CLASSES = 16


def make_images(folder: Path, count: int) -> int:
    """Writes ``count`` JPEGs of smooth colours with noise; returns their mean size in bytes."""
    rng, size = np.random.default_rng(0), 0
    for number in range(count):
        colours = PIL.Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        smooth = colours.resize((500, 375), PIL.Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) + rng.normal(0, 8, (375, 500, 3))
        path = folder / f"class{number % CLASSES:02}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        size += path.stat().st_size
    return size // count


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--torch_python", required=True, help="one with PyTorch and torchvision")
    parser.add_argument("--workers", type=int, default=records.usable_cores(), help="of each")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batches", type=int, default=96, help="counted in a turn")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", default="", help="JSON")
    chosen = parser.parse_args()
    contestants = {
        "kdjax, threads": (sys.executable, "kdjax", 0),
        f"kdjax, {chosen.workers} workers": (sys.executable, "kdjax", chosen.workers),
        f"PyTorch, {chosen.workers} workers": (chosen.torch_python, "torch", chosen.workers),
    }
    # Two batches that a worker has ready and two that it works on, and as many again.
    uncounted = 8 * max(1, chosen.workers)
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    host = records.host()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        size = make_images(folder, chosen.images)
        environment = {**os.environ, "KDJAX_CACHE": str(Path(scratch) / "cache")}
        for number in range(chosen.rounds):
            for name, (python, reader, workers) in contestants.items():
                numbers = map(str, (chosen.batch, uncounted, chosen.batches, workers))
                line = [python, str(HERE / "read_images.py"), reader, str(folder), *numbers]
                turn = subprocess.run(
                    line, env=environment, stdout=subprocess.PIPE, text=True, check=True
                )
                speeds[name].append(float(turn.stdout.split()[-1]))
                print(f"round {number + 1}, {name}: {speeds[name][-1]:.0f} images/s", flush=True)
    *_, peer = speeds
    results = {
        name: {
            "images_per_second": records.summary(values),
            "to_peer": records.ratio(values, speeds[peer]),
            "rounds": values,
        }
        for name, values in speeds.items()
    }
    rows = [["", "images/s", f"to {peer}"]]
    for name, result in results.items():
        rows.append(
            [name, records.show(result["images_per_second"], 0), records.show(result["to_peer"], 2)]
        )
    print(records.table(rows))
    asked = "import torch, torchvision, PIL\nfor m in torch, torchvision, PIL: print(m.__version__)"
    made = subprocess.run(
        [chosen.torch_python, "-c", asked], stdout=subprocess.PIPE, text=True, check=True
    )
    torch, torchvision, pillow = made.stdout.split()
    content = {
        "command": records.command(),
        "settings": {
            name: getattr(chosen, name) for name in ("workers", "batch", "images", "batches")
        },
        "host": host,
        "versions": {
            "pillow": [PIL.__version__, pillow],
            "torch": torch,
            "torchvision": torchvision,
        },
        "jpeg_bytes": size,
        "results": results,
    }
    records.save(content, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
