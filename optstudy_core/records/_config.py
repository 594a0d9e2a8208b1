"""The configuration of a run, with the versions and the platform."""

from __future__ import annotations

import hashlib
import pathlib
import platform
import sys
from contextlib import suppress
from importlib import metadata
from typing import Any

from optstudy_core._version import __version__

from ._files import parse_object


def environment() -> dict[str, Any]:
    """Return the versions of the packages, and the platform.

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
    versions |= _code()
    return {
        "versions": versions,
        "platform": {
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "byteorder": sys.byteorder,
        },
    }


def _code() -> dict[str, str | None]:
    """Return the commit of the repository of the program, and a digest of its file."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if file is None:
        return {"commit": None, "program": None}
    program = pathlib.Path(file).absolute()
    digest = None
    with suppress(OSError):
        digest = f"{program.name} {hashlib.sha256(program.read_bytes()).hexdigest()[:12]}"
    return {"commit": _commit(program), "program": digest}


def _commit(program: pathlib.Path) -> str | None:
    """Return the checked-out commit, from the files of Git; no program is run."""
    with suppress(OSError, ValueError):
        home = next((p / ".git" for p in program.parents if (p / ".git").is_dir()), None)
        if home is not None:
            head = (home / "HEAD").read_text().strip()
            name = head.removeprefix("ref: ")
            if name == head:
                return head[:40]
            if (home / name).is_file():
                return (home / name).read_text().strip()[:40]
            for line in (home / "packed-refs").read_text().splitlines():
                if line.endswith(f" {name}"):
                    return line[:40]
    return None


def read_config(file: pathlib.Path) -> dict[str, Any]:
    """Return the configuration of a run.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    if not file.is_file():
        raise ValueError(f"{file}: is missing; expected is the configuration of the run")
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is not JSON ({error})") from error
    return parse_object(text, str(file))
