"""The rival of a search: Torch-Pruning on the same network and images, for as many epochs.

This program needs PyTorch, Torch-Pruning and NumPy, but not kdjax; ``compare.py`` writes the data
and starts it. It trains the full network. It then prunes the network channel by channel while
training continues, until the asked share of parameters is left, and fine-tunes the rest. It prints
JSON.
"""

import argparse
import copy
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
import torch_pruning
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1] / "throughput"))
from peer import ConvNorm, Student

STEPS = 400  # Pruner steps from all channels to none.
# Share of the pruning epochs in which the number of parameters falls, as in `kdjax search`.
DESCENT = 0.7


class Network(nn.Module):
    """A CIFAR ResNet8 for images of one channel."""

    def __init__(self, widths: dict[str, int], classes: int):
        super().__init__()
        self.stem = ConvNorm(1, widths["stem"])
        self.rest = Student(widths, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.rest(functional.relu(self.stem(images)))[0]


class Recipe:
    """Training with one seed on one data set, with the recipe of the search to compare with."""

    def __init__(self, data: dict[str, np.ndarray], recipe: dict, seed: int):
        self.recipe = recipe
        self.generator = torch.Generator().manual_seed(seed)
        mean, deviation = float(data["mean"]), float(data["std"])
        self.images, self.test_images = (
            torch.from_numpy((data[f"{split}_images"] / 255 - mean) / deviation).float()[:, None]
            for split in ("train", "test")
        )
        # Padding is black: this is the normalised value of a black pixel.
        self.border = -mean / deviation
        self.labels = torch.from_numpy(data["train_labels"]).long()
        self.test_labels = torch.from_numpy(data["test_labels"]).long()

    def train(
        self,
        network: nn.Module,
        epochs: int,
        *,
        teacher: nn.Module | None = None,
        constant_rate: float = 0.0,
        after_step: Callable[[int, int], nn.Module | None] = lambda step, steps: None,
    ) -> None:
        """Trains with SGD and Nesterov momentum; cosine rate with warm-up, or a constant rate."""
        recipe, batch = self.recipe, self.recipe["batch_size"]
        per_epoch = math.ceil(len(self.images) / batch)
        steps, warmup = epochs * per_epoch, recipe["warmup_epochs"] * per_epoch
        optimizer = self._optimizer(network)
        network.train()
        for step in range(steps):
            if step % per_epoch == 0:
                order = torch.randperm(len(self.images), generator=self.generator)
            chosen = order[step % per_epoch * batch :][:batch]
            images, labels = self._cropped(self.images[chosen]), self.labels[chosen]
            logits = network(images)
            loss = functional.cross_entropy(logits, labels)
            if teacher is not None:
                with torch.no_grad():
                    given = teacher(images)
                t = recipe["temperature"]
                divergence = functional.kl_div(
                    (logits / t).log_softmax(-1),
                    (given / t).log_softmax(-1),
                    reduction="batchmean",
                    log_target=True,
                )
                loss = recipe["hard"] * loss + recipe["soft"] * t**2 * divergence
            optimizer.zero_grad()
            loss.backward()
            rate = constant_rate or recipe["learning_rate"] * (
                (step + 1) / warmup
                if step < warmup
                else 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            if after_step(step + 1, steps):
                optimizer = self._optimizer(network, optimizer)

    def _optimizer(self, network: nn.Module, before: torch.optim.SGD | None = None):
        """Returns SGD that decays kernels only; momentum of pruned parameters starts from zero."""
        decayed = [p for name, p in network.named_parameters() if p.ndim > 1]
        others = [p for name, p in network.named_parameters() if p.ndim <= 1]
        optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": self.recipe["weight_decay"]}, {"params": others}],
            lr=0.1,
            momentum=self.recipe["momentum"],
            nesterov=True,
        )
        if before is not None:
            for parameter in (*decayed, *others):
                momentum = before.state.get(parameter, {}).get("momentum_buffer")
                if momentum is not None and momentum.shape == parameter.shape:
                    optimizer.state[parameter]["momentum_buffer"] = momentum
        return optimizer

    def _cropped(self, images: torch.Tensor) -> torch.Tensor:
        pad = self.recipe["crop_padding"]
        padded = functional.pad(images, (pad,) * 4, value=self.border)
        height, width = images.shape[-2:]
        tops, lefts = (
            torch.randint(0, 2 * pad + 1, (len(images),), generator=self.generator).tolist()
            for _ in range(2)
        )
        return torch.stack(
            [
                image[:, top : top + height, left : left + width]
                for image, top, left in zip(padded, tops, lefts, strict=True)
            ]
        )

    @torch.no_grad()
    def accuracy(self, network: nn.Module) -> float:
        """Returns the accuracy on the test images."""
        network.eval()
        right = network(self.test_images).argmax(-1) == self.test_labels
        return right.float().mean().item()


def pruned(
    full: nn.Module, recipe: Recipe, share: float, *, everywhere: bool, teacher: nn.Module | None
) -> nn.Module:
    """Returns a copy of the full network, pruned while it trains and then fine-tuned.

    Args:
      full: the trained full network.
      recipe: the training recipe.
      share: share of the parameters to keep.
      everywhere: whether channels of all layers are compared with each other; otherwise each group
        loses the same share.
      teacher: network that gives soft targets, or None.
    """
    network = copy.deepcopy(full)
    target = share * size(full)
    pruner = torch_pruning.pruner.BasePruner(
        network,
        recipe.images[:1],
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=everywhere,
        pruning_ratio=1.0,
        max_pruning_ratio=0.95,
        iterative_steps=STEPS,
        ignored_layers=[network.rest.classifier],
    )

    def lead_down(step: int, steps: int) -> bool:
        """Prunes to the number of parameters planned for this step; returns whether it pruned."""
        left = max(0.0, 1 - step / (DESCENT * steps))
        planned, changed = target + left * (size(full) - target), False
        while size(network) > planned and pruner.current_step < STEPS:
            pruner.step()
            changed = True
        return changed

    epochs = recipe.recipe
    recipe.train(
        network,
        epochs["search_epochs"],
        teacher=teacher,
        constant_rate=epochs["search_learning_rate"],
        after_step=lead_down,
    )
    if size(network) > target:
        sys.exit(f"pruned to {size(network)} parameters only: {target:.0f} were asked for")
    recipe.train(network, epochs["distil_epochs"], teacher=teacher)
    return network


def size(network: nn.Module) -> int:
    """Returns the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="npz file that compare.py writes")
    parser.add_argument("--recipe", required=True, help="JSON")
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    with np.load(options.data) as file:
        data = dict(file)
    given = json.loads(options.recipe)
    recipe = Recipe(data, given, options.seed)
    full = Network(given["widths"], int(data["train_labels"].max()) + 1)
    recipe.train(full, given["teacher_epochs"])
    teacher = copy.deepcopy(full).eval()
    found = {"full": describe(full, recipe)}
    for everywhere in (False, True):
        for name, own in (("labels", None), ("distilled", teacher)):
            network = pruned(full, recipe, given["share"], everywhere=everywhere, teacher=own)
            found[f"{'global' if everywhere else 'uniform'}, {name}"] = describe(network, recipe)
    made = {"torch": torch.__version__, "torch_pruning": torch_pruning.__version__}
    print(json.dumps({"networks": found, "made_with": made}))


def describe(network: nn.Module, recipe: Recipe) -> dict:
    """Returns a network's size, MACs, channels of its normalised layers in order, and accuracy."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    return {
        "params": size(network),
        "macs": torch_pruning.utils.count_ops_and_params(network, recipe.images[:1])[0],
        "channels": [layer.num_features for layer in norms],
        "accuracy": recipe.accuracy(network),
    }


if __name__ == "__main__":
    main()
