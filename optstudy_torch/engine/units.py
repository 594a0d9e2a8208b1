"""Leaves that are computed as one flat array, and where the elements of a tensor lie in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .program import Body


@dataclass
class Unit:
    """Leaves that are computed as one flat array.

    Attributes:
        first: number of the first leaf in its stage.
        params: the leaves.
        sizes: how many numbers each has.
        states: flat fields of the state by name, the leaves side by side.
        order: of a leaf alone: its dimensions from the slowest to the fastest in memory.
        in_place: of a leaf alone: the step is added in the parameter's own memory.
        is_plain: of a leaf alone: its dimensions are in that order.
        arrays: what the machine computes on: ``p``, ``g``, ``s0``, … and what it makes of them.
        views: of several leaves: parts of ``g``, ``p`` and ``step`` with the shapes of the leaves.
    """

    first: int
    params: list[torch.Tensor]
    sizes: list[int]
    states: dict[str, torch.Tensor]
    order: tuple[int, ...] = ()
    in_place: bool = False
    is_plain: bool = field(init=False)
    arrays: dict[str, torch.Tensor] = field(default_factory=dict)
    views: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.is_plain = self.order == tuple(range(len(self.order)))

    @property
    def leaves(self) -> slice:
        """Their numbers in the stage."""
        return slice(self.first, self.first + len(self.params))

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return sum(self.sizes)

    @property
    def is_one(self) -> bool:
        """Whether it is one leaf in memory of its own."""
        return not self.views

    def parts(self, name: str) -> Sequence[torch.Tensor]:
        """Return the flat array of that name, leaf by leaf."""
        x = self.arrays[name]
        return [x] if self.is_one else x.split(self.sizes)

    def prepare(self, body: Body, dtype: torch.dtype) -> list[tuple[str, torch.Tensor]]:
        """Make memory for what a body puts out; return copies of what it moves."""
        moved = [
            (o.target, self.arrays[o.source.name].to(dtype, copy=True).reshape(-1))
            for o in body.moved
        ]
        for output in body.outputs:
            if output.target not in self.arrays and not (output.target == "step" and self.in_place):
                self.arrays[output.target] = torch.empty_like(self.arrays["g"], dtype=dtype)
        return moved

    def move(self, moved: Iterable[tuple[str, torch.Tensor]], step_dtype: str | None) -> None:
        """Write copies of inputs where they go."""
        for target, value in moved:
            if target == "step" and self.in_place:
                add(self.arrays["p"], value, step_dtype)
            elif target in self.arrays:
                self.arrays[target].copy_(value)
            else:
                self.arrays[target] = value


# Memory.


def memory_order(p: torch.Tensor) -> tuple[int, ...]:
    """Return the dimensions of ``p`` from the slowest to the fastest in memory."""
    return tuple(sorted(range(p.ndim), key=lambda d: (-p.stride()[d], d)))


def is_flat(x: torch.Tensor, order: tuple[int, ...]) -> bool:
    """Tell whether the numbers lie in that order: in a negative view there are others."""
    return not x.is_neg() and x.permute(order).is_contiguous()


def flat(x: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Return ``x`` as a dense vector in that order, in the same memory where that is possible.

    It is no view for torch, which would compile a kernel for every kind of base.
    """
    return x.resolve_neg().permute(order).contiguous().view(-1).data


def unflat(x: torch.Tensor, like: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Return a vector in that order as a view with the shape of ``like``."""
    shape = [like.shape[d] for d in order]
    back = sorted(range(len(order)), key=order.__getitem__)
    return x.view(shape).permute(back)


def like_memory(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Return ``x`` in memory that is laid out like that of ``p``."""
    order = memory_order(p)
    return unflat(x.resolve_neg().permute(order).contiguous().view(-1), p, order)


def add(p: torch.Tensor, step: torch.Tensor, step_dtype: str | None) -> None:
    """Add a step: rounded to the parameter's dtype first, or (float32) only the sum is."""
    if step_dtype is None or p.dtype == torch.float64:
        p.add_(step.to(p.dtype))
    else:
        p.copy_(p.to(step.dtype) + step)


def on_device(device: torch.device, array: np.ndarray) -> torch.Tensor:
    """Return a tensor of an array's elements, without waiting for the device."""
    x = torch.from_numpy(array)
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)
