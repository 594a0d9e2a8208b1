"""Copies of parameters, and how far the parameters have moved from them since.

What is read here is flat: a tensor, or a difference that is formed where it is read. Of a parameter
that several processes hold together (``DTensor``) each copies what it holds; what is measured is a
``DTensor``, or put together layer by layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from optstudy_torch._meshes import distributed, local, shared, whole
from optstudy_torch._tensors import is_shared


@dataclass(frozen=True)
class Difference:
    """θ − base, flat, formed when it is read; ``in_place``: in the memory of ``base``.

    Where ``like`` is a ``DTensor``, these are what this process holds of them.
    """

    now: torch.Tensor
    base: torch.Tensor
    in_place: bool
    like: torch.Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the elements."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.base.device

    def numel(self) -> int:
        """Return how many elements it has."""
        return (self.base if self.like is None else self.like).numel()

    def split(self, length: int) -> list[Difference]:
        """Return parts of so many elements; the last may have fewer."""
        parts = zip(self.now.split(length), self.base.split(length), strict=True)
        return [Difference(now, base, self.in_place) for now, base in parts]

    def formed(self) -> torch.Tensor:
        """Form it."""
        made = torch.sub(self.now, self.base, out=self.base if self.in_place else None)
        return made if self.like is None else of_all(made, self.like)


Column = torch.Tensor | Difference  # flat
Vectors = dict[str, Sequence[Any]]  # of tensors, differences and None


class Copies:
    """Copies of parameters by name, flat and contiguous, in memory that is used again."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.flat: torch.Tensor | None = None

    def fill(
        self, names: Sequence[str], params: Sequence[torch.Tensor], *, small: bool = False
    ) -> None:
        """Make copies of the parameters; of small ones on a CPU in one tensor, ``flat``."""
        if small:
            self.flat = side_by_side(params)
            sizes = [p.numel() for p in params]
            self.tensors = dict(zip(names, self.flat.split(sizes), strict=True))
            return
        self.flat = None
        old, self.tensors = self.tensors, {}
        for name, p in zip(names, params, strict=True):
            kept = old.get(name)
            own = local(p)
            wanted = (own.numel(), p.dtype, p.device)
            if kept is None or (kept.numel(), kept.dtype, kept.device) != wanted:
                kept = torch.empty(own.numel(), dtype=p.dtype, device=p.device)
            self.tensors[name] = kept
        if self.tensors:
            every = [local(p).detach() for p in params]
            views = [self.tensors[n].view(p.shape) for n, p in zip(names, every, strict=True)]
            torch._foreach_copy_(views, every)

    def differences(
        self, names: Sequence[str], params: Sequence[torch.Tensor], *, in_place: bool
    ) -> list[Difference | None]:
        """Return θ minus the copies; ``None`` for a parameter that was added since."""
        return [
            Difference(
                local(p).detach().reshape(-1),
                self.tensors[name],
                in_place,
                p if is_shared(p) else None,
            )
            if name in self.tensors
            else None
            for name, p in zip(names, params, strict=True)
        ]

    def replace_where(self, condition: torch.Tensor, other: Copies) -> None:
        """Replace the copies by others if a condition holds that only the device knows."""
        for name, t in self.tensors.items():
            if name in other.tensors:
                t.copy_(torch.where(condition.to(t.device) != 0, other.tensors[name], t))

    def load(
        self,
        saved: Mapping[str, torch.Tensor],
        names: Sequence[str],
        params: Sequence[torch.Tensor],
    ) -> None:
        """Take saved copies, which are whole, on the parameters' devices."""
        self.tensors, self.flat = {}, None
        for name, p in zip(names, params, strict=True):
            if name in saved:
                own = saved[name].detach().to(p.device, p.dtype, copy=True)
                if is_shared(p):
                    own = local(distributed(own.reshape(p.shape), p))
                self.tensors[name] = own.reshape(-1)

    def saved(
        self, names: Sequence[str], params: Sequence[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return copies of them, whole; all processes have to call."""
        known = dict(zip(names, params, strict=True))
        found = {}
        for name, own in self.tensors.items():
            p = known.get(name)
            found[name] = own.clone() if p is None else whole(of_all(own, p)).reshape(-1).clone()
        return found


SMALL: Final = 1 << 16
"""Elements of all parameters together up to which they are copied side by side."""

_PLAIN: Final = (torch.Tensor, torch.nn.Parameter)


def are_small(params: Sequence[torch.Tensor], *, as_whole: bool = False) -> bool:
    """Return whether parameters are few, of one dtype and on the CPU, so that a call is for all.

    Args:
        params: the parameters.
        as_whole: whether those that several processes hold together may be among them.
    """
    alike = all(
        (type(p) in _PLAIN or (as_whole and is_shared(p)))
        and p.dtype == params[0].dtype
        and p.device.type == "cpu"
        and p.numel()
        for p in params
    )
    total = sum(p.numel() for p in params)
    floats = (torch.float32, torch.float64)
    return alike and 0 < total <= SMALL and params[0].dtype in floats


def side_by_side(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the elements of tensors one after the other, in one call, as a tensor of its own."""
    found = torch._C._nn.flatten_dense_tensors(list(tensors)).detach()
    return found.clone() if len(tensors) == 1 else found


def of_all(own: torch.Tensor, p: torch.Tensor) -> Any:
    """Return a ``DTensor`` like a parameter from what this process holds of it, if that is one."""
    return shared(own.view(local(p).shape), p) if is_shared(p) else own


def flat(x: Any) -> Any:
    """Return a tensor flat, and whole; a difference is, but of a ``DTensor``."""
    if isinstance(x, Difference):
        return x if x.like is None else flat(x.formed())
    return whole(x).reshape(-1)


def read(x: Column) -> torch.Tensor:
    """Return the elements: a difference is formed here."""
    return x.formed() if isinstance(x, Difference) else x


def after(x: Column) -> Column:
    """Return a difference that has been formed in place as the tensor that it is now."""
    return x.base if isinstance(x, Difference) and x.in_place else x


def size_of(x: Column | None) -> int:
    """Return how many elements there are; of ``None`` none."""
    return 0 if x is None else int(x.numel())
