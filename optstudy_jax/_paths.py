"""Names of the leaves of a tree."""

from __future__ import annotations

from typing import Any

import jax


def leaf_name(path: tuple[Any, ...]) -> str:
    """Return the name of a leaf, ``layers/0/kernel``; empty if the tree is a leaf."""
    last = path[-1] if path else None
    if isinstance(last, jax.tree_util.GetAttrKey) and last.name == "value":
        path = path[:-1]  # of a variable of nnx
    return jax.tree_util.keystr(path, simple=True, separator="/")
