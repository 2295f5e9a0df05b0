"""Makes train_step.npz: two steps of online ensemble distillation in PyTorch, float64.

The implementation is independent: it is written from the papers and imports nothing from kdjax.
Parameters and images are random. To make the file again, in an environment with torch==2.13.0:

    python tests/golden/make_train_step.py

The file has the arrays ``images`` and ``labels``; ``initial/<path>``, parameters with their path in
kdjax (kernels as kdjax stores them); ``loss``, ``term/<name>`` ``[students, batch]``, ``logits``
and ``gradient/<path>`` of the first step; and ``final/<path>``, parameters and running statistics
after the second step.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional

CLASSES, BATCH, SIZE = 5, 6, 8
STEM = 4
STUDENTS = ((4, 6, 8), (3, 5, 6), (2, 3, 4))  # widths of the three stages
WEIGHTS = {"hard": 0.7, "feature": 0.15, "soft": 0.15}
TEMPERATURE = 2.0
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 0.01
STATISTICS_MOMENTUM, EPSILON = 0.9, 1e-5


def make_parameters(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Returns random parameters; kernels are laid out as in PyTorch, [out, in, height, width]."""
    tensors: dict[str, np.ndarray] = {}

    def convolution(path: str, fan_in: int, fan_out: int, kernel: int) -> None:
        deviation = np.sqrt(2 / (fan_in * kernel**2))
        shape = (fan_out, fan_in, kernel, kernel)
        tensors[f"{path}/conv/kernel"] = rng.normal(0, deviation, shape)
        tensors[f"{path}/norm/scale"] = rng.uniform(0.5, 1.5, fan_out)
        tensors[f"{path}/norm/bias"] = rng.normal(0, 0.2, fan_out)

    convolution("stem/conv", 3, STEM, 3)
    for number, widths in enumerate(STUDENTS, start=1):
        fan_in = STEM
        for stage, width in enumerate(widths, start=1):
            block = f"student_{number}/stage{stage}_block1"
            convolution(f"{block}/conv1", fan_in, width, 3)
            convolution(f"{block}/conv2", width, width, 3)
            if fan_in != width or stage > 1:
                convolution(f"{block}/projection", fan_in, width, 1)
            fan_in = width
            if number > 1:
                adapter = f"adapters/student_{number}_block{stage}"
                pivot = STUDENTS[0][stage - 1]
                tensors[f"{adapter}/kernel"] = rng.normal(0, 0.5, (pivot, width, 1, 1))
                tensors[f"{adapter}/bias"] = rng.normal(0, 0.2, pivot)
        classifier = f"student_{number}/classifier"
        tensors[f"{classifier}/kernel"] = rng.normal(0, 0.5, (CLASSES, fan_in))
        tensors[f"{classifier}/bias"] = rng.normal(0, 0.2, CLASSES)
    return {
        path: torch.tensor(array, dtype=torch.float64, requires_grad=True)
        for path, array in tensors.items()
    }


class Forward:
    """The ensemble's forward pass; keeps running statistics."""

    def __init__(self, parameters: dict[str, torch.Tensor]):
        self.parameters = parameters
        self.statistics: dict[str, torch.Tensor] = {}
        for path, tensor in parameters.items():
            if path.endswith("scale"):
                self.statistics[path.replace("scale", "mean")] = torch.zeros_like(tensor)
                self.statistics[path.replace("scale", "var")] = torch.ones_like(tensor)

    def conv_norm(self, x: torch.Tensor, path: str, stride: int = 1) -> torch.Tensor:
        kernel = self.parameters[f"{path}/conv/kernel"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        for name, value in (("mean", mean), ("var", var)):
            old = self.statistics[f"{path}/norm/{name}"]
            self.statistics[f"{path}/norm/{name}"] = (
                STATISTICS_MOMENTUM * old + (1 - STATISTICS_MOMENTUM) * value.detach()
            )
        scale = self.parameters[f"{path}/norm/scale"][None, :, None, None]
        bias = self.parameters[f"{path}/norm/bias"][None, :, None, None]
        centred = x - mean[None, :, None, None]
        return centred / torch.sqrt(var + EPSILON)[None, :, None, None] * scale + bias

    def student(self, x: torch.Tensor, number: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        maps = []
        for stage in (1, 2, 3):
            block, stride = f"student_{number}/stage{stage}_block1", 1 if stage == 1 else 2
            y = torch.relu(self.conv_norm(x, f"{block}/conv1", stride))
            y = self.conv_norm(y, f"{block}/conv2")
            if f"{block}/projection/conv/kernel" in self.parameters:
                x = self.conv_norm(x, f"{block}/projection", stride)
            x = torch.relu(x + y)
            maps.append(x)
        kernel = self.parameters[f"student_{number}/classifier/kernel"]
        bias = self.parameters[f"student_{number}/classifier/bias"]
        return x.mean((2, 3)) @ kernel.T + bias, maps

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
        stem = torch.relu(self.conv_norm(images, "stem/conv"))
        outputs = [self.student(stem, number) for number in range(1, len(STUDENTS) + 1)]
        return torch.stack([logits for logits, _ in outputs]), [maps for _, maps in outputs]


def losses(
    parameters: dict[str, torch.Tensor],
    logits: torch.Tensor,
    maps: list[list[torch.Tensor]],
    labels: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Returns the three terms, each ``[students, batch]``."""
    hard = torch.stack([functional.cross_entropy(z, labels, reduction="none") for z in logits])
    teacher = torch.softmax(logits.mean(0).detach() / TEMPERATURE, -1)
    soft = TEMPERATURE**2 * torch.stack(
        [
            functional.kl_div(
                torch.log_softmax(z / TEMPERATURE, -1), teacher, reduction="none"
            ).sum(-1)
            for z in logits
        ]
    )
    feature = [torch.zeros(BATCH, dtype=torch.float64)]
    for number in range(2, len(STUDENTS) + 1):
        distance = torch.zeros(BATCH, dtype=torch.float64)
        for block in (1, 2, 3):
            adapter = f"adapters/student_{number}_block{block}"
            adapted = functional.conv2d(
                maps[number - 1][block - 1],
                parameters[f"{adapter}/kernel"],
                parameters[f"{adapter}/bias"],
            )
            pivot = maps[0][block - 1].detach()
            distance = distance + ((adapted - pivot) ** 2).mean((1, 2, 3))
        feature.append(distance)
    return {"hard": hard, "feature": torch.stack(feature), "soft": soft}


def as_kdjax(tensor: torch.Tensor) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out]; [out, in] -> [in, out]; vectors stay as they are."""
    array = tensor.detach().numpy().copy()  # The optimiser changes tensors in place.
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def main() -> None:
    rng = np.random.default_rng(2020)
    images = rng.normal(size=(BATCH, SIZE, SIZE, 3))
    labels = rng.integers(0, CLASSES, BATCH)
    parameters = make_parameters(rng)
    arrays = {"images": images, "labels": labels}
    arrays |= {f"initial/{path}": as_kdjax(tensor) for path, tensor in parameters.items()}

    kernels = [tensor for path, tensor in parameters.items() if path.endswith("kernel")]
    others = [tensor for path, tensor in parameters.items() if not path.endswith("kernel")]
    optimizer = torch.optim.SGD(
        [
            {"params": kernels, "weight_decay": WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
        nesterov=True,
    )
    forward = Forward(parameters)
    x, y = torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(labels)
    for step in range(2):
        optimizer.zero_grad()
        logits, maps = forward(x)
        terms = losses(parameters, logits, maps, y)
        loss = sum(WEIGHTS[name] * term.mean(1).sum() for name, term in terms.items())
        loss.backward()
        if step == 0:
            arrays["loss"], arrays["logits"] = loss.detach().numpy(), logits.detach().numpy()
            arrays |= {f"term/{name}": term.detach().numpy() for name, term in terms.items()}
            arrays |= {
                f"gradient/{path}": as_kdjax(tensor.grad) for path, tensor in parameters.items()
            }
        optimizer.step()
    final = {**parameters, **forward.statistics}
    arrays |= {f"final/{path}": as_kdjax(tensor) for path, tensor in final.items()}
    np.savez_compressed(Path(__file__).with_name("train_step.npz"), **arrays)


if __name__ == "__main__":
    main()
