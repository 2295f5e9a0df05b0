"""Costs, compared with the paper's table, the parameter tree and the traced computation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import costs, models, widths

SCALES = (1.0, 0.8, 0.6, 0.4, 0.2)


def student(architecture, number):
    return widths.scale(architecture.widths, SCALES[number - 1], keep=("stem",))


@functools.cache
def count(name, classes, number, image_shape=(32, 32, 3)):
    architecture = models.create(name, num_classes=classes)
    return costs.count(architecture, student(architecture, number), image_shape)


def traced_macs(net, image_shape):
    """Returns the multiply-accumulates of convolutions and products in the jaxpr, for one image."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), images)
    return _macs(jax.make_jaxpr(lambda v, x: net.apply(v, x, train=False))(variables, images))


def _macs(jaxpr):
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        outputs = np.prod(equation.outvars[0].aval.shape, dtype=int)
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out_axis = equation.params["dimension_numbers"].rhs_spec[0]
            # The kernel's input axis has the channels of only one group.
            total += outputs * np.prod(kernel, dtype=int) // kernel[out_axis]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += outputs * np.prod([shape[axis] for axis in contracted], dtype=int)
        for value in equation.params.values():
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                total += _macs(value)
    return int(total)


def test_a_shape_from_json_is_a_list():
    architecture = models.create("resnet8", 10)
    expected = costs.count(architecture, architecture.widths, (8, 8, 1))
    assert costs.count(architecture, architecture.widths, [8, 8, 1]) == expected


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("resnet20", 10, (272_474, 171_536, 97_018, 42_231, 10_773)),
        ("resnet20", 100, (278_324, 176_216, 100_528, 44_571, 11_943)),
        ("resnet110", 100, (1_736_564, 1_091_396, 613_708, 264_501, 64_233)),
    ],
)
def test_student_parameters_to_the_unit(name, classes, expected):
    assert tuple(count(name, classes, number).params for number in range(1, 6)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20", (100.0, 62.95, 35.61, 15.50, 3.95)),
        ("resnet32", (100.0, 62.87, 35.43, 15.33, 3.80)),
        ("resnet44", (100.0, 62.84, 35.36, 15.25, 3.74)),
        ("resnet110", (100.0, 62.79, 35.26, 15.15, 3.64)),
    ],
)
def test_size_ratios_of_the_paper(name, expected):
    # The paper's ratios are for 10 classes. The test above has counts for 100 classes, and
    # test_the_number_of_classes... tests their difference.
    channels = [student(models.create(name, 10), number)["stage3"] for number in range(1, 6)]
    params = [
        count(name, 100, number).params - 90 * (final + 1)
        for number, final in enumerate(channels, start=1)
    ]
    assert tuple(round(100 * value / params[0], 2) for value in params) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20", (40.8, 25.3, 14.9, 6.9, 2.3)),
        ("resnet110", (253.2, 153.3, 87.2, 37.6, 9.7)),
    ],
)
def test_multiply_accumulates_in_millions(name, expected):
    macs = [count(name, 100, number).macs for number in range(1, 6)]
    assert tuple(round(value / 1e6, 1) for value in macs) == expected


@pytest.mark.parametrize(("depth", "classes"), [(20, 10), (20, 100), (44, 100)])
def test_parameters_are_those_of_the_tree(depth, classes):
    architecture = models.create(f"resnet{depth}", num_classes=classes)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    for number in range(1, 6):
        net = architecture.build(student(architecture, number))
        params = jax.eval_shape(net.init, jax.random.key(0), images)["params"]
        total = sum(leaf.size for leaf in jax.tree.leaves(params))
        assert count(architecture.name, classes, number).params == total


@pytest.mark.parametrize("depth", [8, 20])
def test_the_number_of_classes_changes_the_classifier_alone(depth):
    for number in (1, 2, 5):
        few, many = (count(f"resnet{depth}", classes, number) for classes in (10, 100))
        channels = student(models.create(f"resnet{depth}", 10), number)["stage3"]
        # Each of 90 more classes has a weight per channel and a bias.
        assert many.params - few.params == 90 * (channels + 1)
        assert many.macs - few.macs == 90 * channels
        assert many.activations - few.activations == 90


@pytest.mark.parametrize(
    ("name", "number", "image_shape"),
    [
        *(("resnet20", number, (32, 32, 3)) for number in range(1, 6)),
        *((f"resnet{depth}", 5, (32, 32, 3)) for depth in (32, 56)),
        ("resnet8", 2, (8, 8, 1)),
        ("resnet20", 3, (64, 64, 3)),
        ("resnet8", 3, (9, 13, 3)),  # Odd sizes, which stride 2 does not halve.
    ],
)
def test_multiply_accumulates_equal_those_of_the_traced_network(name, number, image_shape):
    architecture = models.create(name, num_classes=10)
    vector = student(architecture, number)
    cost = costs.count(architecture, vector, image_shape)
    assert cost.macs == traced_macs(architecture.build(vector), image_shape)
    assert cost.flops == 2 * cost.macs


def test_a_small_network_by_hand():
    architecture = models.create("resnet8", num_classes=2)
    vector = {
        "stem": 2,
        "stage1": 3,
        "stage1.block1.conv1": 1,
        "stage2": 2,
        "stage2.block1.conv1": 1,
        "stage3": 1,
        "stage3.block1.conv1": 2,
    }
    # (weights, normalisation or bias, output pixels, output channels) for an 8 x 8 x 1 input.
    layers = [
        (9 * 1 * 2, 2 * 2, 8 * 8, 2),  # stem
        (9 * 2 * 1, 2 * 1, 8 * 8, 1),  # stage 1: 3x3, 3x3, projection
        (9 * 1 * 3, 2 * 3, 8 * 8, 3),
        (1 * 2 * 3, 2 * 3, 8 * 8, 3),
        (9 * 3 * 1, 2 * 1, 4 * 4, 1),  # stage 2, stride 2
        (9 * 1 * 2, 2 * 2, 4 * 4, 2),
        (1 * 3 * 2, 2 * 2, 4 * 4, 2),
        (9 * 2 * 2, 2 * 2, 2 * 2, 2),  # stage 3, stride 2
        (9 * 2 * 1, 2 * 1, 2 * 2, 1),
        (1 * 2 * 1, 2 * 1, 2 * 2, 1),
        (1 * 2, 2, 1, 2),  # classifier, with bias
    ]
    cost = costs.count(architecture, vector, (8, 8, 1))
    assert cost.params == sum(weights + extra for weights, extra, _, _ in layers) == 216
    assert cost.macs == sum(weights * pixels for weights, _, pixels, _ in layers) == 5458
    assert cost.activations == sum(pixels * out for _, _, pixels, out in layers) == 674
    assert cost.flops == 10916


def test_multiply_accumulates_grow_with_the_pixels():
    # There are four times as many pixels everywhere except in the classifier (64 x 10).
    small, large = (count("resnet20", 10, 1, (size, size, 3)) for size in (32, 64))
    assert large.macs - 640 == 4 * (small.macs - 640)
    assert large.activations - 10 == 4 * (small.activations - 10)
    assert large.params == small.params


def test_input_channels_count_in_the_stem_alone():
    # 3x3 kernels to 16 channels read one channel instead of three: 2 * 9 * 16 weights fewer.
    grey, colour = (count("resnet20", 10, 1, (32, 32, channels)) for channels in (1, 3))
    assert colour.params - grey.params == 288
    assert colour.macs - grey.macs == 288 * 32 * 32


def test_widths_that_do_not_fit_are_refused():
    architecture = models.create("resnet8", num_classes=10)
    with pytest.raises(ValueError, match="stage3"):
        costs.count(architecture, {**architecture.widths, "stage3": 0})
