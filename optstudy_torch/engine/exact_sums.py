"""Exact sums over torch tensors, on their device: the core's lines on torch's own operations.

Sharded tensors (``DTensor``) are summed as the whole: each process passes over its part, and the
parts are joined by reductions of integers, which are exact in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from optstudy_core.arrays.bits import from_bits, size, to_bits
from optstudy_core.arrays.exact_sum import Vector
from optstudy_core.arrays.passes import Blockwise

from .exact_sums_in_c import IN_C, is_plain
from .rounding import apply

_LENGTH = {"cpu": 1 << 14}  # float64 numbers: blocks stay in a core's second cache
_DEVICE_LENGTH = 1 << 22  # bounds the memory (some 32 MiB a block), with few kernels


# What the core's lines need, rounded once.
_OPERATIONS = ("sqrt", "where", "isfinite", "maximum", "minimum", "ones_like")
_NAMESPACE = SimpleNamespace(int64=torch.int64, **{n: partial(apply, n) for n in _OPERATIONS})


class _Torch(Blockwise):
    xp = _NAMESPACE

    def groups(self, vectors: Sequence[Vector]) -> Iterable[tuple[Any, Iterator[Any]]]:
        rows: dict[Any, list[tuple[torch.Tensor, ...]]] = {}
        for leaves in zip(*vectors, strict=True):
            group, local = _local(leaves)
            rows.setdefault((local[0].device, group), []).append(local)
        for (device, group), local_rows in rows.items():
            length = _LENGTH.get(device.type, _DEVICE_LENGTH)
            yield group, self.blocks(local_rows, length)

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
        if x.numel() == 0:  # a process without a part
            return x.new_zeros(())
        dim = () if axis is None else axis
        if operation == "sum":
            return torch.sum(x, dim)
        return torch.amax(x, dim) if operation == "max" else torch.amin(x, dim)

    def stack(self, scalars: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([x.to(scalars[0].device) for x in scalars])

    def dot(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sum(x * y)  # a dot product of BLAS wakes its threads for every block

    def joined(self, group: Any, values: torch.Tensor, operation: str) -> torch.Tensor:
        if group is None:
            return values
        from torch.distributed.tensor import DTensor, Partial, Replicate

        mesh, sharded = group
        if operation == "max":
            # As integers (positive ones are in the order of their numbers, then NaN), because
            # a maximum of floats loses NaN in some communication libraries.
            values = to_bits(torch.where(values < 0, 0.0, values).abs())
        placements = [Partial(operation) if i in sharded else Replicate() for i in range(mesh.ndim)]
        whole = DTensor.from_local(values, mesh, placements, run_check=False).full_tensor()
        return from_bits(whole) if operation == "max" else whole


OPERATIONS = _Torch()
"""Passes of torch's operations, on any device."""


def sum_of(
    function: Callable[..., Any], vectors: Sequence[Vector], exact: bool = True, in_c: bool = True
) -> Any:
    """Return a sum over tensors, or several, as scalars of NumPy or of torch.

    Args:
        function: ``vector_…`` of the core's geometry.
        vectors: its arguments.
        exact: of the function.
        in_c: whether to pass over plain tensors on the CPU in C.
    """
    in_c = in_c and not torch.compiler.is_compiling()
    in_c = in_c and all(is_plain(x) for vector in vectors for x in vector)
    with np.errstate(all="ignore"):
        return function(IN_C if in_c else OPERATIONS, *vectors, exact=exact)


def _local(leaves: tuple[Any, ...]) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """Return where the sums of leaves are joined, and the parts that this process holds."""
    first = leaves[0]
    if not any(hasattr(x, "placements") for x in leaves):
        return None, tuple(x.detach() for x in leaves)
    from torch.distributed.tensor import Replicate

    for x in leaves:
        if not hasattr(x, "placements"):
            raise ValueError(
                f"trees differ: a sharded tensor and one of {type(x).__name__}; allowed are two "
                "sharded ones or two others"
            )
    mesh = first.device_mesh
    placements = [Replicate() if p.is_partial() else p for p in first.placements]
    sharded = tuple(i for i, p in enumerate(placements) if not p.is_replicate())
    return (mesh, sharded), tuple(
        x.detach().redistribute(mesh, placements).to_local() for x in leaves
    )
