"""The oldest versions of torch, JAX and optax that are claimed, as constraints for pip.

    python tests/support/versions.py oldest

prints them; of ``newest`` there are none.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
NAMES = ("torch", "jax", "optax")


def constraints(which: str, text: str) -> list[str]:
    """Return a constraint for each package: the series of its lower bound.

    Args:
        which: ``"oldest"`` or ``"newest"``.
        text: of a ``pyproject.toml``.

    Raises:
        ValueError: if a package has no lower bound, or for another word.

    >>> text = "[project.optional-dependencies]\\na = ['torch>=2.11', 'jax>=0.10', 'optax>=0.2.6']"
    >>> constraints("oldest", text), constraints("newest", text)
    (['torch==2.11.*', 'jax==0.10.*', 'optax==0.2.6.*'], [])
    """
    if which == "newest":
        return []
    if which != "oldest":
        raise ValueError(f"versions = {which!r}: allowed are 'oldest' and 'newest'")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    found = {}
    for requirement in (x for own in extras.values() for x in own):
        match = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
        if match and match[1] in NAMES:
            found[match[1]] = match[2]
    missing = [name for name in NAMES if name not in found]
    if missing:
        raise ValueError(f"{', '.join(missing)} in pyproject.toml: expected is a lower bound")
    return [f"{name}=={found[name]}.*" for name in NAMES]


if __name__ == "__main__":
    print(*constraints(sys.argv[1], PYPROJECT.read_text(encoding="utf-8")), sep="\n")
