"""Writes torchvision_names.json: a digest of the names and shapes of torchvision's parameters.

Run ``python tests/golden/make_torchvision_names.py``, which needs torch and torchvision. Networks
are made on PyTorch's meta device, which takes no memory.
"""

import hashlib
import json
from pathlib import Path

import torch
import torchvision

NETWORKS = {
    **{name: name for name in ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2")},
    "densenet121": "densenet121",
    "mobilenet_v2_imagenet": "mobilenet_v2",
    "vgg16_bn_imagenet": "vgg16_bn",
    **{name: name for name in ("efficientnet_b0", "efficientnet_b5")},
}


def main() -> None:
    found = {}
    for name, theirs in NETWORKS.items():
        with torch.device("meta"):
            tensors = getattr(torchvision.models, theirs)(weights=None).state_dict()
        lines = sorted(
            f"{key} {tuple(tensor.shape)}"
            for key, tensor in tensors.items()
            if not key.endswith("num_batches_tracked")
        )
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        found[name] = {"tensors": len(lines), "sha256": digest}
    content = {"torchvision": torchvision.__version__, "networks": found}
    path = Path(__file__).with_name("torchvision_names.json")
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
