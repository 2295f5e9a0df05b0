"""Runs branches of CIFAR ResNets by a strategy: packed, scanned, with padded channels.

Parameters are those of :class:`kdjax.models.resnet.Branch`; only how they are used differs.
"""

import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models.activations import stored_relu
from kdjax.models.architecture import Outputs
from kdjax.models.convolution import convolve
from kdjax.models.execution import Branches, Execution, Mode, of_all
from kdjax.models.normalization import Normalization, normalize
from kdjax.models.packing import Packing, pack_kernels, pack_normalizations

if TYPE_CHECKING:
    from kdjax.models.resnet import BlockPlan

Stats = dict[str, Any]


class _ConvNorm(NamedTuple):
    """A packed convolution and its normalisation; a pytree that can be stacked and scanned."""

    kernel: chex.Array
    norm: Normalization


class _Block(NamedTuple):
    """The shape of one packed block; blocks of equal shape can share a loop.

    Attributes:
      stage: name of the feature map it belongs to.
      stride: the stride of its first convolution and its projections.
      source, inner, target: packings of the maps that it reads, has inside and returns.
      shared: whether all students read the same map.
      projecting: places of the students whose shortcut is a projection.
    """

    stage: str
    stride: int
    source: Packing
    inner: Packing
    target: Packing
    shared: bool
    projecting: tuple[int, ...]


def run_branches(
    plans: "Sequence[Sequence[BlockPlan]]",
    variables: Sequence[Mapping[str, Any]],
    inputs: chex.Array | Sequence[chex.Array],
    mode: Mode,
    execution: Execution,
) -> Branches:
    """Runs the branches of all students.

    Args:
      plans: each student's blocks.
      variables: each student's ``{"params": ..., "batch_stats": ...}``.
      inputs: the stem's map ``[batch, height, width, channels]``, or one for each student.
      mode: training or evaluation, and how to compute.
      execution: the strategy.
    """
    runs: dict[tuple[int, ...], Branches] = {}
    for group in execution.groups(len(plans)):
        shared = not isinstance(inputs, (list, tuple))
        runs[group] = _run_group(
            [plans[place] for place in group],
            [variables[place] for place in group],
            inputs if shared else [inputs[place] for place in group],
            mode,
            execution,
        )
    return of_all(runs)


def _run_group(plans, variables, inputs, mode: Mode, execution: Execution):
    blocks = _blocks(plans, not isinstance(inputs, list), execution.lanes)
    x = blocks[0].source.join(inputs if isinstance(inputs, list) else [inputs])
    stats: list[Stats] = [{} for _ in plans]
    packings: dict[str, Packing] = {}
    joint: dict[str, chex.Array] = {}
    # Consecutive blocks of one shape are run together, in a loop or one by one.
    members = zip(blocks, plans[0], strict=True)
    for block, run in itertools.groupby(members, key=operator.itemgetter(0)):
        names = [plan.name for _, plan in run]
        x, updates = _run_blocks(x, variables, names, block, mode, execution)
        for own, update in zip(stats, updates, strict=True):
            own.update(update)
        packings[block.stage], joint[block.stage] = block.target, x
    pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    classify = _classify_at_once if execution.pack == "all" else _classify
    logits = classify(variables, pooled, blocks[-1].target, mode.dtype)
    maps = zip(*(packings[stage].split(x) for stage, x in joint.items()), strict=True)
    outputs = [Outputs(own_logits, own) for own_logits, own in zip(logits, maps, strict=True)]
    return Branches(outputs, stats, tuple(joint.values()))


def _run_blocks(x, variables, names: Sequence[str], block: _Block, mode: Mode, execution):
    """Runs blocks of one shape; returns the map and each student's running statistics."""

    def step(x: chex.Array, layers: Mapping[str, _ConvNorm]):
        return _block(x, layers, block, mode)

    if execution.remat:
        step = jax.checkpoint(step)
    if execution.scan and len(names) > 1:
        x, updates = jax.lax.scan(step, x, _pack(_stacked(variables, names), block))
        return x, [_unstacked(stats, names) for stats in _unpack(updates, block)]
    collected: list[Stats] = [{} for _ in variables]
    for name in names:
        x, update = step(x, _pack([_tree_of(tree, name) for tree in variables], block))
        for own, stats in zip(collected, _unpack(update, block), strict=True):
            own[name] = stats
    return x, collected


def _blocks(plans: "Sequence[Sequence[BlockPlan]]", shared: bool, lanes: int) -> list[_Block]:
    """The packed blocks, in order."""
    blocks: list[_Block] = []
    for members in zip(*plans, strict=True):
        if blocks:
            source, shared = blocks[-1].target, False
        elif shared:
            source = Packing((members[0].in_channels,), members[0].in_channels)
        else:
            source = Packing.of([plan.in_channels for plan in members], lanes)
        blocks.append(
            _Block(
                members[0].stage,
                members[0].stride,
                source,
                Packing.of([plan.inner for plan in members], lanes),
                Packing.of([plan.channels for plan in members], lanes),
                # If only one student reads the map, the map is not shared.
                shared and len(members) > 1,
                tuple(place for place, plan in enumerate(members) if plan.project),
            )
        )
    return blocks


def _tree_of(variables: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The variables of one block."""
    return {collection: tree[name] for collection, tree in variables.items()}


def _stacked(variables: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Each student's variables of the named blocks, stacked on a leading axis."""

    def stack(*leaves: chex.Array) -> chex.Array:
        # Flatten first: variables that lie side by side (kdjax.train.program.layout) are then
        # neighbouring slices, which XLA merges into one, also in the gradient.
        return jnp.concatenate([leaf.reshape(-1) for leaf in leaves]).reshape(-1, *leaves[0].shape)

    return [jax.tree.map(stack, *(_tree_of(tree, name) for name in names)) for tree in variables]


def _unstacked(tree: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Name of the block -> its part of a stacked tree."""

    count = len(names)

    def cut(leaf: chex.Array) -> list[chex.Array]:
        # Without this barrier XLA takes rows of the stack instead, which it does not merge again.
        flat = jax.lax.optimization_barrier(leaf.reshape(-1))
        parts = jax.lax.split(flat, [leaf.size // count] * count)
        return [jax.lax.reshape(part, leaf.shape[1:]) for part in parts]

    leaves, structure = jax.tree.flatten(tree)
    rows = zip(*(cut(leaf) for leaf in leaves), strict=True)
    return {name: jax.tree.unflatten(structure, row) for name, row in zip(names, rows, strict=True)}


def _pack(trees: Sequence[Mapping[str, Any]], block: _Block) -> dict[str, _ConvNorm]:
    """The packed layers of a block from each student's variables of it."""
    layers = {
        "conv1": (block.source, block.inner),
        "conv2": (block.inner, block.target),
    }
    if block.projecting:
        layers["projection"] = (block.source, block.target)
    packed = {}
    for name, (source, target) in layers.items():
        own = [
            _conv_norm_of(tree, name)
            if name != "projection" or place in block.projecting
            else _zero_projection(source.widths[0 if block.shared else place], target.widths[place])
            for place, tree in enumerate(trees)
        ]
        packed[name] = _ConvNorm(
            pack_kernels([layer.kernel for layer in own], source, target),
            pack_normalizations([layer.norm for layer in own], target),
        )
    return packed


def _conv_norm_of(tree: Mapping[str, Any], name: str) -> _ConvNorm:
    layer = tree["params"][name]
    norm = Normalization(**layer["norm"], **tree["batch_stats"][name]["norm"])
    return _ConvNorm(layer["conv"]["kernel"], norm)


def _zero_projection(inputs: int, outputs: int) -> _ConvNorm:
    """A projection that returns 0."""
    zeros = jnp.zeros(outputs, jnp.float32)
    kernel = jnp.zeros((1, 1, inputs, outputs), jnp.float32)
    return _ConvNorm(kernel, Normalization(zeros, zeros, zeros, zeros))


def _unpack(updates: Mapping[str, Any], block: _Block) -> list[Stats]:
    """Each student's running statistics from those of the packed layers of a block."""
    packings = {"conv1": block.inner, "conv2": block.target, "projection": block.target}
    stats: list[Stats] = [{} for _ in block.target.widths]
    for name, (mean, var) in updates.items():
        split = zip(packings[name].split(mean), packings[name].split(var), strict=True)
        for place, (own_mean, own_var) in enumerate(split):
            if name != "projection" or place in block.projecting:
                stats[place][name] = {"norm": {"mean": own_mean, "var": own_var}}
    return stats


def _block(x: chex.Array, layers: Mapping[str, _ConvNorm], block: _Block, mode: Mode):
    """Two convolutions and a shortcut; returns the map and the running statistics by layer."""
    stats = {}
    y, stats["conv1"] = _conv_norm(x, layers["conv1"], block.stride, mode)
    y, stats["conv2"] = _conv_norm(nn.relu(y), layers["conv2"], 1, mode)
    shortcut = _identity(x, block)
    if block.projecting:
        projected, stats["projection"] = _conv_norm(x, layers["projection"], block.stride, mode)
        shortcut = projected if shortcut is None else projected + shortcut
    return stored_relu(shortcut + y), stats


def _identity(x: chex.Array, block: _Block) -> chex.Array | None:
    """The input of the students without a projection, each at its place; None if all project.

    The places of the other students hold 0. In the map of the projections, the places of the
    students without a projection hold 0. So the two maps can be added, and neither the maps nor
    their gradients are cut into parts.
    """
    if block.source == block.target and not block.projecting:
        return x
    own = [x] * len(block.target.widths) if block.shared else block.source.split(x)
    placed = [
        block.target.place(part, place)
        for place, part in enumerate(own)
        if place not in block.projecting
    ]
    return sum(placed[1:], placed[0]) if placed else None


def _conv_norm(x: chex.Array, layer: _ConvNorm, stride: int, mode: Mode):
    y = convolve(x, layer.kernel.astype(mode.dtype), stride)
    return normalize(
        y, layer.norm, mode.train, mode.mask, axis_name=mode.axis_name, dtype=mode.dtype
    )


def _classify(variables, pooled: chex.Array, source: Packing, dtype: Any) -> list[chex.Array]:
    """Each student's logits ``[batch, classes]`` float32, by a separate product."""
    return [
        _dense(values, tree["params"]["classifier"], dtype)
        for tree, values in zip(variables, source.split(pooled), strict=True)
    ]


def _classify_at_once(
    variables, pooled: chex.Array, source: Packing, dtype: Any
) -> list[chex.Array]:
    """Does the same as :func:`_classify`, by one product with a block-diagonal kernel."""
    layers = [tree["params"]["classifier"] for tree in variables]
    target = Packing.of([layer["bias"].size for layer in layers], lanes=1)
    kernel = pack_kernels([layer["kernel"] for layer in layers], source, target)
    joint = {"kernel": kernel, "bias": target.join([layer["bias"] for layer in layers])}
    return target.split(_dense(pooled, joint, dtype))


def _dense(x: chex.Array, layer: Mapping[str, chex.Array], dtype: Any) -> chex.Array:
    kernel, bias = layer["kernel"].astype(dtype), layer["bias"].astype(dtype)
    return (x.astype(dtype) @ kernel + bias).astype(jnp.float32)
