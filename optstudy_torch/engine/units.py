"""Leaves that are computed as one flat array, and where the elements of a tensor lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
        room: where steps, or sums, are rounded to another dtype, in a step.
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
    room: torch.Tensor | None = None

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

    def prepare(
        self, body: Body, empty: Callable[[int], torch.Tensor]
    ) -> list[tuple[str, torch.Tensor]]:
        """Make memory for what a body puts out; return copies of what it moves.

        Args:
            body: that will be run.
            empty: returns memory for so many elements of the working dtype.
        """
        moved = [
            (o.target, empty(self.size).copy_(self.arrays[o.source.name].reshape(-1)))
            for o in body.moved
        ]
        for output in body.outputs:
            if output.target not in self.arrays and not (output.target == "step" and self.in_place):
                self.arrays[output.target] = empty(self.size)
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
    """Return whether the numbers lie in that order: in a negative view there are others."""
    return not x.is_neg() and x.permute(order).is_contiguous()


_PLAIN = tuple(range(64))  # more dimensions than a tensor may have


def flat(x: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Return ``x`` as a dense vector in that order, in the same memory where that is possible.

    It is no view for torch, which would compile a kernel for every kind of base.
    """
    return x.resolve_neg().permute(order).contiguous().view(-1).data


def unflat(x: torch.Tensor, like: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Return a vector in that order as a view with the shape of ``like``."""
    if order == _PLAIN[: len(order)]:
        return x.view(like.shape)
    shape = [like.shape[d] for d in order]
    back = sorted(range(len(order)), key=order.__getitem__)
    return x.view(shape).permute(back)


def like_memory(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Return ``x`` in memory that is laid out like that of ``p``."""
    order = memory_order(p)
    return unflat(x.resolve_neg().permute(order).contiguous().view(-1), p, order)


def add(
    p: torch.Tensor, step: torch.Tensor, step_dtype: str | None, room: torch.Tensor | None = None
) -> None:
    """Add a step: rounded to the parameter's dtype first, or (float32) only the sum is.

    Args:
        p: the parameter.
        step: to add.
        step_dtype: of the sum, if it is not the parameter's.
        room: memory for what is rounded, like ``p`` and of the dtype of :func:`rounded_in`; without
            it, new memory.
    """
    if p.dtype == step.dtype:
        p.add_(step)
        return
    if room is None:
        room = torch.empty_like(p, dtype=rounded_in(p, step.dtype, step_dtype))
    if step_dtype is None:
        p.add_(room.copy_(step))
    else:
        total = room.copy_(p.resolve_neg()).add_(step)
        # torch's copies between float16 and float32 forget the sign of a negative view.
        p.copy_(total.to(p.dtype) if p.is_neg() else total)


def rounded_in(p: torch.Tensor, dtype: torch.dtype, step_dtype: str | None) -> torch.dtype:
    """Return in which dtype a step, or its sum with the parameter, is before it is written."""
    return p.dtype if step_dtype is None else dtype


def rooms_for(
    params: Iterable[torch.Tensor], dtype: torch.dtype, step_dtype: str | None
) -> list[torch.Tensor | None]:
    """Return the room that :func:`add` needs for steps of a dtype, taken before it is called."""
    return [
        None if p.dtype == dtype else torch.empty_like(p, dtype=rounded_in(p, dtype, step_dtype))
        for p in params
    ]


class Room:
    """Memory that is taken once and given in parts, again and again.

    Args:
        length: bytes.
        device: where it is.
    """

    def __init__(self, length: int, device: torch.device) -> None:
        self._bytes = torch.empty(length, dtype=torch.uint8, device=device)
        self._used = 0

    def clear(self) -> None:
        """Give all of it again."""
        self._used = 0

    def __call__(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Return memory for so many elements."""
        begin = self._used
        end = begin + size * dtype.itemsize
        self._used = -(-end // _ALIGNED) * _ALIGNED
        return self._bytes[begin:end].view(dtype).data

    @staticmethod
    def length(size: int, arrays: int, dtype: torch.dtype) -> int:
        """Return how many bytes a number of arrays of so many elements take."""
        return arrays * -(-size * dtype.itemsize // _ALIGNED) * _ALIGNED


_ALIGNED = 64
"""Bytes: what is given begins at a multiple, as memory of its own does."""


def on_device(device: torch.device, array: np.ndarray) -> torch.Tensor:
    """Return a tensor of an array's elements, without waiting for the device."""
    x = torch.from_numpy(array)
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)
