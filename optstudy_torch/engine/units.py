"""Leaves that are computed as one flat array, and the memory order of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .phases import Body


@dataclass
class Unit:
    """Leaves that are computed as one flat array.

    Attributes:
        first: the number of the first leaf in the stage.
        params: the leaves.
        sizes: the number of elements of each leaf.
        states: flat fields of the state by name, with the leaves concatenated.
        order: for one leaf: its dimensions from the slowest to the fastest in memory.
        in_place: for one leaf: whether the step is added in the memory of the parameter.
        is_plain: for one leaf: whether its dimensions already have this order.
        arrays: the arrays of the machine: ``p``, ``g``, ``s0``, … and results.
        views: for several leaves: parts of ``g``, ``p`` and ``step`` with the shapes of the leaves.
        room: memory in which a step or a sum is rounded to another dtype.
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
        """The numbers of the leaves in the stage."""
        return slice(self.first, self.first + len(self.params))

    @property
    def size(self) -> int:
        """The number of elements."""
        return sum(self.sizes)

    @property
    def is_one(self) -> bool:
        """Whether the unit is one leaf in its own memory."""
        return not self.views

    def parts(self, name: str) -> Sequence[torch.Tensor]:
        """Return the flat array with a name, leaf by leaf."""
        x = self.arrays[name]
        return [x] if self.is_one else x.split(self.sizes)

    def prepare(
        self, body: Body, empty: Callable[[int], torch.Tensor]
    ) -> list[tuple[str, torch.Tensor]]:
        """Allocate memory for the outputs of a body; return copies of the inputs that it moves.

        Args:
            body: the body to run.
            empty: a function that returns memory for a number of elements of the working dtype.
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
        """Write copies of inputs to their targets."""
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
    """Return whether the elements are in that order in memory; not for a negative view."""
    return not x.is_neg() and x.permute(order).is_contiguous()


_PLAIN = tuple(range(64))  # more dimensions than a tensor may have


def flat(x: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Return ``x`` as a dense vector in that order, in the same memory if possible.

    The result is not a torch view, because torch would compile a kernel for each kind of base.
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
    """Return ``x`` with the memory layout of ``p``."""
    order = memory_order(p)
    return unflat(x.resolve_neg().permute(order).contiguous().view(-1), p, order)


def add(
    p: torch.Tensor, step: torch.Tensor, step_dtype: str | None, room: torch.Tensor | None = None
) -> None:
    """Add a step, rounded to the dtype of the parameter; or (float32) round only the sum.

    Args:
        p: the parameter.
        step: the step.
        step_dtype: the dtype of the sum, if it is not that of the parameter.
        room: memory for the rounded value, like ``p`` and of the dtype of :func:`rounded_in`;
            ``None``: new memory.
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
    """Return the dtype of a step, or of its sum with the parameter, before it is written."""
    return p.dtype if step_dtype is None else dtype


def rooms_for(
    params: Iterable[torch.Tensor], dtype: torch.dtype, step_dtype: str | None
) -> list[torch.Tensor | None]:
    """Allocate and return the room of :func:`add` for steps of a dtype."""
    return [
        None if p.dtype == dtype else torch.empty_like(p, dtype=rounded_in(p, dtype, step_dtype))
        for p in params
    ]


class Room:
    """Memory that is allocated once and reused in parts.

    Args:
        length: the number of bytes.
        device: the device of the memory.
    """

    def __init__(self, length: int, device: torch.device) -> None:
        self._bytes = torch.empty(length, dtype=torch.uint8, device=device)
        self._used = 0

    def clear(self) -> None:
        """Reuse all memory."""
        self._used = 0

    def __call__(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Return memory for a number of elements."""
        begin = self._used
        end = begin + size * dtype.itemsize
        self._used = -(-end // _ALIGNED) * _ALIGNED
        return self._bytes[begin:end].view(dtype).data

    @staticmethod
    def length(size: int, arrays: int, dtype: torch.dtype) -> int:
        """Return the bytes that a number of arrays with ``size`` elements take."""
        return arrays * -(-size * dtype.itemsize // _ALIGNED) * _ALIGNED


_ALIGNED = 64
"""Bytes: parts begin at a multiple, as in separate memory."""


def on_device(device: torch.device, array: np.ndarray) -> torch.Tensor:
    """Return a tensor with the elements of an array, without waiting for the device."""
    x = torch.from_numpy(array)
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)
