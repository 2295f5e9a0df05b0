"""The peer: the ensemble training step in PyTorch, as someone who knows PyTorch would write it.

The implementation is independent: it imports nothing from kdjax. It has CIFAR ResNets, five
students with a shared stem, the online ensemble loss and SGD with Nesterov momentum. Images are
uint8 on the device, and are cropped, flipped and normalised there. :func:`load` takes parameters by
their kdjax path, so that both implementations can be compared number by number (``check.py``) and
timed side by side (``compare.py``).
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import nn

STAGES = (("stage1", 1), ("stage2", 2), ("stage3", 2))  # name, stride of its first block
FULL_WIDTHS = {"stem": 16, "stage1": 16, "stage2": 32, "stage3": 64}
WEIGHTS = {"hard": 0.7, "feature": 0.15, "soft": 0.15}
TEMPERATURE = 2.0
MEAN, DEVIATION = 127.5, 63.75  # Of the pixels, in every channel.


def student_widths(network: str, scales: Sequence[float]) -> list[dict[str, int]]:
    """Returns the channels of each student of ``resnet8``, ``resnet20``, ...; stems stay full."""
    blocks = (int(network.removeprefix("resnet")) - 2) // 6
    students = []
    for scale in scales:
        widths = {"stem": FULL_WIDTHS["stem"]}
        for stage, _ in STAGES:
            widths[stage] = max(1, math.floor(FULL_WIDTHS[stage] * scale + 1e-9))
            for number in range(1, blocks + 1):
                widths[f"{stage}.block{number}.conv1"] = widths[stage]
        students.append(widths)
    return students


class ConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(fan_out, momentum=0.1, eps=1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, fan_in: int, inner: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = ConvNorm(fan_in, inner, 3, stride)
        self.conv2 = ConvNorm(inner, channels)
        if stride != 1 or fan_in != channels:
            self.projection = ConvNorm(fan_in, channels, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(functional.relu(self.conv1(x), inplace=True))
        shortcut = self.projection(x) if hasattr(self, "projection") else x
        return functional.relu(y + shortcut, inplace=True)


class Student(nn.Module):
    """A student without the stem; returns logits and the feature map after each stage."""

    def __init__(self, widths: dict[str, int], classes: int):
        super().__init__()
        self.stages = nn.ModuleDict()
        fan_in = widths["stem"]
        for stage, stage_stride in STAGES:
            blocks = nn.ModuleDict()
            for number in range(1, sum(name.startswith(f"{stage}.") for name in widths) + 1):
                stride = stage_stride if number == 1 else 1
                inner = widths[f"{stage}.block{number}.conv1"]
                blocks[f"{stage}_block{number}"] = Block(fan_in, inner, widths[stage], stride)
                fan_in = widths[stage]
            self.stages[stage] = blocks
        self.classifier = nn.Linear(fan_in, classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        maps = []
        for blocks in self.stages.values():
            for block in blocks.values():
                x = block(x)
            maps.append(x)
        return self.classifier(x.mean((2, 3))), maps


class Ensemble(nn.Module):
    """Students around a shared stem, with the 1x1 adapters of the feature term."""

    def __init__(self, student_widths: list[dict[str, int]], classes: int):
        super().__init__()
        self.stem = ConvNorm(3, student_widths[0]["stem"])
        self.students = nn.ModuleList(Student(widths, classes) for widths in student_widths)
        pivot = student_widths[0]
        self.adapters = nn.ModuleDict(
            {
                f"student_{number}_block{block}": nn.Conv2d(widths[stage], pivot[stage], 1)
                for number, widths in enumerate(student_widths[1:], start=2)
                for block, (stage, _) in enumerate(STAGES, start=1)
            }
        )

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Returns the loss, the mean of each term for each student, and the logits."""
        stem = functional.relu(self.stem(images))
        outputs = [student(stem) for student in self.students]
        logits = _wide(torch.stack([z for z, _ in outputs]))
        students, batch, _ = logits.shape
        every_label = labels.repeat(students)
        hard = functional.cross_entropy(logits.flatten(0, 1), every_label, reduction="none")
        teacher = (logits.mean(0).detach() / TEMPERATURE).log_softmax(-1)
        student_log = (logits / TEMPERATURE).log_softmax(-1)
        divergence = functional.kl_div(
            student_log, teacher.expand_as(student_log), reduction="none", log_target=True
        ).sum(-1)
        feature = [logits.new_zeros(())]
        for number in range(2, students + 1):
            distances = []
            for block in range(1, len(STAGES) + 1):
                adapter = self.adapters[f"student_{number}_block{block}"]
                adapted = adapter(outputs[number - 1][1][block - 1])
                pivot = outputs[0][1][block - 1].detach()
                distances.append((_wide(adapted) - _wide(pivot)).square().mean())
            feature.append(torch.stack(distances).sum())
        terms = {
            "hard": hard.view(students, batch).mean(1),
            "feature": torch.stack(feature),
            "soft": TEMPERATURE**2 * divergence.mean(1),
        }
        loss = sum(WEIGHTS[name] * values.sum() for name, values in terms.items())
        return loss, terms, logits


def _wide(x: torch.Tensor) -> torch.Tensor:
    """Converts to float32 or wider, because losses never use the networks' lower precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def load(model: Ensemble, parameters: dict[str, "numpy.ndarray"]) -> None:  # noqa: F821
    """Copies parameters into the model by their kdjax path, as ``student_1/classifier/kernel``."""
    with torch.no_grad():
        for path, tensor in named_parameters(model).items():
            tensor.copy_(as_torch(torch.as_tensor(parameters[path])))


def named_parameters(model: Ensemble) -> dict[str, torch.Tensor]:
    """Returns the parameters by their kdjax path."""
    named = {}
    for name, tensor in model.named_parameters():
        *parts, leaf = name.split(".")
        if parts[0] == "stem":
            parts = ["stem", "conv", *parts[1:]]
        elif parts[0] == "students":
            parts = [f"student_{int(parts[1]) + 1}", *[p for p in parts[2:] if p != "stages"]]
            parts = [part for part in parts if part not in dict(STAGES)]
        norm = parts[-1] == "norm"
        leaf = {"weight": "scale" if norm else "kernel", "bias": "bias"}[leaf]
        named["/".join([*parts, leaf])] = tensor
    return named


def as_torch(array: torch.Tensor) -> torch.Tensor:
    """[h, w, in, out] -> [out, in, h, w]; [in, out] -> [out, in]; vectors stay as they are."""
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
    return array.permute(order)


def crop_and_flip(
    images: torch.Tensor,
    indices: torch.Tensor,
    top: torch.Tensor,
    left: torch.Tensor,
    flip: torch.Tensor,
) -> torch.Tensor:
    """Crops and perhaps flips images with one gather; pixels outside an image are 0.

    Args:
      images: ``[n, height, width, channels]`` uint8.
      indices: ``[batch]`` the images to take.
      top: ``[batch, 1]`` first row of the crop, relative to the image's first row.
      left: ``[batch, 1]`` first column of the crop.
      flip: ``[batch, 1]`` bool.

    Returns:
      ``[batch, height, width, channels]`` uint8.
    """
    count, (height, width) = len(indices), images.shape[1:3]
    columns = torch.arange(width, device=images.device).expand(count, -1)
    columns = torch.where(flip, columns.flip(1), columns) + left
    rows = torch.arange(height, device=images.device) + top
    inside = ((rows >= 0) & (rows < height))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    taken = images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
    return taken * inside[..., None]


def normalize(images: torch.Tensor) -> torch.Tensor:
    """uint8 ``[batch, height, width, channels]`` -> float32 ``[batch, channels, height, width]``.

    The result is channels last in memory.
    """
    return (images.permute(0, 3, 1, 2).float() - MEAN) / DEVIATION


@dataclasses.dataclass
class Trainer:
    """A whole training step, ready to be timed.

    Attributes:
      model: the model, on its device.
      images, labels: the data, uint8 ``[n, height, width, 3]`` and int64 ``[n]``, on the device.
      batch: images per step.
      dtype: dtype of the networks' arithmetic, with autocast if it is not float32.
      compile_mode: mode of ``torch.compile`` for augmentation, forward and backward; empty: eager.
      channels_last: whether feature maps and kernels are stored channels last.
    """

    model: Ensemble
    images: torch.Tensor
    labels: torch.Tensor
    batch: int
    dtype: torch.dtype = torch.float32
    compile_mode: str = ""
    channels_last: bool = True

    def __post_init__(self) -> None:
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)
        kernels = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.SGD(
            [
                {"params": kernels, "weight_decay": 1e-4},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=0.1,
            momentum=0.9,
            nesterov=True,
        )
        self._forward, self._augment = self.model, self.augment
        if self.compile_mode:
            self._forward = torch.compile(self.model, mode=self.compile_mode)
            self._augment = torch.compile(self.augment, mode=self.compile_mode)

    def augment(self, indices: torch.Tensor, pad: int = 4) -> torch.Tensor:
        """Returns a batch with random crops and flips, normalised."""
        count, device = len(indices), self.images.device
        top, left = torch.randint(-pad, pad + 1, (2, count, 1), device=device)
        flip = torch.rand(count, 1, device=device) < 0.5
        images = normalize(crop_and_flip(self.images, indices, top, left, flip))
        return images.contiguous(
            memory_format=torch.channels_last if self.channels_last else torch.contiguous_format
        )

    def step(self) -> torch.Tensor:
        """Takes one step on a random batch; returns the loss on the device."""
        device = self.images.device
        if self.compile_mode:
            # Allow reuse of the memory that CUDA graphs of the last step hold.
            torch.compiler.cudagraph_mark_step_begin()
        indices = torch.randint(len(self.labels), (self.batch,), device=device)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss, _, _ = self._forward(self._augment(indices), self.labels[indices])
        loss.backward()
        self.optimizer.step()
        return loss.detach()
