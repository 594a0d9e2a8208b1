"""Steps that are computed and added to the parameters, where these lie, in one loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from optstudy_core.arrays.leaves import Leaves

from .alike import TORCH, Alike
from .deferred import Deferred, Joined, Written
from .trees import kind_of_tree


def take_steps(params: Sequence[torch.Tensor], step: Leaves) -> set[int]:
    """Add what is not computed yet to parameters, where they lie; each sum is rounded once.

    Args:
        params: of one device, the CPU.
        step: for each of them.

    Returns:
        the indices of the parameters that took their step.
    """
    if isinstance(step, Deferred):
        parts: Any = [(step, range(len(params)))]
    else:
        parts = zip(step.trees, step.parts, strict=True) if isinstance(step, Joined) else ()
    sums: list[tuple[Deferred, Alike, Sequence[int]]] = []
    read: list[tuple[Alike, Alike | None]] = []
    for tree, numbers in parts:
        if not (isinstance(tree, Deferred) and tree.waits):
            continue
        kept, own = tree.kept, [params[i] for i in numbers]
        kind = TORCH[kept.dtype], kept.shape
        if all((x.dtype, x.shape) == kind and x.is_contiguous() and not x.is_neg() for x in own):
            before = Leaves((x.detach().numpy() for x in own), tree.backend)
            to = kind_of_tree(before)
            assert to is not None
            sums.append((Deferred("add", (before, tree), kept, tree.backend), to, numbers))
        else:
            to = None
        read += [(x, to) for x in Written(tree).trees]
    if not _are_apart([to for _, to, _ in sums], read):
        return set()
    taken: set[int] = set()
    for tree, to, numbers in sums:
        torch.autograd.graph.increment_version([params[i] for i in numbers])
        if tree.looped(to):
            taken.update(numbers)
    return taken


def _are_apart(written: Sequence[Alike], read: Sequence[tuple[Alike, Alike | None]]) -> bool:
    """Tell whether nothing is written that is read later, or written twice.

    Args:
        written: one after another.
        read: with what is written meanwhile: each number there after the one in its place is read.
    """
    if not written:
        return True
    begins = np.concatenate([x.addresses for x in written])
    ends = begins + np.concatenate([np.full(len(x), _bytes(x), np.uintp) for x in written])
    order = np.argsort(begins)
    begins, ends = begins[order], ends[order]
    if (begins[1:] < ends[:-1]).any():
        return False
    for x, to in read:
        assert x.addresses is not None
        first = np.searchsorted(ends, x.addresses, "right")
        met = np.searchsorted(begins, x.addresses + np.uintp(_bytes(x))) > first
        if to is not None and x.shape == to.shape:
            met &= x.addresses != to.addresses
        if met.any():
            return False
    return True


def _bytes(kind: Alike) -> int:
    """Return how long the memory of each leaf is."""
    return kind.each * kind.dtype.itemsize
