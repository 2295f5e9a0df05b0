"""Imported torchvision parameters: NumPy forward passes in PyTorch's layout give the same."""

import hashlib
import json
import sys
from pathlib import Path

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import pytest

from kdjax import models
from kdjax.models import densenet
from kdjax.models.importing import torch_shapes

GOLDEN = json.loads((Path(__file__).parent.parent / "golden/torchvision_names.json").read_text())


@pytest.fixture(scope="module")
def tiny():
    """A function: name, width, image size -> (architecture, random tensors by torchvision name)."""

    def make(name, width, size, classes=5):
        architecture = models.create(name, classes, width=width)
        return architecture, random_tensors(torch_shapes(architecture, size))

    return make


def random_tensors(shapes):
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith("running_var"):
            tensors[name] = rng.uniform(0.3, 0.8, shape)
        elif len(shape) == 1 and name.endswith("weight"):
            tensors[name] = rng.uniform(0.5, 1.0, shape) * rng.choice([-1, 1], shape)
        elif len(shape) == 1:
            tensors[name] = rng.normal(0.2, 0.5, shape)
        else:
            tensors[name] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


class Torch:
    """Layers in float64 on maps ``[batch, channels, height, width]``, as PyTorch defines them."""

    def __init__(self, tensors, epsilon=1e-5):
        self.tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        self.epsilon = epsilon

    def conv(self, x, name, stride=1, groups=1):
        kernel = self.tensors[f"{name}.weight"]
        out, _, size, _ = kernel.shape
        windows = self.windows(x, size, stride, 0.0)
        parts = zip(np.split(windows, groups, 1), np.split(kernel, groups), strict=True)
        y = np.concatenate([np.einsum("nchwij,ocij->nohw", w, k) for w, k in parts], 1)
        bias = self.tensors.get(f"{name}.bias", np.zeros(out))
        return y + bias[:, None, None]

    def windows(self, x, size, stride, beyond):
        """Returns the windows of a map that is padded with half a kernel on all four sides."""
        pad = ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2)
        x = np.pad(x, pad, constant_values=beyond)
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
        return windows[:, :, ::stride, ::stride]

    def norm(self, x, name):
        scale, bias, mean, var = (
            self.tensors[f"{name}.{leaf}"][:, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + self.epsilon) * scale + bias

    def dense(self, x, name):
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return x @ weight.reshape(weight.shape[:2]).T + bias


def relu(x):
    return np.maximum(x, 0)


def swish(x):
    return x / (1 + np.exp(-x))


def vgg(tensors, x):
    """The forward pass of torchvision's vgg16_bn, without its pooling to 7 x 7."""
    net = Torch(tensors)
    for place in (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40):
        x = relu(net.norm(net.conv(x, f"features.{place}"), f"features.{place + 1}"))
        if place in (3, 10, 20, 30, 40):
            n, c, h, w = x.shape
            x = x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))
    x = x.reshape(len(x), -1)
    for name in ("classifier.0", "classifier.3"):
        x = relu(net.dense(x, name))
    return net.dense(x, "classifier.6")


def resnet18(tensors, x):
    net = Torch(tensors)
    x = relu(net.norm(net.conv(x, "conv1", 2), "bn1"))
    x = net.windows(x, 3, 2, -np.inf).max((4, 5))
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = relu(net.norm(net.conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
            y = net.norm(net.conv(y, f"{name}.conv2"), f"{name}.bn2")
            if stride == 2:
                x = net.conv(x, f"{name}.downsample.0", stride)
                x = net.norm(x, f"{name}.downsample.1")
            x = relu(x + y)
    return net.dense(x.mean((2, 3)), "fc")


def efficientnet_b0(tensors, x):
    net = Torch(tensors, epsilon=1e-5)
    x = swish(net.norm(net.conv(x, "features.0.0", 2), "features.0.1"))
    rows = [(1, 1, 1), (2, 2, 2), (2, 2, 2), (3, 2, 2), (3, 1, 1), (4, 2, 2), (1, 1, 1)]
    for stage, (blocks, stride, _) in enumerate(rows, start=1):
        for number in range(blocks):
            name, y, place = f"features.{stage}.{number}.block", x, 0
            if stage > 1:
                y = swish(net.norm(net.conv(y, f"{name}.0.0"), f"{name}.0.1"))
                place = 1
            y = net.conv(y, f"{name}.{place}.0", stride if number == 0 else 1, y.shape[1])
            y = swish(net.norm(y, f"{name}.{place}.1"))
            gate = swish(net.dense(y.mean((2, 3)), f"{name}.{place + 1}.fc1"))
            gate = net.dense(gate, f"{name}.{place + 1}.fc2")
            y = y / (1 + np.exp(-gate[:, :, None, None]))
            y = net.norm(net.conv(y, f"{name}.{place + 2}.0"), f"{name}.{place + 2}.1")
            x = x + y if number else y
    x = swish(net.norm(net.conv(x, "features.8.0"), "features.8.1"))
    return net.dense(x.mean((2, 3)), "classifier.1")


@pytest.mark.parametrize(
    ("name", "width", "size", "forward"),
    [
        ("vgg16_bn_imagenet", 1 / 32, (64, 96), vgg),
        ("resnet18", 1 / 16, (33, 46), resnet18),
        ("efficientnet_b0", 0.1, (33, 46), efficientnet_b0),
    ],
)
def test_imported_networks_compute_what_pytorch_defines(tiny, name, width, size, forward):
    architecture, tensors = tiny(name, width, (*size, 3))
    if name == "efficientnet_b0":  # A small map, whose variance is close to epsilon.
        tensors["features.0.0.weight"] *= 0.03
        tensors["features.0.1.running_mean"] *= 0.03
        tensors["features.0.1.running_var"] *= 1e-3
    images = np.random.default_rng(1).normal(size=(2, 3, *size)).astype(np.float32)
    variables = models.import_torch(architecture, tensors, image_shape=(*size, 3))
    apply = jax.jit(architecture.build().apply)
    found = apply(variables, images.transpose(0, 2, 3, 1)).logits
    expected = forward(tensors, images)
    difference = np.abs(found - expected).max()
    assert difference < 1e-5 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()  # They depend on images.


@pytest.mark.parametrize("name", GOLDEN["networks"])
def test_names_and_shapes_are_those_of_torchvision(name, monkeypatch):
    # Make kernels zero, because tracing their random initialisation takes most of the time.
    monkeypatch.setattr(nn.initializers, "he_normal", lambda: nn.initializers.zeros)
    shapes = torch_shapes(models.create(name, num_classes=1000))
    lines = sorted(f"{tensor} {shape}" for tensor, shape in shapes.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert {"tensors": len(lines), "sha256": digest} == GOLDEN["networks"][name]


def test_variables_are_those_of_the_network(tiny):
    architecture, tensors = tiny("resnet18", 1 / 32, (32, 32, 3))
    tensors |= {"bn1.num_batches_tracked": np.int64(7)}
    kernel = tensors["layer2.0.conv1.weight"]
    tensors["layer2.0.conv1.weight"] = kernel.astype(np.float16)
    found = models.import_torch(architecture, tensors)
    expected = models.initialize(architecture.build(), seed=0)
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    own = found["params"]["branch"]["stage2_block1"]["conv1"]["conv"]["kernel"]
    assert own[2, 0, 1, 3] == np.float16(kernel[3, 1, 2, 0])


def test_a_classifier_of_other_classes_is_drawn_anew(tiny):
    _, tensors = tiny("resnet18", 1 / 32, (32, 32, 3), classes=5)
    other = models.create("resnet18", 3, width=1 / 32)
    with pytest.raises(ValueError, match=r"fc.weight is \(5, 16\), expected \(3, 16\)") as error:
        models.import_torch(other, tensors)
    assert str(error.value).endswith("With new_classifier, a new classifier is initialised")
    found, again, third = (
        models.import_torch(other, tensors, new_classifier=True, seed=seed) for seed in (4, 4, 5)
    )
    drawn = models.initialize(other.build(), seed=4)
    first, second, by_another_seed, expected = (
        variables["params"]["branch"]["classifier"]["kernel"]
        for variables in (found, again, third, drawn)
    )
    assert first.shape == (16, 3)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, expected)
    assert not np.array_equal(first, by_another_seed)
    stem = found["params"]["stem"]["conv"]["conv"]["kernel"]
    assert np.array_equal(stem, tensors["conv1.weight"].transpose(2, 3, 1, 0))
    # A file without any classifier works too.
    bare = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    same = flax.traverse_util.flatten_dict(
        models.import_torch(other, bare, new_classifier=True, seed=4)
    )
    assert all(
        np.array_equal(same[p], x) for p, x in flax.traverse_util.flatten_dict(found).items()
    )


def test_errors_name_what_is_wrong(tiny):
    architecture, tensors = tiny("resnet18", 1 / 32, (32, 32, 3))
    changed = dict(tensors)
    for name in ("bn1.bias", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "fc.bias"):
        del changed[name]
    changed["layer4.1.conv2.weight"] = changed["layer4.1.conv2.weight"][:, :, :2]
    changed["head.weight"] = np.zeros(3, np.float32)
    changed["conv1.weight"] = changed["conv1.weight"].astype(np.int32)
    with pytest.raises(ValueError) as error:
        models.import_torch(architecture, changed)
    assert str(error.value) == (
        "the tensors are not those of resnet18 with 5 classes: missing: bn1.bias (2,), "
        "fc.bias (5,), layer1.0.conv1.weight (2, 2, 3, 3) and 1 more; of another shape: "
        "layer4.1.conv2.weight is (16, 16, 2, 3), expected (16, 16, 3, 3); of another type: "
        "conv1.weight is int32, expected floats; left over: head.weight"
    )


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn", "mobilenet_v2", "densenet_bc_100_12"])
def test_networks_that_torchvision_does_not_have(name):
    with pytest.raises(ValueError, match=f"{name} is not a network of torchvision: parameters can"):
        models.import_torch(models.create(name, 10, width=0.1), {})


def test_sizes_at_which_vgg_would_pool_otherwise():
    architecture = models.create("vgg16_bn_imagenet", 10, width=0.02)
    with pytest.raises(ValueError, match="images are 200 x 224: for parameters of another program"):
        models.import_torch(architecture, {}, image_shape=(200, 224, 3))


def test_older_names_of_densenet():
    layers = (1, 2, 1, 1)
    widths = densenet.width_vector(layers, 2, 4)
    architecture = densenet.DenseNet("densenet121", 5, widths, layers, imagenet=True)
    tensors = random_tensors(torch_shapes(architecture, (32, 32, 3)))
    older = {
        name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): tensor
        for name, tensor in tensors.items()
    }
    assert "features.denseblock2.denselayer2.norm.1.running_var" in older
    found, expected = (
        models.import_torch(architecture, names, image_shape=(32, 32, 3))
        for names in (older, tensors)
    )
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found, expected)))


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_files_are_read(kind, tmp_path):
    import safetensors.numpy

    tensors = {"conv1.weight": np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)}
    path = tmp_path / f"a.{kind}"
    if kind == "npz":
        np.savez(path, **tensors)
    else:
        safetensors.numpy.save_file(tensors, path)
    found = models.read_tensors(path)
    assert found.keys() == tensors.keys()
    np.testing.assert_array_equal(found["conv1.weight"], tensors["conv1.weight"])
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=f"a.{kind} (is not an .npz|cannot be read)"):
        models.read_tensors(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"a.{kind}"):
        models.read_tensors(path)


def test_files_that_are_not_read(tmp_path, monkeypatch):
    objects = tmp_path / "objects.npz"
    np.savez(objects, a=np.array([{}], object))
    with pytest.raises(ValueError, match=r"objects\.npz is not an .* numbers: it holds other obj"):
        models.read_tensors(objects)
    objects.write_text("hi")
    with pytest.raises(
        ValueError, match=r"objects\.npz is not an .* numbers: it is no npz archive"
    ):
        models.read_tensors(objects)
    with pytest.raises(ValueError, match=r"net\.pth is neither .* weights_only=True") as error:
        models.read_tensors(tmp_path / "net.pth")
    assert "torch.load('net.pth'" in str(error.value)
    assert "numpy.savez('net.npz'" in str(error.value)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ValueError, match="pip install safetensors"):
        models.read_tensors(tmp_path / "a.safetensors")
