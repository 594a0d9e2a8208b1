"""Layers of a model of any framework, and the matching of the layers of two models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

RUNNING: Final = ("mean", "var")
"""Roles of running statistics."""
COUNT: Final = "count"
"""The role of the number of batches in running statistics, which only PyTorch has."""
PARAMETER, BUFFER, DROPOUT = "parameter", "buffer", "dropout"
"""Kinds of layers: a parameter outside of known layers, a buffer, a dropout layer."""


class Place(NamedTuple):
    """The place of a tensor of a layer in its model.

    Attributes:
        name: the name of the parameter or buffer.
        start: the first of the rows of the layer; ``None`` if all rows belong to the layer.
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
        name: the path of the layer in the model.
        kind: ``linear``, ``conv1`` to ``conv3``, ``embedding``, ``norm``, ``dropout``,
            ``parameter``, ``buffer``, or the name of a class that only one framework has.
        places: the places of the tensors by role: ``weight``, ``bias``, ``mean``, ``var``,
            ``count``, ``value``.
        conventions: settings that change a training and are no tensors, by name.
    """

    name: str
    kind: str
    places: Mapping[str, Place] = {}
    conventions: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Outline:
    """The layers and tensors of a model.

    Attributes:
        layers: the layers in declared order.
        shapes: the shapes of parameters and buffers by name, in the order of axes of PyTorch.
        dtypes: the names of the dtypes of parameters and buffers.
        parameters: the names of the parameters.
        has_conventions: whether the conventions of the layers are known (not for a tree of arrays).
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
    """A layer of the file and the same layer of the model.

    Attributes:
        theirs: the layer of the file.
        ours: the layer of the model.
        axes: the order of the axes of ``theirs`` in ``ours``, given by hand; ``None``: the same.
        by_order: whether the two were matched by their order alone.
    """

    theirs: Layer
    ours: Layer
    axes: tuple[int, ...] | None = None
    by_order: bool = False


Names = Mapping[str, str | tuple[str, Sequence[int]]]
"""From layers of a file to layers of a model: a name, or a name and the order of the axes."""


def kernel_axes(ndim: int) -> tuple[int, ...] | None:
    """Return the order in PyTorch of the axes of a kernel of Flax; ``None``: the same.

    The kernel of a linear layer is (in, out) in Flax and (out, in) in PyTorch. The kernel of a
    convolution is (…, in, out) in Flax and (out, in, …) in PyTorch.

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
    """Return pairs of the same layers of a file and of a model.

    Layers of one kind with tensors of the same shapes are matched by their names, if both models
    have the same names; otherwise in declared order. Buffers may be missing on one side.

    Args:
        theirs: the outline of the file.
        ours: the outline of the model.
        names: names of layers, given by hand.

    Raises:
        ValueError: if the layers do not match; the message lists both sides.
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
            "  expected are equal numbers of layers of each kind and shape, or "
            "names={layer of the file: layer of the model}"
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
    """Return the differences between two models, one sentence for each.

    Args:
        pairs: the result of :func:`match`.
        theirs: the outline of the file.
        ours: the outline of the model.
        proved: whether both models gave the same output.
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
                f"a tree of arrays has no {', '.join(told)}: compare those of the layers yourself"
            )
    paired = {x.name for a, b, *_ in pairs for x in (a, b)}
    for outline, where in ((theirs, "the file"), (ours, "the model")):
        alone = [x.name for x in outline.layers if x.kind == BUFFER and x.name not in paired]
        if alone:
            found.append(f"buffers only in {where}: {', '.join(alone)}")
    by_order = sum(x.by_order for x in pairs)
    if by_order and not proved:
        found.append(
            f"{by_order} layers of equal shapes were matched in declared order, and no sample "
            "input checks this: export with sample="
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
        return [f"dropout layers: {len(b)}, in the file {len(a)}"]
    return [text for x, y in zip(a, b, strict=True) for text in _differing(x, y)]
