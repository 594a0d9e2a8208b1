"""The rows of a run as a table in one file, CSV or Parquet, for other programs."""

from __future__ import annotations

import csv
import io
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from optstudy_core._extras import extra

from ._files import replace, write_text

Table = dict[str, list[Any]]
"""Columns by name; ``None`` if a row lacks the entry."""


def write_table(file: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a table, completely or not at all; see :meth:`Run.export`.

    Raises:
        ValueError: if the name of the file does not end in ``.csv`` or ``.parquet``.
        ModuleNotFoundError: if ``pyarrow`` is not installed, for Parquet.
    """
    if file.suffix not in _WRITERS:
        raise ValueError(f"file = {str(file)!r}: allowed are names that end in .csv or .parquet")
    _WRITERS[file.suffix](file, table_of(rows))


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return rows as columns; the name of an entry of a dictionary is its path.

    >>> table_of([{"epoch": 1, "layers": {"w": {"angle": 3.0}}}, {"epoch": 2, "note": "a"}])
    {'epoch': [1, 2], 'layers/w/angle': [3.0, None], 'note': [None, 'a']}
    """
    found: Table = {}
    for i, row in enumerate(rows):
        for name, value in _entries(row):
            found.setdefault(name, [None] * len(rows))[i] = value
    return found


def _entries(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _entries(value, f"{prefix}{name}/")
        else:
            yield prefix + name, json.dumps(value) if isinstance(value, list) else value


def _write_csv(file: pathlib.Path, table: Table) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    write_text(file, text.getvalue())


def _write_parquet(file: pathlib.Path, table: Table) -> None:
    with extra("parquet"):
        import pyarrow
        import pyarrow.parquet

    columns = {name: _of_one_kind(column) for name, column in table.items()}
    temporary = file.with_name(file.name + ".part")
    pyarrow.parquet.write_table(pyarrow.table(columns), temporary)
    replace(temporary, file)


def _of_one_kind(column: list[Any]) -> list[Any]:
    """Return a column with entries of one type, as Parquet needs.

    >>> _of_one_kind([1, None, 2.5]), _of_one_kind([True, "a"]), _of_one_kind([1, 2])
    ([1.0, None, 2.5], ['true', 'a'], [1, 2])
    """
    kinds = {type(x) for x in column if x is not None}
    if len(kinds) <= 1 and not any(type(x) is int and abs(x) >= 2**63 for x in column):
        return column
    if kinds <= {int, float}:
        return [None if x is None else float(x) for x in column]
    return [x if x is None or isinstance(x, str) else json.dumps(x) for x in column]


_WRITERS: Final[Mapping[str, Callable[[pathlib.Path, Table], None]]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
