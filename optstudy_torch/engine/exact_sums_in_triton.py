"""Passes of exact sums over leaves on a GPU, one kernel for the leaves of each size.

As in C (:mod:`optstudy_torch.engine.exact_sums_in_c`), a pass reduces integers, in any order: sums
of bits modulo 2⁶⁴, and the largest bits of x and of −x.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from optstudy_core.arrays.bits import size
from optstudy_core.arrays.exact_sum import Library, Parts, Terms, Vector, product
from optstudy_core.arrays.leaves import Reduction
from optstudy_core.arrays.passes import HOST

from .alike import Alike
from .rounding import NAMESPACE
from .source import INFIX
from .sum_lines import Lines, products_of
from .triton_source import BLOCK, LANGUAGE, has_triton, kernel_of, start
from .units import on_device

_TURNS = 16
"""Number of blocks for each instance."""


class InTriton(Library):
    """Sums over tensors on one GPU; scalars are 0-d tensors on the GPU."""

    xp = NAMESPACE

    def largest(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        found = torch.cat(self._found(products_of(terms), vectors, True)).amax(0)
        return _pairs(found.view(torch.float64).unbind())

    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        del after  # kernels of a stream run one after another
        return list(torch.cat(self._found(parts, vectors, False)).sum(0).unbind())

    def plain(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        rows = zip(*vectors, strict=True)
        made = [[torch.sum(product(x)) for x in terms(*map(_wide, row))] for row in rows]
        return [torch.stack(column).sum() for column in zip(*made, strict=True)]

    def _found(
        self, sources: Callable[..., Iterator[Any]], vectors: Sequence[Vector], extremes: bool
    ) -> list[torch.Tensor]:
        """Return the results of a pass over the leaves of each size and dtype."""
        alike: dict[Any, list[tuple[Any, ...]]] = {}
        for row in zip(*vectors, strict=True):
            flat = tuple(x.detach().resolve_neg().reshape(-1) for x in row)
            alike.setdefault(tuple((x.shape, x.dtype) for x in flat), []).append(flat)
        return [
            _passed(
                sources,
                [
                    Alike(tuple(shape), dtype, column)
                    for (shape, dtype), column in zip(kind, zip(*rows, strict=True), strict=True)
                ],
                extremes,
            )
            for kind, rows in alike.items()
        ]


class _Each(InTriton):
    """A separate sum for each leaf: a scalar is a tensor with one element for each leaf."""

    def largest(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        found = _passed(products_of(terms), vectors, True).view(torch.float64)
        return _pairs(found.unbind(1))

    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        del after
        return list(_passed(parts, vectors, False).unbind(1))

    def count(self, vector: Vector) -> int:
        return vector.each  # type: ignore[attr-defined]


IN_TRITON = InTriton()
_EACH = _Each()


def on_gpu(tensors: Sequence[torch.Tensor]) -> bool:
    """Return whether the tensors are plain and on one GPU, so that kernels can sum them."""
    plain = {type(x) for x in tensors} <= {torch.Tensor, torch.nn.Parameter}
    devices = {x.device for x in tensors}
    return plain and len(devices) == 1 and devices.pop().type == "cuda" and has_triton()


def each_sum(function: Reduction, vectors: Sequence[Alike]) -> torch.Tensor:
    """Return the float64 scalar of each leaf.

    Args:
        function: a function of :mod:`optstudy_core.reductions`.
        vectors: for each tree, its leaves, not empty.
    """
    found: torch.Tensor = function(_EACH, *vectors, exact=True)
    return found


def scalars_of(function: Reduction, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Return a float64 scalar for each leaf.

    Args:
        function: a function of :mod:`optstudy_core.reductions`.
        rows: for each leaf, its tensor in each of the trees.
    """
    alike: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        alike.setdefault((size(row[0]), *(x.dtype for x in row)), []).append(i)
    found: dict[int, Any] = {}
    for (each, *_), numbers in alike.items():
        columns = list(zip(*(rows[i] for i in numbers), strict=True))
        if each:
            vectors = [Alike((each,), x[0].dtype, [y.reshape(-1) for y in x]) for x in columns]
            found |= zip(numbers, each_sum(function, vectors).unbind(), strict=True)
        else:
            found |= dict.fromkeys(numbers, function(HOST, *([] for _ in columns), exact=True))
    return [found[i] for i in range(len(rows))]


def _pairs(scalars: Sequence[torch.Tensor]) -> list[Any]:
    numbers = iter(scalars)
    return list(zip(numbers, numbers, strict=True))  # pairs of successive elements


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.detach().reshape(-1).double()


def _passed(
    sources: Callable[..., Iterator[Any]], vectors: Sequence[Any], extremes: bool
) -> torch.Tensor:
    """Return the results of a pass: int64, a row for each leaf."""
    lines = Lines()
    results = lines.results(sources, len(vectors))
    if extremes:
        results = tuple(number for x in results for number in (x, f"-{x}"))
    first = vectors[0]
    device, count, each = first[0].device, len(first), first.each
    kinds = tuple(x.dtype for x in vectors)
    kernel = _kernel(tuple(lines.lines), len(lines.numbers), results, kinds, extremes)
    parts = -(-each // (BLOCK * _TURNS))
    table = on_device(device, np.array([x.addresses for x in vectors]).astype(np.int64))
    rows = [torch.as_tensor(x, dtype=torch.float64, device=device) for x in lines.numbers]
    c = torch.stack([x.expand(count) for x in rows]) if rows else table
    found = torch.empty((count, parts, len(results)), dtype=torch.int64, device=device)
    start(kernel, count * parts, device, table, count, parts, each, c, found)
    return found.amax(1) if extremes else found.sum(1)


@functools.lru_cache(512)
def _kernel(
    lines: Sequence[tuple[str, str, str]],
    numbers: int,
    results: Sequence[str],
    kinds: Sequence[torch.dtype],
    extremes: bool,
) -> Any:
    """Return the kernel of a pass."""
    text = [
        "instance = tl.program_id(0)",
        "leaf = instance // parts",
        f"begin = (instance % parts).to(tl.int64) * (BLOCK * {_TURNS})",
    ]
    text += [f"c{i} = tl.load(c + {i} * leaves + leaf)" for i in range(numbers)]
    for i, kind in enumerate(kinds):
        where = f"tl.load(table + {i} * leaves + leaf)"
        text.append(f"to_x{i} = {where}.to(tl.pointer_type({LANGUAGE[kind]}))")
    text += [f"f{i} = tl.zeros([BLOCK], tl.int64)" for i in range(len(results))]
    body = ["at = begin + turn * BLOCK + tl.arange(0, BLOCK)", "inside = at < size"]
    body += [
        f"x{i} = tl.load(to_x{i} + at, mask=inside, other=0).to(tl.float64)"
        for i in range(len(kinds))
    ]
    body += [f"t{i} = {INFIX[name].format(*args)}" for i, (name, *args) in enumerate(lines)]
    for i, x in enumerate(results):
        bits = f"tl.where(inside, ({x}).to(tl.int64, bitcast=True), 0)"
        body.append(f"f{i} = tl.maximum(f{i}, {bits})" if extremes else f"f{i} = f{i} + {bits}")
    text += [f"for turn in range({_TURNS}):", *(f"    {line}" for line in body)]
    over = "tl.max" if extremes else "tl.sum"
    text += [
        f"tl.store(found + instance * {len(results)} + {i}, {over}(f{i}, axis=0))"
        for i in range(len(results))
    ]
    arguments = ["table", "leaves", "parts", "size", "c", "found", "BLOCK: tl.constexpr"]
    return kernel_of("passed", arguments, text)
