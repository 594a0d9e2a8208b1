"""``python -m parity digest``: a short text for the bits of an algorithm in a dialect.

Equal digests mean the same defaults of the dialect, and the same parameters and states, bit for
bit, in the standard runs of :mod:`parity.standard`.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np

from optstudy_core import ALGORITHMS, WRAPPERS, Algorithm
from optstudy_core._extras import extra
from optstudy_core.catalogue import digests

from . import backends
from .backends.backend import Run
from .standard import runs
from .subjects import find_subject

with extra("digest"):
    from rich.console import Console
    from rich.progress import track

LENGTH: Final = 12
"""Hexadecimal digits of a digest."""


def digest(
    algorithm: str | Algorithm, dialect: str | None = None, *, backend: str = "numpy"
) -> str:
    """Return the digest of an algorithm.

    Args:
        algorithm: a name, wrapped (``averaged_adam``) or not, or an algorithm.
        dialect: the dialect; ``None``: the default of the algorithm.
        backend: the backend that computes, one of ``parity.backends.NAMES``.

    Returns:
        the first 12 hexadecimal digits of SHA-256 of the dialect's defaults and, for each standard
        run, all parameters after each step and the last state.

    Raises:
        ValueError: for an unknown algorithm or dialect.
        parity.backends.NotRunError: if the backend cannot run here.
    """
    rule = find_subject(algorithm)
    if not isinstance(rule, Algorithm):
        raise ValueError(f"algorithm = {algorithm!r}: an epoch method has no digest")
    machine = backends.make(backend)
    total = hashlib.sha256()
    for part in defaults(rule, dialect):
        total.update(part)
    for case in runs(rule, dialect):
        with backends.whole_range():
            run = machine.run(rule, case)
        for part in bits(run):
            total.update(part)
    return total.hexdigest()[:LENGTH]


def defaults(algorithm: Algorithm, dialect: str | None) -> Iterator[bytes]:
    """Yield what a digest is of before anything runs: the hyperparameters of the dialect."""
    for item in sorted(algorithm.defaults(dialect).items()):
        yield repr(item).encode()


def bits(run: Run) -> Iterator[bytes]:
    """Yield what a digest is of: the parameters after each step, and the last state by name."""
    for row in run.trajectory:
        yield from map(_bytes, row)
    for name in sorted(run.state):
        yield name.encode()
        yield _bytes(run.state[name])


def _bytes(x: np.ndarray) -> bytes:
    """Return the bits of an array in little-endian order, with one NaN and one zero."""
    x = np.array(x)  # a copy in the order of its indices
    if x.dtype.kind not in "iub":
        x[np.isnan(x)] = np.nan
        x[x == 0] = 0
    width = x.dtype.itemsize
    return x.view(f"u{width}").astype(f"<u{width}").tobytes()


def names() -> list[tuple[str, str | None]]:
    """Return every algorithm and dialect with a digest; wrappers are around Adam."""
    found: list[tuple[str, str | None]] = []
    for name in (*ALGORITHMS, *(f"{wrapper}_adam" for wrapper in WRAPPERS)):
        rule = find_subject(name)
        assert isinstance(rule, Algorithm)
        found += [(name, dialect) for dialect in rule.dialects]
    return found


def _chosen(text: str) -> Iterator[tuple[str, str | None]]:
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name == "all":
            yield from names()
            continue
        rule = find_subject(name)
        if not isinstance(rule, Algorithm):
            raise ValueError(f"algorithm = {name!r}: an epoch method has no digest")
        yield from ((name, dialect) for dialect in rule.dialects)


def _computed(
    chosen: Sequence[tuple[str, str | None]], backend: str, processes: int
) -> Iterator[tuple[tuple[str, str | None], str]]:
    """Yield each algorithm and dialect with its digest."""
    task, columns = functools.partial(digest, backend=backend), zip(*chosen, strict=True)
    if processes <= 1:
        yield from zip(chosen, map(task, *columns), strict=True)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from zip(chosen, pool.map(task, *columns), strict=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parity digest",
        allow_abbrev=False,
        description="Print a digest of the bits of each algorithm and dialect in standard runs. "
        "Exit status: 0 if all agree with the recorded digests of this version of optstudy, 1 if "
        "one differs, 2 for bad arguments.",
    )
    parser.add_argument(
        "--algorithms", default="all", help="names separated by commas, or all (default)"
    )
    parser.add_argument(
        "--backend",
        default="numpy",
        choices=backends.NAMES,
        help="the backend that computes (default: %(default)s)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        help="how many digests are computed at once (default: the cores with NumPy, else 1)",
    )
    parser.add_argument("--write", action="store_true", help="record the digests in the package")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the command; return 0 if all digests equal the recorded digests, else 1."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        chosen = list(_chosen(arguments.algorithms))
    except ValueError as error:
        parser.error(str(error))
    if not chosen:
        parser.error("--algorithms: no algorithm is named")
    console = Console()
    recorded, found, others = digests.recorded(), {}, 0
    cores = (os.cpu_count() or 1) if arguments.backend == "numpy" else 1
    computed = _computed(chosen, arguments.backend, min(arguments.processes or cores, len(chosen)))
    progress = Console(stderr=True)
    try:
        for (name, dialect), own in track(
            computed, "digests", total=len(chosen), console=progress, transient=True
        ):
            found[digests.key(name, dialect)] = own
            expected = recorded.get(digests.key(name, dialect))
            verdict = "" if own == expected else f"  recorded is {expected or 'none'}"
            others += own != expected
            console.print(f"{own}  {name} {dialect}{verdict}", highlight=False, soft_wrap=True)
    except backends.NotRunError as error:
        parser.error(str(error))
    if arguments.write:
        place = Path(str(files("optstudy_core"))) / "digests.json"
        known = {digests.key(*pair) for pair in names()}
        kept = {k: v for k, v in {**recorded, **found}.items() if k in known}
        place.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    if others:
        console.print(f"{others} of {len(chosen)} digests differ from the recorded digests")
    return int(others > 0)
