"""What is known of trees and of what operations make of them: shape, dtype, where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from optstudy_core.arrays.leaves import Leaves, Scalars

from .alike import Alike, address
from .host_numbers import COMPARISONS, LOGICAL
from .loops_in_c import BOOL, KINDS

_ARITHMETIC = frozenset(
    {"add", "subtract", "multiply", "divide", "negative", "abs", "sign", "sqrt"}
    | {"maximum", "minimum"}
)


def kind_of_tree(tree: Leaves) -> Alike | None:
    """Return what is known of a tree, looked at once; None if its leaves are not alike."""
    if tree.kept is None:
        tree.kept = kind_of(tree) or False
    return tree.kept or None


def kind_of(tree: Leaves) -> Alike | None:
    """Look at a tree."""
    vector = tree.vector
    if vector is not None:
        vector = np.ascontiguousarray(vector)
        return Alike.of_rows(vector) if vector.dtype in KINDS else None
    values = tree.values
    if not values or not all(type(x) is np.ndarray for x in values):
        return None
    shape, dtype = values[0].shape, values[0].dtype
    if dtype not in KINDS or any(x.shape != shape or x.dtype != dtype for x in values):
        return None
    arrays = [np.ascontiguousarray(x) for x in values]
    addresses = [address(x) for x in arrays]
    return Alike(len(values), shape, dtype, np.array(addresses, np.uintp), arrays)


def shape_of_first(tree: Leaves) -> tuple[int, ...]:
    """Return the shape of the first leaf."""
    if isinstance(tree, Scalars):
        return ()
    if tree.kept:
        kept: Alike = tree.kept
        return kept.shape
    return next((x.shape for x in tree.values), ())


def shape_of_result(kinds: Sequence[Alike]) -> tuple[int, ...] | None:
    """Return the shape of what is made of leaves of these kinds, of which one is no scalar."""
    shapes = {kind.shape for kind in kinds} - {()}
    if len(shapes) == 1:
        return shapes.pop()
    try:
        return np.broadcast_shapes(*shapes) if len(set(map(len, shapes))) == 1 else None
    except ValueError:  # NumPy says so
        return None


def dtype_of_result(operation: str, args: Sequence[Any], kinds: Sequence[Alike]) -> np.dtype | None:
    """Return the dtype of the result of an operation on one dtype; None of one on others."""
    dtypes = [kind.dtype for kind in kinds]
    chooses = operation == "where"
    if chooses and not (isinstance(args[0], Leaves) and dtypes.pop(0) == BOOL):
        return None
    if len(set(dtypes)) != 1:
        return None
    dtype = dtypes[0]
    if operation in LOGICAL:
        return dtype if dtype == BOOL and len(kinds) == len(args) else None
    if dtype == BOOL:
        return None
    if operation in COMPARISONS:
        return BOOL
    return dtype if chooses or operation in _ARITHMETIC else None
