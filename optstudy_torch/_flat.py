"""Flat parameters, which have no information about the whole tensor.

A ``DTensor`` has this information. The flat parameters of FSDP1 and DeepSpeed do not: norms would
be norms of parts, and there are no rows and columns. Elementwise rules still work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optstudy_core import Algorithm

from ._tensors import is_shared

INSTEAD = "allowed are whole tensors, or DTensors as those of fully_shard (FSDP2)"
"""The end of messages."""


def has_matrices(params: Sequence[Any]) -> bool:
    """Return whether a parameter has rows and columns."""
    return any(p.ndim > 1 for p in params)


def check_flat(params: Sequence[Any], had_matrices: bool, algorithm: Algorithm) -> None:
    """Refuse flat parameters for a rule with norms, or one of rows and columns.

    Args:
        params: the parameters of a group.
        had_matrices: whether a parameter had rows and columns when the group was made.
        algorithm: the algorithm of the group.

    Raises:
        ValueError: if a parameter is flat; the message names the algorithm.
    """
    if any(getattr(p, "_fsdp_flattened", False) for p in params):
        whose = "flat parameters of FSDP1"
    elif had_matrices and not has_matrices(params) and not any(map(is_shared, params)):
        whose = "flat parameters instead of matrices, as DeepSpeed makes them"
    else:
        return
    if algorithm.leafwise or algorithm.has_sums:
        raise ValueError(f"{algorithm.name} with {whose}: {INSTEAD}")
