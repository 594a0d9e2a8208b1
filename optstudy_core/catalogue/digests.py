"""The recorded digests of the algorithms; ``python -m parity digest`` computes them."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def recorded() -> dict[str, str]:
    """Return the digests of this version, by :func:`key`."""
    file = files("optstudy_core").joinpath("digests.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def key(algorithm: str, dialect: str | None) -> str:
    """Return the key of a digest.

    >>> key("adamw", "torch")
    'adamw torch'
    """
    return f"{algorithm} {dialect}"
