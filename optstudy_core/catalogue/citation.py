"""BibTeX entries of the sources, from ``references.bib``, and of the pure functions here."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

from optstudy_core._version import REPOSITORY, __date__, __version__
from optstudy_core.arrays.numbers import nearest

from . import digests
from .algorithm import Algorithm
from .table import ALGORITHMS, WRAPPERS, find


@cache
def entries() -> dict[str, str]:
    """Return the BibTeX entries by key."""
    text = files("optstudy_core").joinpath("references.bib").read_text(encoding="utf-8")
    found = {}
    for block in text.split("\n@")[1:]:
        key = block.partition("{")[2].partition(",")[0].strip()
        found[key] = "@" + block.strip()
    return found


def entry(key: str) -> str:
    """Return the BibTeX entry with ``key``.

    Raises:
        ValueError: if there is no such entry.
    """
    if key not in entries():
        raise ValueError(f"key = {key!r}: {nearest(key, entries())}")
    return entries()[key]


def field(key: str, name: str) -> str:
    """Return a field of a BibTeX entry, without braces; empty if the entry lacks the field."""
    found = re.search(rf"^\s*{name}\s*=\s*\{{(.*?)\}},?$", entry(key), re.MULTILINE | re.DOTALL)
    return " ".join(re.sub(r"[{}]", "", found.group(1)).split()) if found else ""


def citation(algorithm: str | Algorithm, *, implementation: bool = False) -> str:
    """Return the BibTeX entries of the sources of an algorithm.

    Args:
        algorithm: a name in :data:`ALGORITHMS` or :data:`WRAPPERS`, or an algorithm.
        implementation: also return an entry for this implementation: version, file and digest.

    Raises:
        ValueError: if the algorithm is unknown. With ``implementation``, also if the algorithm has
            no file in optstudy.

    >>> print(citation("adam").splitlines()[0])
    @inproceedings{kingma2015adam,
    >>> print(citation("adam", implementation=True).splitlines()[-10])
    @misc{optstudy-adam-0.1.0,
    """
    if isinstance(algorithm, str) and algorithm in WRAPPERS:
        name, keys = algorithm, WRAPPERS[algorithm](ALGORITHMS["sgd"]).bibtex[:1]
    else:
        found = find(algorithm)
        name, keys = found.name, found.bibtex
    entries = [entry(key) for key in keys]
    if implementation:
        entries.append(_implementation(name, __version__, __date__, REPOSITORY))
    return "\n\n".join(entries)


def _digests(name: str) -> str:
    """Return the digests of the dialects of an algorithm; for a wrapper, those around Adam."""
    wanted = {name, f"{name}_adam"} if name in WRAPPERS else {name}
    found = ((*key.partition(" "), value) for key, value in digests.recorded().items())
    return ", ".join(f"{dialect} {value}" for own, _, dialect, value in found if own in wanted)


def _implementation(name: str, version: str, date: str, repository: str) -> str:
    """Return the BibTeX entry of one pure function of this project.

    The digest of the file tells a reader which lines were run. Every style of BibTeX prints an
    entry of this type with these fields.

    Args:
        name: the name of the algorithm or the wrapper.
        version: the version of this project.
        date: the date of the release, year first; empty for an unreleased version.
        repository: the address of the repository, or an empty string.

    Raises:
        ValueError: if the algorithm has no file: a rule of your own, or a wrapped rule.
    """
    folder = "wrappers" if name in WRAPPERS else "algorithms"
    if name not in ALGORITHMS and name not in WRAPPERS:
        raise ValueError(
            f"{name!r} has no file in optstudy_core/{folder}. Cite the algorithms that it uses."
        )
    digest = hashlib.sha256(files(f"optstudy_core.{folder}").joinpath(f"{name}.py").read_bytes())
    shown = f"optstudy_core/{folder}/{name}.py".replace("_", r"\_")
    return "\n".join(
        [
            f"@misc{{optstudy-{name}-{version},",
            "  author  = {{The optstudy developers}},",
            "  title   = {optstudy: neural-network optimizers written once, with the same bits on",
            "             {NumPy}, {PyTorch} and {JAX}},",
            f"  howpublished = {{Version {version}}},",
            *[f"  url     = {{{repository}}},"] * bool(repository),
            f"  note    = {{The pure function {shown};",
            f"             SHA-256 of the file begins with {digest.hexdigest()[:32]};",
            f"             digests of its bits: {_digests(name)}}},",
            f"  year    = {{{date[:4] or 'n.d.'}}}",
            "}",
        ]
    )
