"""The oldest versions of NumPy, torch, JAX and optax that are claimed, as constraints for pip.

    python tests/support/versions.py oldest
    python tests/support/versions.py newest 2.13.0

prints them; of ``newest`` there are none but a version of torch that is named: where pip finds
builds of torch for CPUs of some versions only, as others are gigabytes.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def constraints(which: str, text: str, torch: str = "") -> list[str]:
    """Return a constraint for each package on which the adapters stand: its lower bound.

    Args:
        which: ``"oldest"`` or ``"newest"``.
        text: of a ``pyproject.toml``.
        torch: a version of torch to take in its place.

    Raises:
        ValueError: if a package has no lower bound, or for another word.

    >>> text = "project.dependencies = ['numpy>=2.0']\\n[project.optional-dependencies]\\n"
    >>> text += "torch = ['torch>=2.11']\\njax = ['jax>=0.10', 'optax>=0.2.6']"
    >>> constraints("oldest", text), constraints("newest", text)
    (['numpy==2.0', 'torch==2.11', 'jax==0.10', 'optax==0.2.6'], [])
    >>> constraints("newest", text, "2.13.0")
    ['torch==2.13.0']
    """
    if which not in ("oldest", "newest"):
        raise ValueError(f"versions = {which!r}: allowed are 'oldest' and 'newest'")
    found = _lower_bounds(text) if which == "oldest" else {}
    if torch:
        found["torch"] = torch
    return [f"{name}=={version}" for name, version in found.items()]


def _lower_bounds(text: str) -> dict[str, str]:
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    found = {}
    for requirement in (*project["dependencies"], *extras["torch"], *extras["jax"]):
        match = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
        if match is None:
            raise ValueError(f"{requirement} in pyproject.toml: expected is a lower bound")
        found[match[1]] = match[2]
    return found


if __name__ == "__main__":
    which, *torch = sys.argv[1:]
    print(*constraints(which, PYPROJECT.read_text(encoding="utf-8"), *torch), sep="\n")
