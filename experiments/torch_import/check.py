"""Compares imported networks with torchvision's own: the same random parameters, the same images.

This program needs torch and torchvision in addition to kdjax. It downloads nothing: all parameters
are random, and so are running statistics, scales and biases. An array that is imported to the wrong
place therefore changes the logits.
"""

import argparse
import importlib.metadata
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import torchvision

from kdjax import models

# Name in kdjax -> name in torchvision, and image sizes. Odd sizes show how strided layers pad. The
# dense layers of VGG fit only one size.
NETWORKS = {
    "resnet18": ("resnet18", ((224, 224), (97, 65))),
    "resnet34": ("resnet34", ((128, 128), (97, 65))),
    "resnet50": ("resnet50", ((128, 128), (97, 65))),
    "resnet101": ("resnet101", ((128, 128), (97, 65))),
    "resnet152": ("resnet152", ((128, 128), (97, 65))),
    "resnext50_32x4d": ("resnext50_32x4d", ((128, 128), (97, 65))),
    "resnext101_32x8d": ("resnext101_32x8d", ((128, 128), (97, 65))),
    "wide_resnet50_2": ("wide_resnet50_2", ((128, 128), (97, 65))),
    "wide_resnet101_2": ("wide_resnet101_2", ((128, 128), (97, 65))),
    "densenet121": ("densenet121", ((128, 128), (97, 65))),
    "mobilenet_v2_imagenet": ("mobilenet_v2", ((224, 224), (97, 65))),
    "vgg16_bn_imagenet": ("vgg16_bn", ((224, 224),)),
    "efficientnet_b0": ("efficientnet_b0", ((224, 224), (97, 65))),
    "efficientnet_b1": ("efficientnet_b1", ((240, 240), (97, 65))),
    "efficientnet_b2": ("efficientnet_b2", ((260, 260), (97, 65))),
    "efficientnet_b3": ("efficientnet_b3", ((128, 128), (97, 65))),
    "efficientnet_b4": ("efficientnet_b4", ((128, 128), (97, 65))),
    "efficientnet_b5": ("efficientnet_b5", ((128, 128), (97, 65))),
    "efficientnet_b6": ("efficientnet_b6", ((128, 128), (97, 65))),
    "efficientnet_b7": ("efficientnet_b7", ((128, 128), (97, 65))),
}
LIMIT = 1e-5  # For the largest difference, relative to the largest logit.
IMAGES = 2
SETTLING_IMAGES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    known = parser.parse_args()
    rows = []
    for name in known.networks.split(","):
        rows += check(name)
    record = {
        "limit": LIMIT,
        "images": IMAGES,
        "rows": rows,
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("jax", "flax", "numpy", "torch", "torchvision")
        },
        "python": platform.python_version(),
    }
    known.out.write_text(json.dumps(record, indent=1) + "\n")
    bad = [row for row in rows if not row["relative_difference"] <= allowed(row)]
    for row in bad:
        print(f"{row['network']} {row['height']} x {row['width']}: above {allowed(row):.1e}")
    raise SystemExit(1 if bad else 0)


def allowed(row: dict[str, Any]) -> float:
    """Returns the limit, or twice PyTorch's own rounding error if a network makes that larger."""
    return max(LIMIT, 2 * row["torch_rounding"])


def check(name: str) -> list[dict[str, Any]]:
    """Checks one network; returns one row for each image size."""
    theirs, sizes = NETWORKS[name]
    torch.manual_seed(0)
    network = getattr(torchvision.models, theirs)(weights=None).eval()
    parameters = randomize(network)
    rng = np.random.default_rng(0)
    first = sizes[0]
    settle(network, rng.normal(size=(SETTLING_IMAGES, 3, *first)).astype(np.float32))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.npz"
        np.savez(file, **{key: value.numpy() for key, value in network.state_dict().items()})
        tensors = models.read_tensors(file)
    architecture = models.create(name, num_classes=1000)
    variables = models.import_torch(architecture, tensors, image_shape=(*first, 3))
    ours = jax.jit(lambda x: architecture.build().apply(variables, x, train=False).logits)
    rows = []
    for size in sizes:
        images = rng.normal(size=(IMAGES, 3, *size)).astype(np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
            exact = network.double()(torch.from_numpy(images).double()).numpy()
        network.float()  # Exact, because all numbers were float32 before.
        found = np.asarray(ours(images.transpose(0, 2, 3, 1)))
        largest = float(np.abs(expected).max())
        rows.append(
            {
                "network": name,
                "torchvision": theirs,
                "height": size[0],
                "width": size[1],
                "parameters": parameters,
                "largest_logit": largest,
                "logit_deviation": float(expected.std()),
                "relative_difference": float(np.abs(found - expected).max()) / largest,
                "torch_rounding": float(np.abs(exact - expected).max()) / largest,
            }
        )
        print(
            f"{name:24} {size[0]:3} x {size[1]:3}  largest logit {largest:9.3g}  "
            f"relative difference {rows[-1]['relative_difference']:.1e}  "
            f"rounding of PyTorch {rows[-1]['torch_rounding']:.1e}",
            flush=True,
        )
    return rows


def randomize(network: torch.nn.Module) -> int:
    """Draws random parameters, scales and biases too; returns the number of parameters."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
        elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    for last in last_norms(network):
        torch.nn.init.uniform_(last.weight, 0.05, 0.2)
    return sum(parameter.numel() for parameter in network.parameters())


def last_norms(network: torch.nn.Module) -> list[torch.nn.Module]:
    """Returns the normalisations that end a residual branch.

    Their scales are drawn small: if a branch is as large as its shortcut, rounding errors grow with
    every block.
    """
    ends = {
        torchvision.models.resnet.BasicBlock: lambda block: block.bn2,
        torchvision.models.resnet.Bottleneck: lambda block: block.bn3,
        torchvision.models.mobilenetv2.InvertedResidual: lambda block: block.conv[-1],
        torchvision.models.efficientnet.MBConv: lambda block: block.block[-1][1],
    }
    return [ends[type(m)](m) for m in network.modules() if type(m) in ends]


def settle(network: torch.nn.Module, images: np.ndarray) -> None:
    """Sets running statistics close to those of ``images``, so that logits stay in range.

    Each statistic is measured on the layer's own input, and then shifted or scaled at random. With
    other statistics a deep network multiplies rounding errors by thousands.
    """

    def measure(module: torch.nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...]) -> None:
        (x,) = inputs
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        # Without this, the tiny variance of a dead channel could scale its later values by 1000.
        variance += 0.1 * variance.mean()
        spread = variance.sqrt()
        module.running_mean.copy_(mean + spread * (0.2 * torch.rand_like(mean) - 0.1))
        module.running_var.copy_(variance * (0.8 + 0.4 * torch.rand_like(variance)))

    handles = [
        module.register_forward_pre_hook(measure)
        for module in network.modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    with torch.no_grad():
        network(torch.from_numpy(images))
    for handle in handles:
        handle.remove()


if __name__ == "__main__":
    main()
