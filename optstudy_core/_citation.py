"""BibTeX entries of the sources, from ``references.bib`` beside this file."""

from __future__ import annotations

import hashlib
import re
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


def field(key: str, name: str) -> str:
    """Return a field of a BibTeX entry, without braces; empty if it has none."""
    found = re.search(rf"^\s*{name}\s*=\s*\{{(.*?)\}},?$", entry(key), re.MULTILINE | re.DOTALL)
    return " ".join(re.sub(r"[{}]", "", found.group(1)).split()) if found else ""


def implementation(module: str, version: str, date: str) -> str:
    """Return the BibTeX entry of one pure function of this project.

    The digest is of the file's bytes, so that a reader can tell which lines were run. The entry's
    type and fields are those that every style of BibTeX prints.

    Args:
        module: name of the algorithm's module in ``optstudy_core``.
        version: of this project.
        date: of its release, year first; empty: it is not released.

    Raises:
        ValueError: if there is no such module: a rule of one's own, or a wrapped one.
    """
    name = f"{module}.py"
    file = files(__package__).joinpath(name)
    if not file.is_file():
        raise ValueError(f"{module!r} is no file of {__package__}: cite what it is made of")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return "\n".join(
        [
            f"@misc{{optstudy-{module}-{version},",
            "  author  = {{The optstudy developers}},",
            "  title   = {optstudy: neural-network optimizers written once, with the same bits on",
            "             {NumPy}, {PyTorch} and {JAX}},",
            f"  howpublished = {{Version {version}}},",
            f"  note    = {{The pure function optstudy\\_core/{name.replace('_', chr(92) + '_')};",
            f"             SHA-256 of the file begins with {digest[:32]}}},",
            f"  year    = {{{date[:4] or 'n.d.'}}}",
            "}",
        ]
    )
