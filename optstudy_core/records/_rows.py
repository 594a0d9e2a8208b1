"""Rows of measurements: as text in the database, as dictionaries, and as columns."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from optstudy_core.arrays.numbers import nearest

from ._database import LARGEST, Database, Table
from ._files import parse_object
from ._tree import plain

WORDS: Final[Mapping[Table, str]] = {"epochs": "epoch", "steps": "step"}
"""The unit of the rows of each table."""


def encode(
    table: Table, rows: Iterable[tuple[int, Mapping[str, Any]]]
) -> list[tuple[Table, int, str]]:
    """Return rows in the form for the database.

    Raises:
        TypeError, ValueError: for a value that is not allowed.
    """
    word = WORDS[table]
    encoded = []
    for number, row in rows:
        check_number(word, number)
        if not isinstance(row, Mapping):
            raise TypeError(f"row of type {type(row).__name__}: allowed are dictionaries")
        content = plain(row, "row")
        if content.setdefault(word, int(number)) != number:
            raise ValueError(f"row[{word!r}] = {content[word]!r}: allowed is {number}")
        content = {word: int(number), **content}
        encoded.append((table, int(number), json.dumps(content)))
    return encoded


def decode(database: Database, table: Table, start: int = 0) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of a table from a number on, each with its number.

    Raises:
        ValueError: if a row is damaged.
    """
    where = f"{database.file}, {WORDS[table]}"
    return [
        (number, _row(WORDS[table], number, text, f"{where} {number}"))
        for number, text in database.rows(table, start)
    ]


def _row(word: str, number: int, text: Any, where: str) -> dict[str, Any]:
    row = parse_object(text, where)
    if type(row.get(word)) is not int or row[word] != number:
        raise ValueError(f"{where}: {word} = {row.get(word)!r}; expected is {number}")
    return row


def check_number(name: str, number: Any) -> None:
    """Refuse values that are no number of an epoch or a step.

    Raises:
        TypeError, ValueError: if the value is no integer ≥ 0.
    """
    allowed = "allowed are whole numbers >= 0"
    if not isinstance(number, int | np.integer) or isinstance(number, bool):
        raise TypeError(f"{name} = {number!r}: {allowed}")
    if not 0 <= number <= LARGEST:
        raise ValueError(f"{name} = {number!r}: {allowed}")


def column(rows: Iterable[Mapping[str, Any]], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a measurement of several rows; see :meth:`Run.column`.

    Args:
        rows: dictionaries of measurements, of epochs or of steps.
        name: the name of the measurement, or its path.

    Raises:
        ValueError: if no row has the measurement, or if it is no number.

    >>> column([{"layers": {"a/b": {"angle": 3}}}, {"layers": {}}], "layers/a/b/angle")
    array([ 3., nan])
    """
    rows = list(rows)
    found = [_look_up(row, name) for row in rows]
    if rows and not any(values for values in found):
        known = dict.fromkeys(known for row in rows for known in _names(row))
        raise ValueError(f"name = {name!r}: {nearest(name, known)}")
    numbers = [values[0] if values else None for values in found]
    for number in numbers:
        if not (number is None or isinstance(number, int | float)):
            raise ValueError(f"name = {name!r}: {number!r} is no number")
    try:
        return np.array([np.nan if number is None else number for number in numbers], np.float64)
    except OverflowError as error:
        raise ValueError(f"name = {name!r}: a whole number is too large for float64") from error


def _look_up(row: Mapping[str, Any], name: str) -> list[Any]:
    """Return the entry at a path as a list of one, or an empty list; keys may have slashes."""
    if name in row:
        return [row[name]]
    for i, letter in enumerate(name):
        if letter == "/" and isinstance(row.get(name[:i]), Mapping):
            found = _look_up(row[name[:i]], name[i + 1 :])
            if found:
                return found
    return []


def _names(row: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{name}/")
        else:
            yield prefix + name


def scalars_of(row: Mapping[str, Any], kind: str) -> dict[str, float]:
    """Return the numbers of a row by their paths, without the number of the row itself.

    Args:
        row: measurements by name.
        kind: the first part of the names, ``"epoch"`` or ``"step"``.

    >>> scalars_of({"step": 7, "loss": 2, "layers": {"w": {"angle": 90.0}}, "note": "a"}, "step")
    {'step/loss': 2.0, 'step/layers/w/angle': 90.0}
    """
    return {
        name: number
        for name, number in _numbers(row, kind)
        if name != f"{kind}/{kind}"  # the number of the row
    }


def _numbers(row: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}/{name}")
        elif isinstance(value, int | float):
            try:
                yield f"{prefix}/{name}", float(value)
            except OverflowError:  # a whole number beyond the floats
                yield f"{prefix}/{name}", math.copysign(math.inf, value)
