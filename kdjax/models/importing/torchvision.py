"""torchvision's names for the modules of our networks, and differences between the networks.

All names are those of torchvision's ``state_dict``. The networks compute the same function, except
for two differences that an import must handle. In EfficientNet-B0 to B4, torchvision does not add
the same epsilon to the variances as the paper's code and kdjax. torchvision's VGG pools the last
map to 7 x 7. This has no effect at 224 pixels, but it has one at other sizes.

References:
  torchvision 0.28, ``torchvision/models``: resnet.py, densenet.py, mobilenetv2.py, vgg.py,
  efficientnet.py.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from kdjax.models.architecture import Architecture
from kdjax.models.densenet import DenseNet
from kdjax.models.efficientnet import EfficientNet
from kdjax.models.imagenet_resnet import ImageNetResNet
from kdjax.models.mobilenet_v2 import MobileNetV2
from kdjax.models.vgg import VGG

# (path of our module, as in "branch/stage2_block1/conv1/conv"; torchvision's name of it).
Names = Iterator[tuple[str, str]]


class Module(NamedTuple):
    """A module of torchvision.

    Attributes:
      name: its name in the ``state_dict``, without ``.weight``.
      layout: the layout of the weights, if kdjax has a dense layer. ``usual``; ``pointwise``:
        torchvision has a 1x1 convolution; ``flattened``: torchvision's layer reads a map in the
        order channel, height, width.
    """

    name: str
    layout: Literal["usual", "pointwise", "flattened"] = "usual"


def modules_of(architecture: Architecture) -> dict[str, Module]:
    """Path of each of our modules that has variables -> torchvision's module.

    Raises:
      ValueError: if torchvision has no such network.
    """
    names = _FAMILIES.get(type(architecture))
    found = dict(names(architecture)) if names else {}
    if not found:
        raise ValueError(
            f"{architecture.name} is not a network of torchvision: parameters can be imported of "
            "ImageNet's ResNets, ResNeXts and wide ResNets, densenet121, mobilenet_v2_imagenet, "
            "vgg16_bn_imagenet and EfficientNets"
        )
    return {path: Module(name, _layout(path)) for path, name in found.items()}


def present_name(name: str) -> str:
    """The present name of a tensor; torchvision's older DenseNet files have ``norm.1``.

    >>> present_name("features.denseblock1.denselayer2.norm.1.weight")
    'features.denseblock1.denselayer2.norm1.weight'
    """
    return re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


def epsilon_of(architecture: Architecture) -> float | None:
    """The epsilon that torchvision adds to the variances in a network; None: the same as kdjax.

    EfficientNets have the 1e-3 of the paper's code in kdjax. In torchvision only B5 to B7 have it.
    """
    plain = isinstance(architecture, EfficientNet) and architecture.name[-2:] < "b5"
    return 1e-5 if plain else None


def _layout(path: str) -> Any:
    if path == "branch/dense1":
        return "flattened"
    return "pointwise" if "/squeeze/" in path else "usual"


def _conv_norm(path: str, conv: str, norm: str) -> Names:
    yield f"{path}/conv", conv
    yield f"{path}/norm", norm


def _resnet(architecture: ImageNetResNet) -> Names:
    yield from _conv_norm("stem/conv", "conv1", "bn1")
    for block in architecture.plan(architecture.widths):
        part = "stem" if block.stage in architecture.shared else "branch"
        path = f"{part}/{block.name}"
        name = f"layer{_last_number(block.stage)}.{_last_number(block.name) - 1}"
        for number in range(1, len(block.inner) + 2):
            yield from _conv_norm(
                f"{path}/conv{number}", f"{name}.conv{number}", f"{name}.bn{number}"
            )
        if block.project:
            yield from _conv_norm(
                f"{path}/projection", f"{name}.downsample.0", f"{name}.downsample.1"
            )
    yield "branch/classifier", "fc"


def _densenet(architecture: DenseNet) -> Names:
    if not architecture.imagenet:
        return
    yield from _conv_norm("stem/conv", "features.conv0", "features.norm0")
    for number, block in enumerate(architecture.plan(architecture.widths), start=1):
        for layer in range(1, len(block.layers) + 1):
            path = f"branch/{block.name}_layer{layer}"
            name = f"features.denseblock{number}.denselayer{layer}"
            yield from _conv_norm(f"{path}/bottleneck", f"{name}.conv1", f"{name}.norm1")
            yield from _conv_norm(f"{path}/growth", f"{name}.conv2", f"{name}.norm2")
        if block.transition is not None:
            name = f"features.transition{number}"
            yield from _conv_norm(f"branch/transition{number}", f"{name}.conv", f"{name}.norm")
    yield "branch/norm", "features.norm5"
    yield "branch/classifier", "classifier"


def _mobilenet(architecture: MobileNetV2) -> Names:
    if architecture.early_stride != 2:
        return
    yield from _conv_norm("stem/conv", "features.0.0", "features.0.1")
    blocks = tuple(architecture.plan(architecture.widths))
    for number, block in enumerate(blocks, start=1):
        path, name = f"branch/{block.name}", f"features.{number}.conv"
        parts = ("expand", "depthwise") if block.expand else ("depthwise",)
        for place, part in enumerate(parts):
            yield from _conv_norm(f"{path}/{part}", f"{name}.{place}.0", f"{name}.{place}.1")
        last = len(parts)
        yield from _conv_norm(f"{path}/project", f"{name}.{last}", f"{name}.{last + 1}")
    head = f"features.{len(blocks) + 1}"
    yield from _conv_norm("branch/head", f"{head}.0", f"{head}.1")
    yield "branch/classifier", "classifier.1"


def _vgg(architecture: VGG) -> Names:
    if not architecture.variant.dense:
        return
    yield from _conv_norm("stem/conv", "features.0", "features.1")
    place = 3  # After the convolution, its normalisation and its ReLU.
    for conv in architecture.plan(architecture.widths):
        yield from _conv_norm(f"branch/{conv.name}", f"features.{place}", f"features.{place + 1}")
        place += 4 if conv.pool else 3
    # Between the dense layers are ReLU and dropout.
    yield from (("branch/dense1", "classifier.0"), ("branch/dense2", "classifier.3"))
    yield "branch/classifier", "classifier.6"


def _efficientnet(architecture: EfficientNet) -> Names:
    yield from _conv_norm("stem/conv", "features.0.0", "features.0.1")
    for block in architecture.plan(architecture.widths):
        path = f"branch/{block.name}"
        stage, number = _last_number(block.stage), _last_number(block.name) - 1
        name = f"features.{stage}.{number}.block"
        parts = ("expand", "depthwise") if block.expand else ("depthwise",)
        for place, part in enumerate(parts):
            yield from _conv_norm(f"{path}/{part}", f"{name}.{place}.0", f"{name}.{place}.1")
        last = len(parts)
        yield f"{path}/squeeze/reduce", f"{name}.{last}.fc1"
        yield f"{path}/squeeze/excite", f"{name}.{last}.fc2"
        yield from _conv_norm(f"{path}/project", f"{name}.{last + 1}.0", f"{name}.{last + 1}.1")
    yield from _conv_norm("branch/head", "features.8.0", "features.8.1")
    yield "branch/classifier", "classifier.1"


def _last_number(name: str) -> int:
    return int(re.findall(r"\d+", name)[-1])


_FAMILIES: dict[type, Callable[[Any], Names]] = {
    ImageNetResNet: _resnet,
    DenseNet: _densenet,
    MobileNetV2: _mobilenet,
    VGG: _vgg,
    EfficientNet: _efficientnet,
}
