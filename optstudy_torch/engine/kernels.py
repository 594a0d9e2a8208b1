"""The interface of kernels, which run a program on all leaves of a stage at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from optstudy_core.arrays.leaves import Reduction

from .units import Unit

Run = Callable[[], None]


class Kernels(Protocol):
    """Kernels that run a program on all leaves of a stage at once.

    Attributes:
        any_dtype: whether parameters of any dtype are read and written in their own dtype.
        scalars: for each phase, a function that computes its scalars.
        arrays: for each phase, a function that checks arguments, allocates memory and returns a
            function that runs the body on units of one leaf each.

    The first argument of both is the :class:`~optstudy_torch.engine.stages.Stage`.
    """

    any_dtype: bool

    def scalars_of(self, function: Reduction, rows: Sequence[Sequence[Any]]) -> list[Any] | None:
        """Return the sum of each leaf; ``None`` without kernels for the function."""

    @property
    def scalars(self) -> Sequence[Callable[[Any, dict[str, Any]], None]]: ...

    @property
    def arrays(self) -> Sequence[Callable[[Any, Sequence[Unit], dict[str, Any], Any], Run]]: ...


class Places(NamedTuple):
    """The elements that the instances of a kernel compute.

    Attributes:
        instances: the number of instances.
        leaf: for each instance, the number of the leaf in the kernel.
        part: for each instance, the number of the part of the leaf.
        column: for each leaf, its number in the stage.
        size: for each leaf, the number of elements.
    """

    instances: int
    leaf: torch.Tensor
    part: torch.Tensor
    column: torch.Tensor
    size: torch.Tensor
