"""The paper's network families: counts of every student, feature maps, adapters, width rules."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from kdjax import costs, models, widths

SCALES = (1.0, 0.8, 0.6, 0.4, 0.2)

# Students 1 to 5 as defined by the paper and its authors' code: parameters, and millions of
# multiply-accumulates for one image. Full networks have the counts that torchvision publishes. A
# dash means not compared, because tracing a network of this depth takes a second.
COUNTS = """
wrn_16_2: 100 classes, 32 pixels
  params 703,284  448,968  253,055  115,028  29,823
  MMACs   101.12    64.38    37.20    16.79    4.87
wrn_28_10: 10 classes, 32 pixels
  params 36,479,194  23,354,842  13,144,794  5,849,050  1,467,610
  MMACs     5243.33     3360.08     1894.17     845.60     214.35
wrn_40_1: 100 classes, 32 pixels
  params 569,780  359,076  203,032  88,471  22,359
  MMACs    83.29    50.92    29.33   13.06    3.76
wrn_40_2: 100 classes, 32 pixels
  params 2,255,156  1,433,176  801,015  359,076  88,471
  MMACs     327.61     206.34   117.05    50.92   13.06
densenet_bc_100_12: 100 classes, 32 pixels
  params 800,032  469,480  297,752  113,120  38,672
  MMACs   287.96   167.50   105.23    38.90   12.72
densenet_bc_190_40: 100 classes, 32 pixels
  params 25,821,620  -  -  -  -
  MMACs     9302.14  -  -  -  -
densenet_bc_250_24: 10 classes, 32 pixels
  params -  -  -  -  529,966
  MMACs   -  -  -  -   191.66
densenet121: 1000 classes, 224 pixels
  params 7,978,856  5,097,970  3,141,068  1,448,376  501,582
  MMACs     2834.2     1821.9     1141.8      566.3    259.4
resnet18: 1000 classes, 224 pixels
  params 11,689,512  7,603,501  4,438,212  2,133,581  711,064
  MMACs      1814.1     1375.5     1035.5      791.8    638.9
resnet34: 1000 classes, 224 pixels
  params 21,797,672  14,065,155  8,106,346  3,802,233  1,183,516
  MMACs      3663.8      2635.1     1843.2     1279.9      933.6
resnet50: 1000 classes, 224 pixels
  params 25,557,032  16,724,243  9,847,057  4,789,824  1,589,738
  MMACs      4089.2      2919.3     2012.3     1360.1      947.9
resnet101: 1000 classes, 224 pixels
  params 44,549,160  -  -  -  2,351,831
  MMACs      7801.4  -  -  -     1095.3
resnet152: 1000 classes, 224 pixels
  params 60,192,808  -  -  -  2,978,308
  MMACs     11513.6  -  -  -     1241.3
resnext101_32x8d: 1000 classes, 224 pixels
  params 88,791,336  -  -  -  4,114,976
  MMACs     16414.0  -  -  -     2055.3
resnext50_32x4d: 1000 classes, 224 pixels
  params 25,028,904  15,903,256  9,404,496  4,508,688  1,500,104
  MMACs      4230.5      2905.2     1965.8     1344.7      906.1
wide_resnet101_2: 1000 classes, 224 pixels
  params 126,886,696  -  -  -  6,028,220
  MMACs      22753.1  -  -  -     2960.1
wide_resnet50_2: 1000 classes, 224 pixels
  params 68,883,240  44,480,548  25,654,980  12,031,368  3,715,064
  MMACs     11398.0      8059.6      5484.3      3647.2     2509.4
efficientnet_b0: 1000 classes, 224 pixels
  params 5,288,548  3,592,298  2,206,220  1,266,750  472,672
  MMACs      385.8      280.3      174.2      102.0     47.5
efficientnet_b1: 1000 classes, 240 pixels
  params 7,794,184  -  -  -  593,434
  MMACs      686.8  -  -  -     71.7
efficientnet_b2: 1000 classes, 260 pixels
  params 9,109,994  6,144,754  3,762,426  1,953,790  640,204
  MMACs      993.6      690.5      422.9      224.0     88.5
efficientnet_b3: 1000 classes, 300 pixels
  params 12,233,232  -  -  -  -
  MMACs      1827.1  -  -  -  -
efficientnet_b4: 1000 classes, 380 pixels
  params 19,341,616  -  -  -  1,219,530
  MMACs      4393.8  -  -  -      344.3
efficientnet_b5: 1000 classes, 456 pixels
  params 30,389,784  -  -  -  1,814,396
  MMACs     10266.4  -  -  -      691.4
efficientnet_b6: 1000 classes, 528 pixels
  params 43,040,704  -  -  -  -
  MMACs     19067.6  -  -  -  -
efficientnet_b7: 1000 classes, 600 pixels
  params 66,347,960  -  -  -  3,525,988
  MMACs     37745.9  -  -  -     2501.2
"""

# At full width: pixels x channels of each block's map, and the number of adapter parameters.
FEATURES = {
    "wrn_16_2": ("32x32 16x64 8x128", None),
    "densenet_bc_100_12": ("16x108 8x150 8x342", 288_672),
    "densenet121": ("28x128 14x256 7x512 7x1024", 2_745_600),
    "resnet18": ("28x128 14x256 7x512", 689_920),
    "resnet34": ("28x128 14x256 7x512", 689_920),
    "resnet50": ("28x512 14x1024 7x2048", 10_995_712),
    "resnext50_32x4d": ("28x512 14x1024 7x2048", 10_995_712),
    "wide_resnet50_2": ("28x512 14x1024 7x2048", 10_995_712),
    "efficientnet_b0": ("28x40 14x112 7x320", 234_976),
    "efficientnet_b2": ("33x48 17x120 9x352", 282_528),
}
THINNEST = {"densenet_bc_100_12": "16x28 8x30 8x62", "efficientnet_b0": "28x8 14x24 7x64"}


def rows():
    pattern = r"(\w+): (\d+) classes, (\d+) pixels\n  params (.*)\n  MMACs  (.*)\n"
    for name, classes, size, params, macs in re.findall(pattern, COUNTS):
        yield pytest.param(
            name, int(classes), int(size), params.split(), macs.split(), id=f"{name}-{classes}"
        )


@pytest.fixture
def undrawn(monkeypatch):
    """Makes kernels zero, because tracing their random initialisation takes most of the time."""
    monkeypatch.setattr(nn.initializers, "he_normal", lambda: nn.initializers.zeros)


def macs_of(jaxpr):
    """Returns the multiply-accumulates of all convolutions and matrix products in a jaxpr."""
    total = 0
    for equation in jaxpr.eqns:
        kind = equation.primitive.name
        operands = [variable.aval.shape for variable in equation.invars]
        outputs = math.prod(equation.outvars[0].aval.shape)
        if kind == "conv_general_dilated":
            layout = equation.params["dimension_numbers"].rhs_spec
            total += outputs * math.prod(operands[1][axis] for axis in layout[1:])
        elif kind == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += outputs * math.prod(operands[0][axis] for axis in contracted)
        for value in equation.params.values():
            for part in value if isinstance(value, tuple) else (value,):
                inner = getattr(part, "jaxpr", part)
                total += macs_of(inner) if hasattr(inner, "eqns") else 0
    return total


def traced(net, size):
    """Returns parameters, multiply-accumulates and map shapes ``[1, height, width, channels]``."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    trace = jax.make_jaxpr(net.init_with_output, return_shape=True)
    jaxpr, (outputs, variables) = trace(jax.random.key(0), images)
    params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return params, macs_of(jaxpr.jaxpr), [feature.shape for feature in outputs.features]


def sides(maps):
    assert all(height == width for _, height, width, _ in maps)
    return " ".join(f"{height}x{channels}" for _, height, _, channels in maps)


def test_the_counter_of_multiply_accumulates():
    def layers(x, kernel, grouped, dense):
        x = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.lax.conv_general_dilated(
            x,
            grouped,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=6,
        )
        return jax.jit(jnp.dot)(x.mean((1, 2)), dense)

    shapes = [(1, 8, 8, 3), (3, 3, 3, 6), (5, 5, 1, 6), (6, 10)]
    jaxpr = jax.make_jaxpr(layers)(*(jnp.zeros(shape) for shape in shapes))
    assert macs_of(jaxpr.jaxpr) == 16 * 27 * 6 + 16 * 25 * 6 + 60


@pytest.mark.parametrize(("name", "classes", "size", "params", "macs"), list(rows()))
def test_counts_of_all_students(undrawn, name, classes, size, params, macs):
    architecture = models.create(name, num_classes=classes)
    maps = []
    for vector, expected, millions in zip(
        models.student_vectors(architecture, SCALES), params, macs, strict=False
    ):
        if expected == "-":
            continue
        found, multiplies, features = traced(architecture.build(vector), size)
        assert f"{found:,}" == expected
        digits = len(millions.split(".")[1])
        assert f"{multiplies / 1e6:.{digits}f}" == millions
        assert len(features) == len(architecture.blocks)
        maps.append(features)
    if name in FEATURES:
        pivot, adapters = FEATURES[name]
        assert sides(maps[0]) == pivot
        assert sides(maps[-1]) == THINNEST.get(name, sides(maps[-1]))
        channels = [[feature[-1] for feature in features] for features in maps]
        weights = sum(
            (own + 1) * full
            for thin in channels[1:]
            for own, full in zip(thin, channels[0], strict=True)
        )
        assert adapters in (None, weights)


@pytest.mark.parametrize(
    "name", ["wrn_16_2", "densenet_bc_100_12", "resnet18", "resnext50_32x4d", "efficientnet_b0"]
)
def test_costs_are_these_counts(undrawn, name):
    ((_, classes, size, params, macs),) = (row.values for row in rows() if row.values[0] == name)
    architecture = models.create(name, num_classes=classes)
    cost = costs.count(architecture, architecture.student(0.2), (size, size, 3))
    assert f"{cost.params:,}" == params[4]
    digits = len(macs[4].split(".")[1])
    assert f"{cost.macs / 1e6:.{digits}f}" == macs[4]


def test_every_network_of_the_paper_is_there():
    compared = {row.values[0] for row in rows()}
    bases = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
    bases += ("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2")
    bases += ("densenet_bc_100_12", "densenet_bc_190_40", "densenet_bc_250_24", "densenet121")
    bases += ("wrn_16_2", "wrn_40_1", "wrn_40_2", "wrn_28_10")
    assert compared == {*bases, *(f"efficientnet_b{number}" for number in range(8))}
    assert compared <= set(models.names())


@pytest.mark.parametrize(
    ("name", "groups", "expected"),
    [
        ("resnext50_32x4d", "stage2.block4.conv2", (256, 192, 128, 96, 32)),
        ("resnext50_32x4d", "stage4.block1.conv1", (1024, 800, 608, 384, 192)),
        ("resnext101_32x8d", "stage3.block23.conv1", (1024, 800, 608, 384, 192)),
        ("resnext50_32x4d", "stage2", (512, 408, 304, 204, 100)),
        ("resnet50", "stage3.block6.conv2", (256, 204, 153, 102, 51)),
        ("wide_resnet50_2", "stage2.block1.conv1", (256, 204, 152, 102, 50)),
        ("resnet50", "stage1.block1.conv1", (64, 64, 64, 64, 64)),
        ("resnet18", "stage4", (512, 409, 307, 204, 102)),
        ("densenet_bc_100_12", "block2.layer16.growth", (12, 9, 7, 4, 2)),
        ("densenet121", "block4.layer1.bottleneck", (128, 100, 76, 48, 24)),
        ("densenet121", "transition1", (128, 107, 89, 68, 50)),
        ("efficientnet_b4", "stage3", (56, 48, 32, 24, 16)),
        ("efficientnet_b2", "head", (1408, 1128, 848, 560, 280)),
        ("efficientnet_b0", "stage2.block1.expand", (96, 96, 96, 48, 48)),
        ("efficientnet_b0", "stage6.block2.squeeze", (48, 38, 28, 20, 10)),
        ("wrn_40_2", "stage2.block6.conv1", (64, 51, 38, 25, 12)),
    ],
)
def test_widths_of_students(name, groups, expected):
    architecture = models.create(name, num_classes=10)
    vectors = models.student_vectors(architecture, SCALES)
    assert tuple(vector[groups] for vector in vectors) == expected


@pytest.mark.parametrize("width", [0.05, 0.3, 1.0, 1.7])
def test_students_of_networks_of_any_width_form_an_ensemble(width):
    for name in models.names():
        architecture = models.create(name, num_classes=10, width=width)
        vectors = models.student_vectors(architecture, SCALES)
        assert vectors[0] == architecture.widths, name
        checked = widths.check_students(vectors, vectors[0], shared=architecture.shared)
        assert all(architecture.check(vector) for vector in checked)
        assert "stem" in architecture.widths or name.startswith("vgg")


def test_network_width_multiplies_by_the_familys_rule():
    def full(name, *groups):
        vector = models.create(name, num_classes=10, width=0.5).widths
        return [vector[group] for group in groups]

    assert full("densenet_bc_100_12", "stem", "block1.layer1.growth", "transition1") == [12, 6, 54]
    assert full("efficientnet_b0", "stem", "stage3", "stage5", "head") == [16, 24, 56, 640]
    inner = ("stage1.block1.conv1", "stage4.block1.conv2")
    assert full("resnext50_32x4d", "stem", "stage1", *inner) == [32, 128, 64, 512]
    assert full("wrn_28_10", "stem", "stage1", "stage3.block1.conv1") == [8, 80, 320]


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["efficientnet_b0", "densenet121", "resnext50_32x4d", "wrn_16_2"])
def test_a_width_factor_is_a_finite_number_above_0(name, factor):
    with pytest.raises(ValueError, match=r"the width factor is .*: it must be a finite number"):
        models.create(name, num_classes=10, width=factor)
    with pytest.raises(ValueError, match=r"the width factor is .*: it must be a finite number"):
        models.student_vectors(models.create(name, num_classes=10), (factor,))


def test_a_resnext_keeps_its_cardinality():
    architecture = models.create("resnext50_32x4d", num_classes=10)
    wrong = {**architecture.widths, "stage3.block2.conv1": 500}
    message = (
        r"\['stage3.block2.conv1'\] is 500: resnext50_32x4d has 32 groups inside a block, so it "
        "must be a multiple of 32"
    )
    with pytest.raises(ValueError, match="widths" + message):
        architecture.build(wrong)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    for several in (models.StudentEnsemble, models.IndependentNetworks):
        net = several(architecture, (architecture.widths, wrong))
        with pytest.raises(ValueError, match=r"student_widths\[1\]" + message):
            jax.eval_shape(net.init, jax.random.key(0), images)
    # The two inner convolutions of a block have separate widths, and only these must be multiples
    # of 32.
    free = {**architecture.widths, "stage3.block2.conv1": 480, "stage3": 1000}
    assert architecture.check(free) == free


def test_shared_groups_are_those_of_the_stem():
    resnet = models.create("resnet50", num_classes=10)
    convolutions = [f"stage1.block{n}.conv{c}" for n in (1, 2, 3) for c in (1, 2)]
    assert resnet.shared == ("stem", "stage1", *convolutions)
    for name in ("densenet121", "efficientnet_b0", "wrn_16_2"):
        assert models.create(name, num_classes=10).shared == ("stem",)
