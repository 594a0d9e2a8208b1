"""Toy events, generated once in several processes and cached."""

from __future__ import annotations

import hashlib
import os
import pathlib
import sys
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Literal

import numpy as np
from rich.console import Console

from studies import caches, processes
from studies.progress import progress
from studies.study import stream

from . import event, kernel, toy, tracks
from .event import Event

Part = Literal["training", "held out"]
CHUNK: Final = 250
"""The number of events in a file."""
_LISTS: Final = ("vertices", "counts", "tracks")
_ARRAYS: Final = ("kernel", "beam")


def events(part: Part, number: int) -> list[Event]:
    """Return the first toy events of a part.

    An event depends only on its part and its place. So every training has the same events, and
    held-out events are never used for training. Events are cached for the user (20 kB for each); a
    change of the generator makes new events.

    Args:
        part: the part.
        number: the number of events.
    """
    chunks = -(-number // CHUNK)
    folder = caches.folder("events") / _version()
    files = [folder / f"{part.replace(' ', '-')}-{i:05d}.npz" for i in range(chunks)]
    found = {i: read for i, file in enumerate(files) if (read := _read(file)) is not None}
    missing = [i for i in range(chunks) if i not in found]
    for i, made in _made(part, missing, number).items():
        found[i] = made
        if len(made) == CHUNK:
            _write(files[i], made)
    return [one for i in range(chunks) for one in found[i]][:number]


def _made(part: Part, chunks: Sequence[int], number: int) -> dict[int, list[Event]]:
    """Make the events of some chunks; the last chunk may be incomplete."""
    places = {i: range(i * CHUNK, min(number, (i + 1) * CHUNK)) for i in chunks}
    total = sum(map(len, places.values()))
    if total <= CHUNK // 4:  # processes would take longer to start
        return {i: [make(part, place) for place in some] for i, some in places.items()}
    made: dict[int, list[Event]] = {}
    with (
        progress(Console(file=sys.stderr), f"{total} toy events ({part})", total) as tick,
        processes.pool(os.cpu_count() or 1, _nothing) as pool,
    ):
        running = {i: [pool.submit(make, part, place) for place in places[i]] for i in chunks}
        for i, futures in running.items():
            made[i] = []
            for future in futures:
                made[i].append(future.result())
                tick()
    return made


def _nothing() -> None:
    """Begin a process."""


def make(part: Part, place: int) -> Event:
    """Return the toy event of a part at a place."""
    return toy.event(stream(0, f"{part} events", place))


def _version() -> str:
    """Return a digest of the files that generate events."""
    digest = hashlib.sha256()
    for module in (event, kernel, toy, tracks):
        digest.update(pathlib.Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:16]


def _write(file: pathlib.Path, some: Sequence[Event]) -> None:
    columns: dict[str, Any] = {name: np.stack([getattr(e, name) for e in some]) for name in _ARRAYS}
    for name in _LISTS:
        columns[name] = np.concatenate([getattr(e, name) for e in some])
        columns[f"{name} of"] = [len(getattr(e, name)) for e in some]
    part = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as out:
            np.savez_compressed(out, **columns)
        part.replace(file)
    except OSError as error:  # a full disk must not prevent events
        warnings.warn(f"{file}: events are not kept: {error}", stacklevel=2)
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _read(file: pathlib.Path) -> list[Event] | None:
    """Return the events of a file; ``None`` if the file is missing or damaged."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as columns:
            lists = {
                name: np.split(columns[name], np.cumsum(columns[f"{name} of"])[:-1])
                for name in _LISTS
            }
            arrays = {name: columns[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    rows = zip(*(lists | arrays).values(), strict=True)
    return [Event(**dict(zip(lists | arrays, row, strict=True))) for row in rows]
