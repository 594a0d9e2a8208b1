"""The sources of the arrays of a model: of parameters, buffers, and the states of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .layers import Outline, Pair, Place

Array = np.ndarray[Any, Any]
Fields = Mapping[str, Array]
"""The state of a parameter: arrays by the names of the fields."""


class Piece(NamedTuple):
    """A part of a parameter or buffer, and its source.

    Attributes:
        ours: the part in the model.
        theirs: the part of a parameter or buffer in the file.
        axes: the order of the axes of ``theirs`` in ``ours``; ``None``: the same.
    """

    ours: Place
    theirs: Place
    axes: tuple[int, ...] | None

    def taken(self, array: Array) -> Array:
        """Return the part of an array of the file."""
        part = array[self.theirs.rows] if self.theirs.start is not None else array
        return part if self.axes is None else part.transpose(self.axes)


class Move(NamedTuple):
    """A parameter or buffer of the model, built from parts of the file.

    Attributes:
        name: the name of the parameter or buffer.
        shape: its shape.
        pieces: its parts.
        whole: whether it is the same as a parameter or buffer of the file.
    """

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    whole: bool

    @property
    def sources(self) -> list[str]:
        """The names of the parameters or buffers of the file that it is built from."""
        return list(dict.fromkeys(p.theirs.name for p in self.pieces))

    def gathered(self, arrays: Mapping[str, Array]) -> Array:
        """Return the array, given the arrays of the file by name."""
        if self.whole:
            return arrays[self.sources[0]]
        parts = [(p.ours, p.taken(arrays[p.theirs.name])) for p in self.pieces]
        if parts[0][0].start is None:
            return parts[0][1]
        made = np.empty(self.shape, parts[0][1].dtype)
        for place, part in parts:
            made[place.rows] = part
        return made

    def state(self, states: Mapping[str, Fields], shapes: Mapping[str, Any]) -> Fields | None:
        """Return the state of the parameter; ``None`` if it has taken no step.

        Args:
            states: the states of the parameters of the file.
            shapes: the shapes of these parameters.

        Raises:
            ValueError: if the states of the parts cannot be joined.
        """
        found = [(p, states.get(p.theirs.name)) for p in self.pieces]
        if self.whole or all(state is None for _, state in found):
            return found[0][1]
        if len({None if state is None else tuple(state) for _, state in found}) != 1:
            raise ValueError(
                f"{self.name}: {', '.join(self.sources)} have states with different fields"
            )
        first = found[0][1] or {}
        return {name: self._field(name, found, shapes) for name in first}

    def _field(self, name: str, found: Sequence[Any], shapes: Mapping[str, Any]) -> Array:
        values = {p.theirs.name: state[name] for p, state in found}
        if all(x.shape == tuple(shapes[source]) for source, x in values.items()):
            return self.gathered(values)
        first: Array = next(iter(values.values()))
        if any(x.shape != () or x != first for x in values.values()):
            shown = ", ".join(f"{source}: {x.tolist()}" for source, x in values.items())
            raise ValueError(
                f"{self.name}: {name} of its parts differ ({shown}): expected is the same number"
            )
        return first


def moves(pairs: Sequence[Pair], theirs: Outline, ours: Outline) -> dict[str, Move]:
    """Return the sources of each parameter and buffer of a model.

    Raises:
        ValueError: if a parameter is shared on one side only.
    """
    pieces: dict[str, dict[Place, Piece]] = {}
    taken: dict[Place, Place] = {}
    for pair in pairs:
        for role, place in pair.ours.places.items():
            source = pair.theirs.places.get(role)
            if source is None:  # of the count of batches
                continue
            own = pieces.setdefault(place.name, {})
            tied = own.get(place, None)
            if (tied and tied.theirs != source) or taken.get(source, place) != place:
                here, there = place.name, source.name
                raise ValueError(
                    f"{here} (in the file {there}) is tied to another parameter on one side only"
                )
            own[place], taken[source] = Piece(place, source, pair.axes), place
    made = {}
    for name, shape in ours.shapes.items():
        if name in pieces:
            parts = pieces[name]
            whole = _whole(parts, theirs, ours)
            made[name] = Move(name, tuple(shape), tuple(parts.values()), whole)
    return made


def _whole(own: Mapping[Place, Piece], theirs: Outline, ours: Outline) -> bool:
    sources = {p.theirs.name for p in own.values()}
    return (
        len(sources) == 1
        and all((p.ours[1:], p.axes) == (p.theirs[1:], None) for p in own.values())
        and all(tuple(theirs.shapes[source]) == tuple(ours.shapes[n.name])
                for source in sources for n in own)
    )  # fmt: skip


def check_rule(found: Mapping[str, Move], algorithm: str, has_sums: bool, has_axes: bool) -> None:
    """Refuse to cut, join or turn parameters whose elements depend on each other in a rule.

    Args:
        found: of :func:`moves`.
        algorithm: the name of the rule.
        has_sums: whether the rule has sums over a parameter.
        has_axes: whether the rule depends on rows and columns.

    Raises:
        ValueError: if a parameter is changed in a way that the rule does not allow.
    """
    for move in found.values():
        turned = any(p.axes for p in move.pieces)
        cut = not move.whole and not (turned and len(move.pieces) == 1)
        if has_axes and not move.whole:
            what = "depends on the rows and columns of a parameter, which would differ"
        elif has_sums and cut:
            what = "sums over the elements of a parameter, which would differ"
        else:
            continue
        raise ValueError(
            f"{move.name} is cut or joined from {', '.join(move.sources)}: {algorithm} {what}; "
            "expected is the same parameter on both sides, or an elementwise rule"
        )


def check_dtypes(found: Mapping[str, Move], theirs: Outline, ours: Outline) -> None:
    """Refuse parameters and buffers with another dtype than in the model.

    Raises:
        ValueError: if a dtype differs; the message names the parameter or buffer.
    """
    for move in found.values():
        for source in move.sources:
            if theirs.dtypes[source] != ours.dtypes[move.name]:
                raise ValueError(
                    f"{source} of dtype {theirs.dtypes[source]}: expected is "
                    f"{ours.dtypes[move.name]}, the dtype of {move.name} in the model"
                )
