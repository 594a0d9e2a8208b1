"""Layers of a model, whichever framework it is of, and which layers of two models are the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

RUNNING: Final = ("mean", "var")
"""Roles of running statistics."""
COUNT: Final = "count"
"""The role of what PyTorch alone has: how many batches were in running statistics."""
PARAMETER, BUFFER, DROPOUT = "parameter", "buffer", "dropout"
"""Kinds of layers that are a parameter of the model's own, a buffer, a place of dropout."""


class Place(NamedTuple):
    """Where a tensor of a layer is in its model.

    Attributes:
        name: of the parameter or buffer.
        start: the first of its rows that are the layer's; ``None``: all are.
        stop: the row after the last.
    """

    name: str
    start: int | None = None
    stop: int | None = None

    @property
    def rows(self) -> slice:
        """The rows as an index."""
        return slice(self.start, self.stop)


class Layer(NamedTuple):
    """A layer.

    Attributes:
        name: its path in the model.
        kind: ``linear``, ``conv1`` to ``conv3``, ``embedding``, ``norm``, ``dropout``,
            ``parameter``, ``buffer``, or the name of a class that one framework alone has.
        places: of its tensors by role: ``weight``, ``bias``, ``mean``, ``var``, ``count``,
            ``value``.
        conventions: what changes a training and is no tensor, by name.
    """

    name: str
    kind: str
    places: Mapping[str, Place] = {}
    conventions: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Outline:
    """What a model is made of.

    Attributes:
        layers: in declared order.
        shapes: of parameters and buffers by name, in PyTorch's order of axes.
        dtypes: their names.
        parameters: the names of those that are parameters.
        has_conventions: whether the conventions of the layers are known (not of a tree of arrays).
    """

    layers: tuple[Layer, ...]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    parameters: tuple[str, ...]
    has_conventions: bool = True

    def shape(self, place: Place) -> tuple[int, ...]:
        """Return the shape of a tensor of a layer."""
        whole = self.shapes[place.name]
        if place.start is None or place.stop is None:
            return whole
        return (place.stop - place.start, *whole[1:])


class Pair(NamedTuple):
    """A layer of the file and the same one of the model.

    Attributes:
        theirs: of the file.
        ours: of the model.
        axes: the order of the axes of theirs in ours, given by hand; ``None``: the same.
        by_order: whether nothing but the order says that it is this one.
    """

    theirs: Layer
    ours: Layer
    axes: tuple[int, ...] | None = None
    by_order: bool = False


Names = Mapping[str, str | tuple[str, Sequence[int]]]
"""From layers of a file to layers of a model: a name, or a name and the order of the axes."""


def kernel_axes(ndim: int) -> tuple[int, ...] | None:
    """Return the order that PyTorch has the axes of a kernel of Flax in; ``None``: the same.

    A kernel of a linear layer is (in, out) in Flax and (out, in) in PyTorch, one of a convolution
    (…, in, out) and (out, in, …).

    >>> kernel_axes(2), kernel_axes(4), kernel_axes(1)
    ((1, 0), (3, 2, 0, 1), None)
    """
    return None if ndim < 2 else (ndim - 1, ndim - 2, *range(ndim - 2))


# Matching.


@dataclass
class _Side:
    outline: Outline
    left: dict[str, Layer] = field(default_factory=dict)

    @classmethod
    def of(cls, outline: Outline) -> _Side:
        return cls(outline, {x.name: x for x in outline.layers if x.kind != DROPOUT})

    def signature(self, layer: Layer) -> tuple[Any, ...]:
        shapes = {r: self.outline.shape(p) for r, p in layer.places.items() if r != COUNT}
        return layer.kind, tuple(sorted(shapes.items()))

    def groups(self) -> dict[tuple[Any, ...], list[Layer]]:
        found: dict[tuple[Any, ...], list[Layer]] = {}
        for layer in self.left.values():
            found.setdefault(self.signature(layer), []).append(layer)
        return found

    def shown(self, layers: Sequence[Layer]) -> str:
        if not layers:
            return "    none"
        lines = []
        for x in layers:
            tensors = (f"{r} {_shape(self.outline.shape(p))}" for r, p in x.places.items())
            lines.append(f"    {x.name or '(the model)'}: {x.kind}, {', '.join(tensors)}")
        return "\n".join(lines)

    def take(self, name: str, whose: str) -> Layer:
        if name not in self.left:
            raise ValueError(
                f"names: {whose} has no layer {name!r} (left): allowed are "
                f"{', '.join(map(repr, self.left)) or 'none'}"
            )
        return self.left.pop(name)


def match(theirs: Outline, ours: Outline, names: Names | None = None) -> list[Pair]:
    """Return which layers of a file and of a model are the same.

    Layers of one kind with tensors of the same shapes are taken by their names, if both models
    have the same, else in declared order. Buffers of a model's own may be missing on a side.

    Args:
        theirs: of the file.
        ours: of the model.
        names: of layers, given by hand.

    Raises:
        ValueError: if the layers do not fit each other; the message lists both sides.
    """
    file, model = _Side.of(theirs), _Side.of(ours)
    pairs = [_by_hand(file, model, *entry) for entry in (names or {}).items()]
    there, here = file.groups(), model.groups()
    lost: tuple[list[Layer], list[Layer]] = ([], [])
    for signature in dict.fromkeys([*there, *here]):
        a, b = there.get(signature, []), here.get(signature, [])
        if len(a) != len(b):
            if signature[0] != BUFFER:
                lost[0].extend(a)
                lost[1].extend(b)
            continue
        own = {_path(x): x for x in b}
        if {*map(_path, a)} == {*own}:
            pairs += [Pair(x, own[_path(x)]) for x in a]
        else:
            pairs += [Pair(x, y, by_order=len(a) > 1) for x, y in zip(a, b, strict=True)]
    if lost[0] or lost[1]:
        raise ValueError(
            "layers do not fit each other; in the file:\n"
            f"{file.shown(lost[0])}\n  in the model:\n{model.shown(lost[1])}\n"
            "  expected are as many of each kind and shape, or names={layer of the file: layer of "
            "the model}"
        )
    return pairs


def _by_hand(file: _Side, model: _Side, name: str, other: Any) -> Pair:
    axes = None
    if not isinstance(other, str):
        other, axes = other[0], tuple(other[1])
    a, b = file.take(name, "the file"), model.take(other, "the model")
    ((_, of_a), (_, of_b)) = file.signature(a), model.signature(b)
    if axes is not None:
        shapes = [shape for _, shape in of_a]
        if len(shapes) != 1 or sorted(axes) != list(range(len(shapes[0]))):
            raise ValueError(f"names: {name!r} with axes {axes}: allowed are orders of its axes")
        of_a = ((of_a[0][0], tuple(shapes[0][i] for i in axes)),)
    if of_a != of_b:
        raise ValueError(
            f"names: {name!r} and {other!r} do not fit each other; in the file:\n"
            f"{file.shown([a])}\n  in the model:\n{model.shown([b])}"
        )
    return Pair(a, b, axes)


def _path(layer: Layer) -> str:
    return layer.name.replace(".", "/")


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


# Conventions.


def notes(pairs: Sequence[Pair], theirs: Outline, ours: Outline, proved: bool) -> list[str]:
    """Return what two models have of their own, a sentence each.

    Args:
        pairs: of :func:`match`.
        theirs: of the file.
        ours: of the model.
        proved: whether both gave the same output.
    """
    found = []
    if theirs.has_conventions and ours.has_conventions:
        for a, b, *_ in pairs:
            found += _differing(a, b)
        found += _dropouts(theirs, ours)
    elif theirs.has_conventions or ours.has_conventions:
        side = theirs if theirs.has_conventions else ours
        told = sorted({k for x in side.layers for k in x.conventions})
        if told:
            found.append(
                f"a tree of arrays says nothing of {', '.join(told)}: compare those of the layers"
            )
    paired = {x.name for a, b, *_ in pairs for x in (a, b)}
    for outline, where in ((theirs, "the file"), (ours, "the model")):
        alone = [x.name for x in outline.layers if x.kind == BUFFER and x.name not in paired]
        if alone:
            found.append(f"buffers of {where} alone: {', '.join(alone)}")
    by_order = sum(x.by_order for x in pairs)
    if by_order and not proved:
        found.append(
            f"{by_order} layers of equal shapes were taken in declared order, and no sample input "
            "proves it: export with sample="
        )
    return found


def _differing(theirs: Layer, ours: Layer) -> list[str]:
    found = []
    for name in sorted(theirs.conventions.keys() | ours.conventions.keys()):
        a, b = theirs.conventions.get(name), ours.conventions.get(name)
        numbers = all(isinstance(x, float | int) for x in (a, b))
        if not (math.isclose(a, b, rel_tol=1e-9) if numbers else a == b):  # type: ignore[arg-type]
            found.append(f"{ours.name}: {name} = {_value(b)}, in the file {_value(a)}")
    return found


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _dropouts(theirs: Outline, ours: Outline) -> list[str]:
    a, b = ([x for x in o.layers if x.kind == DROPOUT] for o in (theirs, ours))
    if len(a) != len(b):
        return [f"places of dropout: {len(b)}, in the file {len(a)}"]
    return [text for x, y in zip(a, b, strict=True) for text in _differing(x, y)]
