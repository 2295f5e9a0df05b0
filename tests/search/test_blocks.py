"""Blocks: which groups belong to which, and the errors in what a user says of them."""

import re
import types

import pytest

from kdjax import models
from kdjax.search import Channels, partition

SHAPE = (8, 8, 3)
NETWORK = models.create("resnet8", 4, width=0.5)
CHANNELS = Channels.of(NETWORK, NETWORK.widths, SHAPE)


def blocks_of(**arguments):
    return partition(NETWORK, CHANNELS, **arguments)


def groups(blocks):
    return {block.name: block.groups for block in blocks}


def test_a_network_without_blocks_needs_names():
    bare = types.SimpleNamespace(name="bare", blocks=())
    with pytest.raises(ValueError, match=r"search.blocks.names is \(\): bare has no blocks of its"):
        partition(bare, CHANNELS)
    (block,) = partition(bare, CHANNELS, names=("all",), patterns=("*",))
    assert len(block.groups) == len(CHANNELS.groups)


def test_blocks_by_position():
    assert groups(blocks_of()) == {
        "stage1": ("stem", "stage1.block1.conv1"),
        "stage2": ("stage2.block1.conv1", "stage2"),
        "stage3": ("stage3.block1.conv1", "stage3"),
    }
    block = blocks_of()[0]
    assert (block.strength, block.resource, block.target, block.frozen) == (1, "targets", 0, False)


def test_groups_before_the_first_block_and_after_the_last():
    architecture = models.create("mobilenet_v2", 4, width=0.1)
    channels = Channels.of(architecture, architecture.widths, SHAPE)
    blocks = partition(architecture, channels)
    assert [block.name for block in blocks] == [f"stage{number}" for number in range(1, 8)]
    assert blocks[0].groups == ("stem", "stage1")
    assert blocks[-1].groups == ("stage7.block1.expand", "stage7", "head")
    assert blocks[1].groups == ("stage2.block1.expand", "stage2", "stage2.block2.expand")


def test_blocks_by_patterns():
    blocks = blocks_of(
        names=("inner", "trunk"),
        patterns=("*.conv1", "stage1 stage? "),
        strengths=(2.0, 0.5),
        resources=("params", "both"),
        targets=(0.0, 0.25),
        frozen=("inner",),
    )
    # The stem belongs to the block of stage1, to which it is tied.
    assert groups(blocks) == {
        "inner": ("stage1.block1.conv1", "stage2.block1.conv1", "stage3.block1.conv1"),
        "trunk": ("stem", "stage2", "stage3"),
    }
    assert [(b.strength, b.resource, b.target, b.frozen) for b in blocks] == [
        (2.0, "params", 0.0, True),
        (0.5, "both", 0.25, False),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"strengths": (1.0, 2.0)},
            "search.blocks.strengths has 2 entries: expected one for each of the 3 blocks, "
            "stage1, stage2, stage3",
        ),
        ({"resources": ("both",)}, "search.blocks.resources has 1 entries"),
        ({"targets": (0.5,) * 4}, "search.blocks.targets has 4 entries"),
        ({"names": ("a",), "patterns": ("*", "*")}, "search.blocks.groups has 2 entries"),
        (
            {"frozen": ("stage4",)},
            "search.blocks.frozen names 'stage4' (did you mean 'stage3'?): the blocks are stage1, "
            "stage2, stage3",
        ),
        ({"frozen": ("x",)}, "search.blocks.frozen names 'x': the blocks are"),
        (
            {"names": ("a",), "patterns": ("* stage9*",)},
            "search.blocks.groups for 'a' has 'stage9*', which matches no group: the groups are "
            "stem, stage1, stage1.block1.conv1",
        ),
        (
            {"names": ("a", "b"), "patterns": ("stage*", "stem")},
            "search.blocks.groups puts 'stem' (tied: stem, stage1) in 'a' and in 'b': a group "
            "belongs to one block",
        ),
        (
            {"names": ("a", "b"), "patterns": ("stage*", "stage2")},
            "search.blocks.groups puts 'stage2' in 'a' and in 'b'",
        ),
        (
            {"names": ("a",), "patterns": ("stem *.conv1",)},
            "search.blocks.groups leaves out stage2, stage3: add them to a block",
        ),
        *(
            (
                {"names": ("stage1", "stage2", "later"), field: values},
                f"search.blocks.{field} is set for 'later', which has no groups to thin",
            )
            for field, values in (
                ("frozen", ("later",)),
                ("strengths", (1.0, 1.0, 2.0)),
                ("resources", ("targets", "targets", "params")),
            )
        ),
    ],
)
def test_bad_blocks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        blocks_of(**arguments)
