"""ONNX Runtime computes from an exported file what JAX computes from the network."""

import dataclasses
import itertools
import json
from collections import Counter

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

import kdjax
from kdjax import cli, deploy, models
from kdjax.deploy.onnx import UnsupportedError, translate


def written(function, image_shape):
    """Returns a function of images, of any number, as an ONNX file."""
    shape = jax.export.symbolic_shape("batch, _, _, _", like=(None, *image_shape))
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return translate(function, images, {"producer_name": "kdjax", "producer_version": "test"})


def run(file, images):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[0]) == ("images", "tensor(uint8)", "batch")
    assert (result.name, result.type, result.shape[0]) == ("logits", "tensor(float)", "batch")
    return session.run(None, {"images": images})[0]


def operators(file):
    return Counter(node.op_type for node in onnx.load_from_string(file).graph.node)


def draw(shape, count=3):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def test_a_student_answers_in_onnx_runtime_as_in_jax(trained, tmp_path):
    path, experiment = trained
    out = tmp_path / "two.onnx"
    assert cli.main(["export", f"--workdir={path}", "--student=2", f"--out={out}"]) == 0
    student, images = kdjax.load_student(path, 2), experiment.dataset.test.images
    network = student.network
    expected = network.apply(student.variables, student.preprocess(images), train=False).logits
    found = run(out.read_bytes(), images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run(out.read_bytes(), images[:1]), expected[:1], rtol=1e-5)
    assert run(out.read_bytes(), images[:0]).shape == (0, 4)
    described = json.loads((tmp_path / "two.onnx.json").read_text())
    assert (described["input_name"], described["output_name"]) == ("images", "logits")
    assert described["class_names"] == list(experiment.dataset.class_names)
    assert described["input"].startswith("uint8") and "inside" in described["normalisation"]


def test_a_student_trained_in_bfloat16_is_written_in_float32(trained, tmp_path):
    student = kdjax.load_student(trained[0])
    half = dataclasses.replace(student, network=student.network.clone(dtype=jnp.bfloat16))
    for name, each in (("float32.onnx", student), ("bfloat16.onnx", half)):
        deploy.export(each, tmp_path / name)
    assert (tmp_path / "float32.onnx").read_bytes() == (tmp_path / "bfloat16.onnx").read_bytes()


# What a good translation has: normalisation is inside the layers, and no axes are permuted but the
# images'.
START, END = {"Cast": 1, "Div": 2, "Sub": 1, "Transpose": 1}, {"ReduceMean": 1, "Gemm": 1}
FAMILIES = {
    "resnet8": {"Conv": 9, "Relu": 7, "Add": 3},
    "mobilenet_v2": {"Conv": 52, "Clip": 35, "Add": 10},
    "vgg8_bn": {"Conv": 5, "Relu": 5, "MaxPool": 3},
    "efficientnet_b0": {
        "Conv": 49,
        "Sigmoid": 65,
        "Mul": 65,
        "ReduceMean": 17,
        "Gemm": 33,
        "Reshape": 16,
        "Add": 9,
    },
    "configs/networks/forked.py:create": {},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name):
    shape = (20, 16, 3)
    network = models.create(name, 5, width=0.25)
    network = network.build(network.widths)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: leaf + rng.uniform(0, 0.3, leaf.shape).astype(np.float32),
        models.initialize(network, seed=0, image_shape=shape),
    )

    def logits(images):
        normal = (images.astype(jnp.float32) / 255 - jnp.array([0.5, 0.4, 0.3])) / 0.25
        return network.apply(variables, normal, train=False).logits

    file, images = written(logits, shape), draw(shape)
    expected = np.asarray(jax.jit(logits)(images))
    np.testing.assert_allclose(
        run(file, images), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
    )
    if FAMILIES[name]:
        assert operators(file) == START | END | FAMILIES[name]


def attention(x):
    tokens = x.reshape(x.shape[0], -1, 3)
    scores = jnp.einsum("bic,bjc->bij", tokens, tokens)
    return jnp.einsum("bij,bjc->bic", jax.nn.softmax(scores, -1), tokens).mean(1)


def squeeze_excite(x):
    return (x * jax.nn.sigmoid(x.mean((1, 2)))[:, None, None, :]).sum((1, 2))


def patches(x):
    batch = x.shape[0]
    return x.reshape(batch, 3, 2, 4, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(batch, 12, 12).max(1)


def shuffled(x):
    x = x[..., None, :] * jnp.array([[1.0], [2.0]])
    return x.swapaxes(3, 4).reshape(*x.shape[:3], 6).mean((1, 2))


def kernel(*shape):
    return jnp.asarray(np.random.default_rng(2).normal(size=shape), jnp.float32)


def conv(x, *kernel_shape, **settings):
    """A convolution whose map is summed with weights that differ from pixel to pixel."""
    settings = {"window_strides": (1, 1), "padding": "SAME"} | settings
    settings.setdefault("dimension_numbers", ("NHWC", "HWIO", "NHWC"))
    return weighted(jax.lax.conv_general_dilated(x, kernel(*kernel_shape), **settings))


def weighted(x):
    return jnp.tensordot(x, kernel(*x.shape[1:], 4), axes=3)


FUNCTIONS = {
    "stride 2, SAME": lambda x: conv(x, 3, 3, 3, 5, window_strides=(2, 2)),
    "dilated": lambda x: conv(x, 3, 3, 3, 5, rhs_dilation=(2, 1)),
    "depthwise": lambda x: conv(x, 3, 3, 1, 6, feature_group_count=3),
    "channels first": lambda x: conv(
        x.transpose(0, 3, 1, 2), 5, 3, 3, 2, dimension_numbers=("NCHW", "OIHW", "NCHW")
    ),
    "bias, then factor": lambda x: weighted((x @ kernel(3, 5) + 1.0) * 2.0),
    "dense on a map": lambda x: weighted(x @ kernel(3, 5)),
    "dense, transposed": lambda x: (
        jax.lax.dot_general(kernel(5, 3), x.mean((1, 2)), (((1,), (1,)), ((), ()))).T
    ),
    "factor and bias of a dense layer": lambda x: (
        (x.mean((1, 2)) @ kernel(3, 5) + kernel(5)) * kernel(5) + 2.0
    ),
    "maximum, SAME": lambda x: weighted(nn.max_pool(x, (3, 3), (2, 2), "SAME")),
    "maximum, dilated": lambda x: weighted(
        jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", None, (1, 2, 1, 1)
        )
    ),
    "maximum over rows": lambda x: weighted(nn.max_pool(x, (3, 1), (1, 1), "SAME")),
    "mean with padding": lambda x: weighted(nn.avg_pool(x, (3, 3), (2, 2), "SAME")),
    "mean without padding": lambda x: weighted(
        nn.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False)
    ),
    "sums": lambda x: weighted(
        jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1,) * 4, "VALID")
    ),
    "sum of whole numbers": lambda x: x.astype(jnp.int32).sum((1, 2)).astype(jnp.float32),
    "reductions": lambda x: jnp.concatenate([x.max((1, 2)), x.min((1, 2)), x.prod((1, 2))], -1),
    "concatenated": lambda x: weighted(jnp.concatenate([x, conv_map(x), jnp.square(x)], -1)),
    "stacked": lambda x: weighted(jnp.stack([x, conv_map(x)[..., :3]], 3)[:, :, :, :, 1]),
    "repeated for each image": lambda x: (
        weighted(
            jnp.concatenate(
                [x, jnp.zeros_like(x), jnp.broadcast_to(kernel(8, 2), (*x.shape[:3], 2))], 3
            )
        )
        + jnp.concatenate([jnp.ones((x.shape[0], 2)), jnp.zeros((x.shape[0], 2))], 1)
    ),
    "tiled": lambda x: weighted(jnp.tile(x, (1, 2, 1, 3))),
    "nothing done": lambda x: (
        weighted(jnp.roll(x, 0, 1) + x.sum(())) + nn.max_pool(x, (1, 1))[:, 0, 0, :1]
    ),
    "a number of all images": lambda x: weighted(jnp.where(x.max() > 0, x - x.max(), 0.0)),
    "unused": lambda x: (jnp.sort(x), x.mean((1, 2)))[1],
    "border wider than the window": lambda x: (
        weighted(nn.avg_pool(x, (2, 2), (1, 1), ((2, 2), (2, 2))))
        + weighted(jnp.maximum(nn.max_pool(x, (2, 2), (1, 1), ((2, 3), (2, 2))), -1.0))
    ),
    "booleans": lambda x: (
        weighted(jnp.where(jnp.where(x > 0.5, x < 0.8, x > 0.2) ^ jnp.isfinite(x), x, 1.0))
        + ((x > 0.99).any((1, 2)) & (x < 0.97).all((1, 2))).sum(-1, keepdims=True)
    ),
    "whole numbers": lambda x: (
        ((x * 9).astype(jnp.int32).mean((1, 2), dtype=jnp.int32) @ jnp.arange(12).reshape(3, 4))
        + x.argmax(2).sum(1)[:, :1]
    ).astype(jnp.float32),
    "rounded": lambda x: weighted(jnp.round(4 * x) + jnp.exp2(x) + jnp.log1p(x)),
    "padded": lambda x: weighted(jnp.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0)), constant_values=2.0)),
    "cut": lambda x: weighted(x[:, 1:5:2, ::3, 1:]),
    "split": lambda x: weighted(sum(jnp.split(conv_map(x), 2, axis=2))),
    "one place": lambda x: x[:, 2, 3] + x[..., -1, -2, :] + x[:, 1][:, 2],
    "every other place, channels first": lambda x: weighted(
        x.transpose(0, 3, 1, 2)[:, :, ::2, 1::2]
    ),
    "places": lambda x: weighted(conv_map(x)[:, :, :, np.array([2, 0, 0])][:, np.array([5, 5])]),
    "back to front": lambda x: weighted(x[:, ::-1, ::-2] + jax.lax.rev(x, (3,))[:, :, :4]),
    "rolled": lambda x: weighted(jnp.roll(x, 1, axis=2)),
    "squeezed": lambda x: weighted(x[:, :1].squeeze(1)[:, None]),
    "patches": patches,
    "channel shuffle": shuffled,
    "softmax attention": attention,
    "squeeze and excitation": squeeze_excite,
    "layer norm": lambda x: weighted(
        (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-3)
    ),
    "positions": lambda x: weighted(x + kernel(6, 8, 1)),
    "where": lambda x: weighted(jnp.where((x > 0.5) & (x <= 0.8) | ~(x != 0.2), x, -x)),
    "where, by position": lambda x: weighted(jnp.where(jnp.arange(8)[:, None] < 3, x, 0.0)),
    "maximum with constants": lambda x: weighted(jnp.maximum(x, 0.3) - jnp.maximum(0.0, x - 0.5)),
    "clipped": lambda x: weighted(jnp.clip(x, 0.2, 0.7) + jnp.minimum(nn.relu(x - 0.5), 0.2)),
    "clamped by an array": lambda x: weighted(jax.lax.clamp(0.1 * x, x * x, 0.9 * x)),
    "powers": lambda x: weighted(x**2 + x**3 + (x + 1) ** -1 + (x + 1) ** 0.5 + 2.0**x),
    "divided by itself": lambda x: weighted(2.0 / (x * 2.0 + 2.0) + (x * 3.0) / 2.0),
    "read twice": lambda x: weighted(conv_map(x) * 2.0 + conv_map(x)) + twice(conv_map(x)),
    "exact gelu": lambda x: weighted(nn.gelu(4 * x - 2, approximate=False)),
}

ACTIVATIONS = (
    nn.softplus,
    nn.log_sigmoid,
    nn.silu,
    nn.gelu,
    nn.hard_swish,
    nn.elu,
    nn.leaky_relu,
    nn.tanh,
    nn.sigmoid,
    nn.relu6,
    nn.hard_sigmoid,
)
FUNCTIONS |= {each.__name__: lambda x, f=each: weighted(f(4 * x - 2)) for each in ACTIVATIONS}


def conv_map(x):
    return jax.lax.conv_general_dilated(
        x, kernel(3, 3, 3, 4), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def twice(x):
    """The map is read with and without its factor."""
    return weighted(x * kernel(4) + jnp.abs(x))


class Flax(nn.Module):
    """A network of flax's own layers."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x))
            x = nn.relu(nn.GroupNorm(2)(x))
        return nn.Dense(3)(nn.BatchNorm(use_running_average=True)(nn.Dense(5)(x.mean((1, 2)))))


def test_flax_batch_normalisation_is_folded():
    shape, network = (6, 8, 3), Flax()
    variables = network.init(jax.random.key(0), np.zeros((1, *shape), np.float32))
    variables = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.arange(leaf.shape[-1]), variables)

    def logits(images):
        return network.apply(variables, images.astype(jnp.float32) / 255)

    file, images = written(logits, shape), draw(shape)
    np.testing.assert_allclose(run(file, images), logits(images), rtol=1e-4, atol=1e-5)
    layers = [node.op_type for node in onnx.load_from_string(file).graph.node]
    assert (layers.count("Conv"), layers.count("Gemm")) == (2, 2)
    assert layers[-2:] == ["Gemm", "Gemm"]
    assert not any(
        a == "Conv" and b in ("Add", "Mul", "Sub") for a, b in itertools.pairwise(layers)
    )


def test_equal_constants_are_stored_once():
    def logits(images):
        x = images.astype(jnp.float32)
        for _ in range(4):
            x = jnp.tanh(x @ kernel(3, 3))
        return x.mean((1, 2))

    constants = onnx.load_from_string(written(logits, (6, 8, 3))).graph.initializer
    assert [tuple(each.dims) for each in constants] == [(3, 3)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_of_own_networks(name):
    shape = (6, 8, 3)

    def logits(images):
        return FUNCTIONS[name](images.astype(jnp.float32) / 255)

    images = draw(shape)
    expected = np.asarray(logits(images))
    assert expected.std() > 0
    file = written(logits, shape)
    found = run(file, images)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.sort(x.mean((1, 2))), "the operation 'sort': there is no rule for it"),
        (
            lambda x: jax.lax.conv_transpose(x, kernel(2, 2, 3, 4), (2, 2), "SAME").mean((1, 2)),
            "'conv_general_dilated': it is a transposed convolution",
        ),
        (lambda x: x.mean((1, 2)) + x[:1].mean((1, 2)), "'gather': it cuts the batch"),
        (lambda x: x[:, np.arange(3), np.arange(3), 0], "'gather': it takes something else than"),
        (
            lambda x: jnp.take(x, np.array([0, 9]), 3)[:, 0, 0],
            "'gather': it takes numbers that are not there",
        ),
        (
            lambda x: x[:, 0, 0].astype(jnp.bfloat16).astype(jnp.float32),
            "'convert_element_type': its result is bfloat16",
        ),
        (
            lambda x: (x[:, 0, 0].astype(jnp.int32) | 4) * 1.0,
            "'or': it combines bits of whole numbers",
        ),
        (
            lambda x: x[:, 0, 0] - x.mean(0)[0, 0],
            "'dim_as_value': it computes with the size of the",
        ),
        (lambda x: jnp.roll(x, 1, 0)[:, 0, 0], "'slice': it cuts the batch"),
        (
            lambda x: (x[:, None, 0, 0] * x[None, :, 0, 0])[..., None].sum((1, 3)),
            "its result has several axes of the batch's size",
        ),
        (
            lambda x: x[:, 0, 0] + jax.random.normal(jax.random.key(0), (3,)),
            "'random_seed': its result is key<fry>",
        ),
        (lambda x: jnp.bitwise_count(x[:, 0, 0].astype(jnp.int32)) * 1.0, "population_count"),
        (lambda x: kernel(9, 2)[(8 * x[:, 0, 0, 0]).astype(jnp.int32)], "'gather': its first op"),
        (
            lambda x: nn.max_pool(x.astype(jnp.int32), (2, 2))[:, 0, 0] * 1.0,
            "'reduce_window_max': it pools int32",
        ),
        (
            lambda x: jnp.dot(
                *map(jnp.float16, (x[:, 0, 0], kernel(3, 2))), preferred_element_type=jnp.float32
            ),
            "an operator that does not take this: .*node name: Gemm",
        ),
        (lambda x: x.mean((1, 2, 3)), "logits of shape .* and dtype float32: expected "),
        (
            lambda x: jax.lax.while_loop(lambda y: y.sum() < 0, lambda y: y + 1, x[:, 0, 0]),
            "'while': there is no rule",
        ),
    ],
)
def test_operations_that_cannot_be_written_are_named(function, message):
    with pytest.raises(UnsupportedError, match=message):
        written(lambda images: function(images.astype(jnp.float32)), (6, 8, 3))


def test_an_own_network_that_cannot_be_written_says_what_can(trained, tmp_path):
    class Sorting(nn.Module):
        architecture = kdjax.load_student(trained[0]).network.architecture
        dtype: jnp.dtype = jnp.float32

        def __call__(self, images, train):
            return models.Outputs(jnp.sort(images.mean((1, 2))), ())

    student = dataclasses.replace(kdjax.load_student(trained[0]), network=Sorting(), variables={})
    with pytest.raises(ValueError, match=r"resnet8 cannot be written as ONNX, because of the op"):
        deploy.export(student, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
