"""Reads batches of training crops and prints its images per second; one turn of `reading.py`.

    python read_images.py kdjax|torch FOLDER BATCH UNCOUNTED COUNTED WORKERS

A crop is a random part of an image, resized to 224 x 224 and flipped half of the time, uint8. Both
readers decode and resize with Pillow. Batches that are read ahead when counting starts do not
count, so ``UNCOUNTED`` has to be more than a reader keeps ready.
"""

import sys
import time
from collections.abc import Generator
from typing import Any

SIZE = 224


def kdjax_batches(folder: str, batch: int, workers: int) -> Generator[Any, None, None]:
    from kdjax import data

    options = data.SourceOptions(validation=0.0, test=0.0, image_size=(SIZE, SIZE))
    streamed = data.stream(f"folder:{folder}", options)
    return streamed.train_batches(seed=0, first_step=0, batch_size=batch, workers=workers)


def torch_batches(folder: str, batch: int, workers: int) -> Generator[Any, None, None]:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    crop = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    images = datasets.ImageFolder(folder, transforms.Compose([*crop, transforms.PILToTensor()]))
    loader = DataLoader(
        images, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        yield from loader


def main() -> None:
    reader, folder = sys.argv[1:3]
    batch, uncounted, counted, workers = map(int, sys.argv[3:])
    batches = {"kdjax": kdjax_batches, "torch": torch_batches}[reader](folder, batch, workers)
    for _ in range(uncounted):
        next(batches)
    start = time.perf_counter()
    for _ in range(counted):
        next(batches)
    print(counted * batch / (time.perf_counter() - start))
    batches.close()


if __name__ == "__main__":
    main()
