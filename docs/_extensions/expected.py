"""The table of the expected differences."""

from __future__ import annotations

import pathlib

from parity.differences import EXPECTED, Difference


def table() -> str:
    """Return the expected differences as a table in Markdown."""
    head = (
        "| pair | cause | kind | largest in float64 | upstream |\n| --- | --- | --- | --- | --- |\n"
    )
    return head + "".join(_row(label, own) for label, own in EXPECTED.items())


def _row(label: str, own: Difference) -> str:
    repository, _, number = own.issue.partition("#")
    link = (
        f"[{own.issue}](https://github.com/{repository}/issues/{number})"
        if number
        else "none known"
    )
    return f"| `{label}` | {own.cause} | {own.kind} | {own.largest:g} | {link} |\n"


def write(file: pathlib.Path) -> None:
    """Write the table."""
    file.write_text(table(), encoding="utf-8")
