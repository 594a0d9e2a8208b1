"""Exact sums over torch tensors on their device: the formulas of the core with torch operations.

A tensor that is sharded over processes (``DTensor``, or a :class:`Share`) is summed as a whole:
each process passes over its part, and integer reductions, which are exact in any order, join the
parts. Many sums are joined at once (:func:`sums_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from optstudy_core.arrays.bits import size
from optstudy_core.arrays.exact_sum import Vector
from optstudy_core.arrays.passes import Blockwise

from .exact_sums_in_c import IN_C, is_plain
from .exact_sums_in_triton import IN_TRITON, on_gpu
from .joined_sums import Function, Job, Share, joined_sums, share_of
from .rounding import NAMESPACE

_LENGTH = {"cpu": 1 << 14}  # float64 elements: blocks fit the second cache of a core
_DEVICE_LENGTH = 1 << 22  # limits the memory (some 32 MiB a block), with few kernels


class _Torch(Blockwise):
    xp = NAMESPACE

    def groups(self, vectors: Sequence[Vector]) -> Iterable[tuple[Any, Iterator[Any]]]:
        rows: dict[torch.device, list[tuple[torch.Tensor, ...]]] = {}
        for leaves in zip(*vectors, strict=True):
            rows.setdefault(leaves[0].device, []).append(tuple(x.detach() for x in leaves))
        for device, own in rows.items():
            yield None, self.blocks(own, _LENGTH.get(device.type, _DEVICE_LENGTH))

    def cut(
        self, leaves: tuple[torch.Tensor, ...], length: int
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        flat = [x.reshape(-1) for x in leaves]
        for i in range(0, size(leaves[0]), length):
            yield tuple(x[i : i + length].to(torch.float64) for x in flat)

    def gather(self, rows: Sequence[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        columns = zip(*rows, strict=True)
        return tuple(
            torch.cat([x.reshape(-1).to(torch.float64) for x in column]) for column in columns
        )

    def reduce(self, operation: str, x: torch.Tensor, axis: int | None = None) -> torch.Tensor:
        dim = () if axis is None else axis
        if operation == "sum":
            return torch.sum(x, dim)
        return torch.amax(x, dim) if operation == "max" else torch.amin(x, dim)

    def stack(self, scalars: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([x.to(scalars[0].device) for x in scalars])

    def dot(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sum(x * y)  # BLAS would wake its threads for every block


OPERATIONS = _Torch()
"""Passes with operations of torch, on any device."""


def sum_of(
    function: Callable[..., Any],
    vectors: Sequence[Vector],
    exact: bool = True,
    compiled: bool = True,
) -> Any:
    """Return one or several sums over tensors, as scalars of NumPy or of torch.

    Args:
        function: ``vector_…`` of the geometry of the core.
        vectors: the arguments of the function; a leaf may be a ``DTensor`` or a :class:`Share`.
        exact: the argument ``exact`` of the function.
        compiled: whether to pass over plain tensors in C on the CPU, and in kernels on a GPU.
    """
    return sums_of([(function, vectors)], exact, compiled)[0]


def sums_of(
    jobs: Sequence[tuple[Function, Sequence[Vector]]], exact: bool = True, compiled: bool = True
) -> list[Any]:
    """Return the results of :func:`sum_of` for several functions and their vectors.

    Processes communicate once for all functions.
    """
    compiled = compiled and not torch.compiler.is_compiling()
    found: list[Any] = [None] * len(jobs)
    shared: dict[int, Job] = {}
    with np.errstate(all="ignore"):
        for i, (function, vectors) in enumerate(jobs):
            rows = [share_of(row) for row in zip(*vectors, strict=True)]
            plain = [x.tensor if isinstance(x, Share) else x for row in rows for x in row]
            in_memory = all(is_plain(x) for x in plain if size(x))
            library: Any = OPERATIONS
            if compiled and in_memory:
                library = IN_C
            elif compiled and on_gpu(plain):
                library = IN_TRITON
            if any(isinstance(row[0], Share) for row in rows):
                columns = [list(column) for column in zip(*rows, strict=True)]
                shared[i] = Job(function, columns, exact, library)
            else:
                found[i] = function(library, *vectors, exact=exact)
        for i, value in zip(shared, joined_sums(list(shared.values())), strict=True):
            found[i] = value
    return found
