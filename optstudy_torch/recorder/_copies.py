"""Copies of parameters, and differences of the parameters from the copies.

All values are flat: tensors, or differences that are computed when they are read. For a sharded
parameter (``DTensor``) each process copies its local part. Measurements use a ``DTensor``, or
gather layer by layer.
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
    """θ − base, flat, computed when it is read; ``in_place``: in the memory of ``base``.

    If ``like`` is a ``DTensor``, the values are the local parts.
    """

    now: torch.Tensor
    base: torch.Tensor
    in_place: bool
    like: torch.Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the elements."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """The device of the elements."""
        return self.base.device

    def numel(self) -> int:
        """Return the number of elements."""
        return (self.base if self.like is None else self.like).numel()

    def split(self, length: int) -> list[Difference]:
        """Return parts with a number of elements; the last part may have fewer."""
        parts = zip(self.now.split(length), self.base.split(length), strict=True)
        return [Difference(now, base, self.in_place) for now, base in parts]

    def formed(self) -> torch.Tensor:
        """Return the difference as a tensor."""
        made = torch.sub(self.now, self.base, out=self.base if self.in_place else None)
        return made if self.like is None else of_all(made, self.like)


Column = torch.Tensor | Difference  # flat
Vectors = dict[str, Sequence[Any]]  # tensors, differences and None


class Copies:
    """Copies of parameters by name, flat and contiguous, in reused memory."""

    def __init__(self) -> None:
        self.flat: torch.Tensor | None = None
        self._tensors: dict[str, torch.Tensor] | None = {}
        self._parts: tuple[Sequence[str], Sequence[int]] = (), ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was copied."""
        return self._tensors == {}

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The copies by name."""
        if self._tensors is None:
            assert self.flat is not None
            names, sizes = self._parts
            self._tensors = dict(zip(names, self.flat.split(sizes), strict=True))
        return self._tensors

    @tensors.setter
    def tensors(self, value: dict[str, torch.Tensor]) -> None:
        self._tensors = value

    def fill(
        self,
        names: Sequence[str],
        params: Sequence[torch.Tensor],
        together: Sequence[int] | None = None,
    ) -> None:
        """Copy the parameters.

        Args:
            names: the names of the parameters.
            params: the parameters.
            together: the sizes of small parameters on a CPU: the copies are one tensor, ``flat``.
        """
        if together is not None:
            self.flat, self._tensors = side_by_side(params), None
            self._parts = names, together
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
        """Return θ minus the copies; ``None`` for a parameter that was added later."""
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
        """Replace the copies by others if a condition on the device is true."""
        for name, t in self.tensors.items():
            if name in other.tensors:
                t.copy_(torch.where(condition.to(t.device) != 0, other.tensors[name], t))

    def load(
        self,
        saved: Mapping[str, torch.Tensor],
        names: Sequence[str],
        params: Sequence[torch.Tensor],
    ) -> None:
        """Load saved whole copies, on the devices of the parameters."""
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
        """Return whole copies; all processes must call."""
        known = dict(zip(names, params, strict=True))
        found = {}
        for name, own in self.tensors.items():
            p = known.get(name)
            found[name] = own.clone() if p is None else whole(of_all(own, p)).reshape(-1).clone()
        return found


SMALL: Final = 1 << 16
"""The largest total number of elements for copies in one tensor."""

_PLAIN: Final = (torch.Tensor, torch.nn.Parameter)


def are_small(params: Sequence[torch.Tensor], *, as_whole: bool = False) -> bool:
    """Return whether parameters are small, of one dtype and on the CPU, for one call for all.

    Args:
        params: the parameters.
        as_whole: whether sharded parameters are allowed.
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
    """Return the elements of tensors, concatenated in one call to a new tensor."""
    found = torch._C._nn.flatten_dense_tensors(list(tensors)).detach()
    return found.clone() if len(tensors) == 1 else found


def of_all(own: torch.Tensor, p: torch.Tensor) -> Any:
    """Return the local part as a ``DTensor`` like the parameter, if the parameter is one."""
    return shared(own.view(local(p).shape), p) if is_shared(p) else own


def flat(x: Any) -> Any:
    """Return a tensor or difference flat and whole; a ``DTensor`` is gathered."""
    if isinstance(x, Difference):
        return x if x.like is None else flat(x.formed())
    return whole(x).reshape(-1)


def read(x: Column) -> torch.Tensor:
    """Return the elements; a difference is computed here."""
    return x.formed() if isinstance(x, Difference) else x


def after(x: Column) -> Column:
    """Return the tensor of a difference that was computed in place."""
    return x.base if isinstance(x, Difference) and x.in_place else x


def size_of(x: Column | None) -> int:
    """Return the number of elements; 0 for ``None``."""
    return 0 if x is None else int(x.numel())
