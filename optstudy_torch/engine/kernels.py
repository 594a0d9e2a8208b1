"""What runs a program on all leaves of a stage at once, and what it is handed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from optstudy_core.arrays.leaves import Reduction

from .units import Unit

Run = Callable[[], None]


class Kernels(Protocol):
    """What runs a program on all leaves of a stage at once.

    Attributes:
        any_dtype: whether parameters are read and written in their own dtype, whatever it is.
        scalars: for each phase, what computes its scalars.
        arrays: for each phase, what returns a function that runs its body on units of one leaf
            each: what could be refused, or takes memory, is done before it is returned.

    Both are given the :class:`~optstudy_torch.engine.stages.Stage` first.
    """

    any_dtype: bool

    def scalars_of(self, function: Reduction, rows: Sequence[Sequence[Any]]) -> list[Any] | None:
        """Return the sum of each leaf; ``None`` if there are no kernels for it."""

    @property
    def scalars(self) -> Sequence[Callable[[Any, dict[str, Any]], None]]: ...

    @property
    def arrays(self) -> Sequence[Callable[[Any, Sequence[Unit], dict[str, Any], Any], Run]]: ...


class Places(NamedTuple):
    """Which numbers of which leaf the instances of a kernel compute.

    Attributes:
        instances: how many there are.
        leaf: of each instance, the number of its leaf among those of the kernel.
        part: of each instance, which part of its leaf it computes.
        column: of each leaf, its number in the stage.
        size: of each leaf, how many numbers it has.
    """

    instances: int
    leaf: torch.Tensor
    part: torch.Tensor
    column: torch.Tensor
    size: torch.Tensor
