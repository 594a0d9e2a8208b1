"""The configuration of a run, and the versions and the platform that it is made with."""

from __future__ import annotations

import pathlib
import platform
import sys
from importlib import metadata
from typing import Any

from optstudy_core._version import __version__

from ._files import parse_object


def environment() -> dict[str, Any]:
    """Return the versions and the platform that a run is made with.

    >>> sorted(environment())
    ['platform', 'versions']
    """
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("numpy", "torch", "jax", "jaxlib", "optax", "flax"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    versions["optstudy"] = __version__
    return {
        "versions": versions,
        "platform": {
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "byteorder": sys.byteorder,
        },
    }


def read_config(file: pathlib.Path) -> dict[str, Any]:
    """Return the configuration of a run.

    Raises:
        ValueError: if the file is missing or not what it should be.
    """
    if not file.is_file():
        raise ValueError(f"{file}: is missing; expected is the configuration of the run")
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is not JSON ({error})") from error
    return parse_object(text, str(file))
