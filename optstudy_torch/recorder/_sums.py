"""Sums within a step, computed on the device without waiting.

One pass over the memory, in blocks, computes every reduction of every layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Final, NamedTuple

import numpy as np
import torch

from optstudy_core import instruments as core

from ._copies import Column, Vectors, after, flat, read, size_of

BLOCK: Final = {"cpu": 1 << 19, "cuda": 1 << 22}
"""The number of elements summed at a time: as float64 in the cache of a CPU, or to fill a GPU."""

ROW: Final = 256
"""The number of float32 products that are summed in float32, in large layers on a CPU."""

LARGE: Final = 1 << 15
"""The smallest number of elements of a large layer."""


class Layout:
    """The layers and reductions of the sums of blocks.

    Attributes:
        places: for each number of each device, the layer and the reduction; int arrays (n, 2).
        present: for each vector, the layers that have it.
        sizes: for each vector, the number of elements of each layer.
        layers: the number of layers.
    """

    def __init__(self, places: list[np.ndarray], vectors: Vectors, layers: int) -> None:
        self.places, self.layers = places, layers
        self.present = {u: np.array([x is not None for x in c]) for u, c in vectors.items()}
        self.sizes = {u: np.array([size_of(x) for x in c]) for u, c in vectors.items()}

    def equals(self, other: Layout) -> bool:
        """Return whether both layouts are equal."""
        return (
            self.layers == other.layers
            and len(self.places) == len(other.places)
            and all(map(np.array_equal, self.places, other.places))
            and self.present.keys() == other.present.keys()
            and all(np.array_equal(x, other.present[u]) for u, x in self.present.items())
            and all(np.array_equal(x, other.sizes[u]) for u, x in self.sizes.items())
        )

    @np.errstate(all="ignore")
    def join(
        self, reductions: Sequence[core.Reduction], values: Sequence[np.ndarray], steps: int
    ) -> dict[core.Reduction, np.ndarray]:
        """Return each reduction as an array (layers, steps).

        Args:
            reductions: the reductions.
            values: for each device, the numbers of the steps, an array (numbers, steps).
            steps: the number of steps.
        """
        joined = {}
        for k, reduction in enumerate(reductions):
            there = np.logical_and.reduce([self.present[u] for u in reduction.vectors])
            column = np.full((self.layers, steps), math.nan)
            column[there] = core.EMPTY.get(reduction.kind, math.nan)
            together, neutral = {
                "least": (np.minimum, math.inf),
                "greatest": (np.maximum, -math.inf),
            }.get(reduction.kind, (np.add, 0.0))
            for places, numbers in zip(self.places, values, strict=True):
                own = places[:, 1] == k
                column[places[own, 0]] = neutral  # a layer is on one device
                together.at(column, places[own, 0], numbers[own])
            joined[reduction] = column
        return joined


class Blocks(NamedTuple):
    """Sums of blocks of elements: a float64 vector on each device, and the layout."""

    tensors: list[torch.Tensor]
    layout: Layout


Scratch = dict[tuple[torch.device, torch.dtype, int], torch.Tensor]


def sum_blocks(reductions: Sequence[core.Reduction], vectors: Vectors, scratch: Scratch) -> Blocks:
    """Return reductions of every block of every layer, all from one pass over the memory.

    Args:
        reductions: the reductions.
        vectors: tensors of each layer in any real dtype and layout; ``None`` for a missing vector.
        scratch: memory for blocks, reused by the next call.
    """
    numbers: dict[torch.device, list[torch.Tensor]] = {}
    places: dict[torch.device, list[tuple[int, int]]] = {}
    count = max((len(column) for column in vectors.values()), default=0)
    ordered = sorted(enumerate(reductions), key=lambda pair: pair[1].vectors)  # frees each early
    for i in range(count):
        mine = {u: flat(column[i]) for u, column in vectors.items() if column[i] is not None}
        usable = [(k, r) for k, r in ordered if all(u in mine for u in r.vectors)]
        if not usable:
            continue
        device = mine[usable[0][1].vectors[0]].device
        own, where = numbers.setdefault(device, []), places.setdefault(device, [])
        for alone in (True, False):  # the gradient shares no memory with the others
            group = [
                (k, r)
                for k, r in usable
                if (r.vectors[0] == "grad") == alone and _is_for_rows(r, mine)
            ]
            if not group:
                continue
            found = _dots_in_rows([r for _, r in group], mine, scratch)
            mine |= {u: after(mine[u]) for _, r in group for u in r.vectors}
            if found is not None:
                own += found
                where += [(i, k) for k, _ in group]
                usable = [pair for pair in usable if pair not in group]
        for k, number in _wide_sums(usable, mine, scratch):
            own.append(number)
            where.append((i, k))
    layout = Layout([np.array(p).reshape(-1, 2) for p in places.values()], vectors, count)
    return Blocks([torch.stack(own) for own in numbers.values() if own], layout)


def _wide_sums(
    reductions: Sequence[tuple[int, core.Reduction]],
    vectors: Mapping[str, Column],
    scratch: Scratch,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the reductions of each block of a layer, in float64, with their numbers."""
    used = dict.fromkeys(u for _, reduction in reductions for u in reduction.vectors)
    last = {u: n for n, (_, reduction) in enumerate(reductions) for u in reduction.vectors}
    if not used:
        return
    device = vectors[next(iter(used))].device
    for block in _blocks(vectors, used, BLOCK.get(device.type, BLOCK["cuda"])):
        wide: dict[str, torch.Tensor] = {}
        free = list(range(len(used)))
        slots: dict[str, int] = {}
        for n, (k, reduction) in enumerate(reductions):
            if not block.keys() >= {*reduction.vectors}:
                continue
            for u in reduction.vectors:
                if u not in wide:
                    slots[u] = free.pop(0)
                    wide[u] = _wide(read(block[u]), slots[u], scratch)
            function = _TORCH.get(reduction.kind, core.REDUCE[reduction.kind])
            yield k, function(*(wide[u] for u in reduction.vectors))
            # Reuse the memory for the next vector while it is in the cache.
            free[:0] = [slots.pop(u) for u in {*reduction.vectors} & slots.keys() if last[u] == n]


_TORCH: Final[Mapping[str, Callable[..., torch.Tensor]]] = {"dot": torch.dot}  # reads once


def _wide(part: torch.Tensor, slot: int, scratch: Scratch) -> torch.Tensor:
    if part.dtype == torch.float64:
        return part
    return _memory(part, torch.float64, slot, scratch).copy_(part)


def _memory(like: torch.Tensor, dtype: torch.dtype, slot: int, scratch: Scratch) -> torch.Tensor:
    key, size = (like.device, dtype, slot), like.numel()
    kept = scratch.get(key)
    if kept is None or kept.numel() < size:
        kept = scratch[key] = torch.empty(size, dtype=dtype, device=like.device)
    return kept if kept.numel() == size else kept[:size]


def _blocks(
    vectors: Mapping[str, Column], names: Iterable[str], length: int
) -> Iterator[dict[str, Column]]:
    """Yield the blocks to sum: a part of each vector, without vectors that have ended."""
    split = {u: vectors[u].split(length) for u in names if vectors[u].numel() > 0}
    for parts in zip_longest(*split.values()):  # the values of a sparse gradient are fewer
        yield {u: part for u, part in zip(split, parts, strict=True) if part is not None}


# Dot products of large float32 layers on a CPU. Conversion to float64 takes longer than summation,
# so short rows are summed in float32, and the sums of rows in float64.


def _is_for_rows(reduction: core.Reduction, vectors: Mapping[str, Column]) -> bool:
    return reduction.kind == "dot" and all(
        x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() >= LARGE
        for x in (vectors[u] for u in reduction.vectors)
    )


def _dots_in_rows(
    reductions: Sequence[core.Reduction], vectors: Mapping[str, Column], scratch: Scratch
) -> list[torch.Tensor] | None:
    """Return dot products of a layer, with an error of about 1e-6·‖x‖·‖y‖ at most.

    The result is ``None`` if squares overflow float32, or are so small that squares below 2⁻¹²⁶ may
    be more than 2⁻²³ of the sum. Reading a number on the CPU does not wait.
    """
    used = dict.fromkeys(u for reduction in reductions for u in reduction.vectors)
    size = vectors[reductions[0].vectors[0]].numel()
    sums = torch.empty(len(reductions), -(-size // ROW), dtype=torch.float32)
    length = BLOCK["cpu"] if len(used) > 1 else -(-size // ROW) * ROW  # one is read once anyway
    outs = sums.split(length // ROW, 1)
    for block, out in zip(_blocks(vectors, used, length), outs, strict=True):
        parts: dict[str, torch.Tensor] = {}
        for reduction, own in zip(reductions, out.unbind(), strict=True):
            for u in reduction.vectors:
                if u not in parts:
                    parts[u] = read(block[u])
            u, v = reduction.vectors
            _row_sums(parts[u], parts[v], own, scratch)
    totals = []
    for reduction, row in zip(reductions, sums.to(torch.float64), strict=True):
        squared = len(set(reduction.vectors)) == 1
        totals.append((row * row if squared else row).sum())
        if squared and not 2.0**-103 * size <= totals[-1].item() < math.inf:
            return None
    return totals


def _row_sums(x: torch.Tensor, y: torch.Tensor, out: torch.Tensor, scratch: Scratch) -> None:
    """Write the dot product of each row; for a vector with itself, the root, which is the norm."""
    squared = x is y
    products = x if squared else torch.mul(x, y, out=_memory(x, x.dtype, 0, scratch))
    size = x.numel()
    whole = size // ROW * ROW
    if whole == size:
        pairs = [(products.view(-1, ROW), out)]
    else:  # a shorter row at the end of the layer
        pairs = [
            (products[:whole].view(-1, ROW), out[:-1]),
            (products[whole:].view(1, -1), out[-1:]),
        ]
    for rows, own in pairs:
        if squared:
            torch.linalg.vector_norm(rows, dim=1, out=own)
        else:
            torch.sum(rows, 1, out=own)
