"""Norms and angles of trees of torch tensors, on their device; sharded tensors are one vector.

The lines of ``optstudy_core.geometry`` run here on torch's own operations, so the results have the
bits that NumPy and JAX give. They are 0-d float64 tensors on the device of the tensors, and
nothing waits for the device: a value may be recorded in every step.

Parameters sharded by ``torch.distributed.fsdp.fully_shard`` or otherwise (``DTensor``) are measured
as the whole: each process passes over its part, and the parts are joined by reductions of integers,
which are exact in any order. Replicated parameters count once. All processes have to call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from optstudy_core import geometry as core
from optstudy_core.arrays.bits import from_bits, size, to_bits
from optstudy_core.arrays.exact_sum import Vector
from optstudy_core.arrays.passes import Blockwise

from ._array import apply
from ._passes import IN_C, is_plain

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


def total(u: Any, *, exact: bool = True) -> torch.Tensor:
    """Return the sum of all entries of a tree, a float64 scalar.

    Args:
        u: a tensor, or dicts, lists and tuples of trees; real tensors of any shape.
        exact: independent of order, split, sharding and library; else a plain sum.

    Raises:
        TypeError: for complex tensors.

    >>> total([torch.tensor([1e12, 0.5]), torch.tensor(-1e12)]).item()
    0.5
    """
    return _run(core.vector_total, exact, u)


def norm(u: Any, *, exact: bool = True) -> torch.Tensor:
    """Return the Euclidean norm of a tree as one vector, a float64 scalar.

    Args and errors as for :func:`total`.

    >>> norm({"w": torch.tensor([3.0]), "b": torch.tensor(4.0)})
    tensor(5., dtype=torch.float64)
    """
    return _run(core.vector_norm, exact, u)


def dot(u: Any, v: Any, *, exact: bool = True) -> torch.Tensor:
    """Return the dot product of two trees of one structure, a float64 scalar.

    Args:
        u: as for :func:`total`.
        v: tree of the same structure and shapes; sharded where ``u`` is.
        exact: as for :func:`total`.

    Raises:
        TypeError: for complex tensors.
        ValueError: if structures or shapes differ.
    """
    return _run(core.vector_dot, exact, u, v)


def cosine(u: Any, v: Any, *, exact: bool = True) -> torch.Tensor:
    """Return the cosine of the angle between two trees, a float64 scalar; NaN if one is zero.

    Args and errors as for :func:`dot`.
    """
    return _run(core.vector_cosine, exact, u, v)


def chords(u: Any, v: Any, *, exact: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ‖û − v̂‖ and ‖û + v̂‖, from which the host makes the angle.

    Args and errors as for :func:`dot`.
    """
    between, across = _run(core.vector_chords, exact, u, v)
    return between, across


def angle(u: Any, v: Any, *, degrees: bool = False, exact: bool = True) -> float:
    """Return the angle between two trees, a number of the host (it waits for the device).

    Args and errors as for :func:`dot`; with ``degrees`` the angle is in degrees.

    >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), degrees=True)
    90.0
    """
    between, across = chords(u, v, exact=exact)
    return core.angle_from_chords(float(between), float(across), degrees=degrees)


def per_leaf(function: Callable[..., Any], *trees: Any, **options: Any) -> Any:
    """Apply :func:`norm`, :func:`dot`, :func:`cosine` or :func:`angle` leaf by leaf.

    Args:
        function: which of these functions.
        *trees: one or two, of the same structure and shapes.
        **options: its keywords, such as ``exact``.

    Returns:
        a tree like the first with a number or a scalar tensor for each leaf.
    """
    return core.per_leaf(function, *trees, **options)


@torch.no_grad()
def _run(function: Callable[..., Any], exact: bool, *trees: Any) -> Any:
    result = sum_of(function, core.leaves(*trees), exact)
    return tuple(map(_scalar, result)) if isinstance(result, tuple) else _scalar(result)


def _scalar(x: Any) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else torch.tensor(float(x), dtype=torch.float64)
