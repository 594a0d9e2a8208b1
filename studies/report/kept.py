"""A cache of the runs that a report has read, for the next report.

The cache is in a folder of the user, not beside the runs: other users may write there, and cached
entries enter the page without checks.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from optstudy_core import __version__
from optstudy_core.records import write_text
from studies import caches

_FORMAT = 3


class Kept:
    """Entries of runs that have not changed since the last report of the same name.

    Args:
        out: the file of the report.
        asked: other values that the entries depend on, JSON values.
    """

    def __init__(self, out: pathlib.Path, asked: Sequence[Any]) -> None:
        self._of = [_FORMAT, __version__, *asked]
        name = hashlib.sha256(str(out.absolute()).encode(errors="replace")).hexdigest()[:32]
        self._file = caches.folder("reports") / f"{name}.json"
        self._old: dict[str, Any] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(self._file.read_text(encoding="utf-8"))
            if found["of"] == self._of:
                self._old = found["entries"]
        self._new: dict[str, Any] = {}

    def get(self, folder: pathlib.Path) -> dict[str, Any] | None:
        """Return the entry of a run, if the run has not changed."""
        found = self._old.get(str(folder.absolute()))
        if found is None or found["stamp"] != _stamp(folder):
            return None
        entry: dict[str, Any] = found["entry"]
        return entry

    def put(self, folder: pathlib.Path, entry: Mapping[str, Any]) -> None:
        """Store the entry of a run."""
        with suppress(OSError):
            self._new[str(folder.absolute())] = {"stamp": _stamp(folder), "entry": entry}

    def write(self) -> None:
        """Write the cache; errors such as a full disk are ignored."""
        text = json.dumps({"of": self._of, "entries": self._new})
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._file, text)


def _stamp(folder: pathlib.Path) -> list[int]:
    """Return values that change whenever a run is written."""
    found = []
    for name in ("config.json", "records.sqlite", "checkpoints", "report.npz"):
        if (folder / name).exists():
            status = (folder / name).stat()
            found += [status.st_mtime_ns, status.st_size]
    return found
