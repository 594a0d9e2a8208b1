"""The parameter trees of cases; few, because each is compiled."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

DTYPES: dict[str, Any] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
"""Dtypes of parameters by name."""


def working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which steps of parameters of ``dtype`` are computed."""
    return DTYPES["float64"] if dtype == np.float64 else DTYPES["float32"]


class Leaf(NamedTuple):
    """One array of a tree.

    Attributes:
        path: the path in the tree, keys joined by ``/``.
        shape: the shape.
        dtype: the dtype, or ``None`` for the dtype of the case.
        transposed: whether the tensor in torch has transposed memory (is not contiguous).
    """

    path: str
    shape: tuple[int, ...]
    dtype: str | None = None
    transposed: bool = False


STRUCTURES: dict[str, tuple[Leaf, ...]] = {
    "scalar": (Leaf("theta", ()),),
    "vectors": (Leaf("one", (1,)), Leaf("several", (17,))),
    "empty": (Leaf("nothing", (0,)), Leaf("no/rows", (0, 4)), Leaf("something", (3,))),
    "nested": (
        Leaf("hidden/kernel", (4, 3)),
        Leaf("hidden/bias", (3,)),
        Leaf("out/kernel", (3, 2), transposed=True),
        Leaf("out/scale", ()),
    ),
    "wide": (Leaf("embedding", (40, 60), transposed=True), Leaf("bias", (2503,))),
    "mixed": (
        Leaf("base", (5,)),
        Leaf("single", (3, 2), "float32"),
        Leaf("double", (4,), "float64"),
        Leaf("half", (6,), "bfloat16"),
    ),
    "standard": (
        Leaf("hidden/kernel", (4, 3)),
        Leaf("hidden/bias", (3,)),
        Leaf("out/kernel", (3, 2), transposed=True),
        Leaf("out/scale", ()),
        Leaf("last/kernel", (2, 4)),
        Leaf("last/bias", (5,)),
        Leaf("more/kernel", (3, 2)),
        Leaf("more/bias", (2,)),
    ),
    "corners": (
        Leaf("tall/kernel", (6, 2), transposed=True),
        Leaf("wide/kernel", (2, 4)),
        Leaf("deep/kernel", (2, 3, 2)),
        Leaf("still/kernel", (2, 2)),
        Leaf("tiny/kernel", (2, 2)),
        Leaf("empty/kernel", (0, 4)),
        Leaf("late/bias", (3,)),
        Leaf("one/bias", (1,)),
        Leaf("zero/scale", ()),
    ),
    "large": (
        Leaf("just/kernel", (128, 129)),
        Leaf("not/kernel", (127, 130), transposed=True),
        Leaf("long/kernel", (2, 1025)),
    ),
    "odd": (
        Leaf("kernel", (3, 5), transposed=True),
        Leaf("row/kernel", (1, 4)),
        Leaf("column/kernel", (4, 1)),
        Leaf("thin/kernel", (2, 1, 3)),
        Leaf("axes/kernel", (2, 1, 3, 2, 2)),
        Leaf("tiny/bias", (3,)),
        Leaf("least/bias", (2,)),
        Leaf("bias", (16,)),
        Leaf("scale", ()),
    ),
    "many": (Leaf("kernel", (16, 24)), Leaf("bias", (600,))),
    "long": (Leaf("long/bias", (1100,)), Leaf("long/kernel", (1025, 2, 2))),
    "beyond": (Leaf("kernel", (129, 130)),),
}

_OF_DIGESTS = {"standard", "corners", "large", "odd", "many", "long", "beyond"}
DRAWN = tuple(sorted(STRUCTURES.keys() - _OF_DIGESTS))
"""The trees of drawn cases; the others are of digests."""


def leaf_dtype(leaf: Leaf, dtype: str) -> np.dtype[Any]:
    """Return the NumPy dtype of a leaf in a case of ``dtype``."""
    return DTYPES[leaf.dtype or dtype]


def nest(paths: list[str], values: list[Any]) -> Any:
    """Return a tree of dicts with ``values`` at ``paths``."""
    tree: dict[str, Any] = {}
    for path, value in zip(paths, values, strict=True):
        node = tree
        *parents, name = path.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def at(tree: Any, path: str) -> Any:
    """Return the value at ``path`` in a tree of dicts."""
    for name in path.split("/"):
        tree = tree[name]
    return tree
