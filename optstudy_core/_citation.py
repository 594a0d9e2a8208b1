"""BibTeX entries of the sources, from ``references.bib`` beside this file."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from .hyperparameters import nearest


@cache
def entries() -> dict[str, str]:
    """Return the BibTeX entries by key."""
    text = files(__package__).joinpath("references.bib").read_text(encoding="utf-8")
    found = {}
    for block in text.split("\n@")[1:]:
        key = block.partition("{")[2].partition(",")[0].strip()
        found[key] = "@" + block.strip()
    return found


def entry(key: str) -> str:
    """Return the BibTeX entry with ``key``.

    Raises:
        ValueError: if there is none.
    """
    if key not in entries():
        raise ValueError(f"key = {key!r}: {nearest(key, entries())}")
    return entries()[key]
