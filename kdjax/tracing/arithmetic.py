"""Rules for operations that combine arrays element by element or reduce them; they tie channels."""

from collections.abc import Sequence

import numpy as np

from kdjax.tracing.arrangement import without
from kdjax.tracing.equation import Equation, Rule
from kdjax.tracing.record import Record
from kdjax.tracing.values import Label, Value, along, joined, rigid


def elementwise(kind: str) -> Rule:
    """The rule of an elementwise operation; ``kind`` is sum, product, quotient or any name."""

    def rule(equation: Equation) -> list[Value]:
        return [combine(equation.record, kind, equation.values)]

    return rule


def combine(record: Record, kind: str, values: Sequence[Value]) -> Value:
    """Combines values element by element and ties the channels at equal places.

    A channel is *bare* until a parameter vector multiplies it. That vector is a scale that decides
    about the channel. The product of two computed arrays is bare where both arrays are bare. The
    result of any other operation is bare where one of the arrays is bare.

    Args:
      record: the record of the trace.
      kind: kind of the operation; it decides which channels of the result are bare.
      values: the operands.
    """
    shape = np.broadcast_shapes(*(value.shape for value in values))
    arrays = [value for value in values if len(value.shape) == len(shape)]
    labelled = [(value, label) for value in arrays for label in _fitting(record, value, shape)]
    labels = []
    while labelled:
        cluster, labelled = _overlapping(labelled)
        labels.append(_merge(record, kind, cluster))
    inputs = [value for value in values if not value.fixed]
    computed = [value for value in inputs if value.computed]
    layer = max((value.layer for value in computed if value.layer is not None), default=None)
    if computed:
        for value in inputs:
            for path in value.variables:
                record.owners.setdefault(path, layer or 0)
    return Value(
        shape,
        tuple(labels),
        frozenset() if computed else frozenset().union(*(value.variables for value in inputs)),
        _factors(kind, values) if not computed else frozenset(),
        layer,
        fixed=not inputs,
        zero=all(value.zero for value in values) and kind in ("sum", "product"),
    )


def _fitting(record: Record, value: Value, shape: tuple[int, ...]) -> list[Label]:
    """The labels of a value, except those of a single channel that is repeated."""
    fitting = []
    for label in value.labels:
        if all(value.shape[axis] == shape[axis] for axis in label.axes):
            fitting.append(label)
        else:
            record.pin(label.atoms, "one channel is combined with many")
    return fitting


def _overlapping(
    labelled: Sequence[tuple[Value, Label]],
) -> tuple[list[tuple[Value, Label]], list[tuple[Value, Label]]]:
    """The labels that share axes with the first label, directly or through others, and the rest."""
    cluster, rest = [labelled[0]], list(labelled[1:])
    axes, grown = set(labelled[0][1].axes), True
    while grown:
        more = [pair for pair in rest if axes & set(pair[1].axes)]
        rest = [pair for pair in rest if not axes & set(pair[1].axes)]
        cluster += more
        axes.update(*(label.axes for _, label in more))
        grown = bool(more)
    return cluster, rest


def _merge(record: Record, kind: str, cluster: Sequence[tuple[Value, Label]]) -> Label:
    """Merges the labels into one and ties the atoms at equal places."""
    ordered = sorted(cluster, key=lambda pair: pair[1].rigid)
    for _, label in ordered[1:]:
        if label is not ordered[0][1]:
            record.tie(
                ordered[0][1].atoms, label.atoms, "they are combined with places that cannot go"
            )
    merged = joined([label for _, label in ordered])
    computed = [label for value, label in cluster if value.computed]
    if not computed:
        return merged.with_bare(False)
    if kind == "quotient":
        computed = computed[:1]
    joint = np.logical_and if kind == "product" else np.logical_or
    bare = computed[0].bare
    for label in computed[1:]:
        bare = joint(bare, label.bare)
    merged = merged.with_bare(bare)
    if kind == "product" and merged.bare.any():
        for value, _ in cluster:
            if value.factors:
                record.add_scale(min(value.factors), merged.atoms[merged.bare])
                return merged.with_bare(False)
    return merged


def _factors(kind: str, values: Sequence[Value]) -> frozenset:
    if kind == "product":
        return frozenset().union(*(value.factors for value in values))
    if kind == "quotient":
        return values[0].factors
    return frozenset()


def unary(multiple: bool) -> Rule:
    """The rule of a function of each number; ``multiple`` if it only multiplies by a constant."""

    def rule(equation: Equation) -> list[Value]:
        return [
            value.moved(value.shape, value.labels, multiple=multiple) for value in equation.values
        ]

    return rule


def select(equation: Equation) -> list[Value]:
    """``select_n``: the result depends on the condition's channels as on those of the cases."""
    return [combine(equation.record, "choice", equation.values)]


def reduce(equation: Equation) -> list[Value]:
    """Sums, maxima and other reductions. Channels that are reduced over have to stay."""
    results = []
    for value in equation.values:
        gone = {axis % len(value.shape) for axis in equation.params["axes"]}
        labels = []
        for label in value.labels:
            if not gone & set(label.axes):
                labels.append(label)
                continue
            equation.record.pin(label.atoms, "numbers are summed or compared over channels")
            labels += [
                part for part in rigid(value.shape) if part.axes[0] in set(label.axes) - gone
            ]
        results.append(without(value, gone, labels, multiple=False))
    return results


def window(equation: Equation) -> list[Value]:
    """Pooling. Channels that the window reaches over have to stay."""
    value, shape = equation.values[0], equation.shapes[0]
    sizes = equation.params["window_dimensions"]
    labels = []
    for label in value.labels:
        if all(sizes[axis] == 1 and value.shape[axis] == shape[axis] for axis in label.axes):
            labels.append(label)
        else:
            equation.record.pin(label.atoms, "a window reaches over channels")
            labels += [along(axis, len(shape), np.zeros(shape[axis], int)) for axis in label.axes]
    return [value.moved(shape, labels, multiple=False)]


def along_axis(equation: Equation) -> list[Value]:
    """Running sums and sorting. Channels that they run along have to stay."""
    axis = equation.params.get("axis", equation.params.get("dimension"))
    for value in equation.values:
        label = value.label(axis)
        if label is not None:
            equation.record.pin(label.atoms, "numbers are accumulated or sorted over channels")
    values = equation.values
    if len(values) > 1:  # Arrays that are sorted together.
        values = [combine(equation.record, "choice", values)] * len(values)
    return [value.moved(value.shape, value.labels, multiple=False) for value in values]


def opaque(equation: Equation) -> list[Value]:
    """An operation that picks numbers by their values: every channel in it has to stay."""
    for value in equation.values:
        for label in value.labels:
            equation.record.pin(label.atoms, f"{equation.name} picks numbers from them")
    inputs = [value for value in equation.values if not value.fixed]
    layer = max((value.layer for value in inputs if value.layer is not None), default=None)
    variables = frozenset().union(*(value.variables for value in inputs))
    if any(value.computed for value in inputs):
        variables = frozenset()
    return [
        Value(shape, rigid(shape), variables, layer=layer, fixed=not inputs)
        for shape in equation.shapes
    ]
