"""The PyTorch half of ``check.py``: computes the steps stored in npz files and compares results.

Prints JSON. ``torch`` is the version of PyTorch. ``kdjax`` and ``torch_float32`` have, for each
array and file, the largest difference from the peer in float64, relative to the array's largest
entry.
"""

import json
import sys

import numpy as np
import peer
import torch

COMPARED = ("images", "logits", "term", "loss", "gradient", "update")


def main() -> None:
    found = {"torch": torch.__version__, "kdjax": {}, "torch_float32": {}}
    for path in sys.argv[1:]:
        with np.load(path) as file:
            given = dict(file)
        exact = compute(given, torch.float64)
        rounded = compute(given, torch.float32)
        expected = {name for name in given if name.split("/")[0] in COMPARED}
        if set(exact) != expected:
            sys.exit(f"names differ: {sorted(set(exact) ^ expected)}")
        for side, arrays in (("kdjax", given), ("torch_float32", rounded)):
            for name in exact:
                values = found[side].setdefault(name, [])
                values.append(difference(arrays[name], exact[name]))
    print(json.dumps(found))


def compute(given: dict[str, np.ndarray], dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Computes the step in PyTorch; returns arrays with kdjax's names and memory layout."""
    tensors = {
        name: torch.as_tensor(given[name])
        for name in ("raw_images", "indices", "offsets", "flips", "images", "labels")
    }
    top, left = tensors["offsets"].split(1, dim=1)
    images = peer.normalize(
        peer.crop_and_flip(
            tensors["raw_images"], tensors["indices"], top, left, tensors["flips"][:, None]
        )
    )
    widths = peer.student_widths(str(given["network"]), given["scales"].tolist())
    model = peer.Ensemble(widths, int(given["classes"]))
    trainer = peer.Trainer(model.to(dtype), tensors["raw_images"], tensors["labels"], len(images))
    before = {
        name.removeprefix("parameter/"): array
        for name, array in given.items()
        if name.startswith("parameter/")
    }
    peer.load(model, before)
    named = peer.named_parameters(model)
    # Use the augmented images of kdjax: then their rounding does not count as an error of the step.
    loss, terms, logits = model(
        tensors["images"].permute(0, 3, 1, 2).to(dtype), tensors["labels"].long()
    )
    loss.backward()
    result = {
        "images": images.permute(0, 2, 3, 1).numpy(),
        "logits": logits.detach().numpy(),
        **{f"term/{name}": values.detach().numpy() for name, values in terms.items()},
        "loss": loss.detach().numpy(),
        **{f"gradient/{path}": as_kdjax(tensor.grad) for path, tensor in named.items()},
    }
    trainer.optimizer.step()
    for path, tensor in named.items():
        # In float32 rounding removes most digits of this small difference; in float64 it does not.
        result[f"update/{path}"] = as_kdjax(tensor) - before[path]
    return result


def as_kdjax(tensor: torch.Tensor) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out]; [out, in] -> [in, out]; vectors stay as they are."""
    array = tensor.detach().numpy().copy()  # The optimiser changes tensors in place.
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def difference(value: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest expected entry."""
    if value.shape != expected.shape:
        sys.exit(f"shapes differ: {value.shape} and {expected.shape}")
    scale = np.abs(expected).max() or 1.0
    return float(np.abs(value.astype(np.float64) - expected).max() / scale)


if __name__ == "__main__":
    main()
