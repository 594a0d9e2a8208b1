"""The folder for files that can be made again."""

from __future__ import annotations

import os
import pathlib


def folder(name: str) -> pathlib.Path:
    """Return a folder in ``$XDG_CACHE_HOME/optstudy`` or ``~/.cache/optstudy``."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "optstudy" / name
