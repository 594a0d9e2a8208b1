"""Moves at the end of an epoch: extrapolated epoch, epoch momentum, backstep.

Each works with any ``torch.optim.Optimizer``. Call ``step()`` at the end of an epoch; it moves the
parameters of the optimizer. The formulas are those of :mod:`optstudy_core.epoch`, computed in
float32 (float64 for float64 parameters) and rounded to the dtype of the parameter.

>>> import torch
>>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
>>> optimizer = torch.optim.SGD([w], lr=0.5)
>>> extrapolated = ExtrapolatedEpoch(optimizer, lr=0.5)
>>> for _ in range(2):  # epochs, of one step each
...     w.grad = torch.ones(2)
...     optimizer.step()
...     extrapolated.step()
>>> round(extrapolated.cosine, 9), w.tolist()  # the second epoch moved by another half of its step
(1.0, [-0.25, 0.75])
"""

from __future__ import annotations

import math
from typing import Any

import torch

from optstudy_core.arrays.leaves import Leaves
from optstudy_core.epoch import extrapolation, momentum
from optstudy_torch.engine.eager import EAGER

from . import _snapshot, geometry
from ._meshes import let_go_of_gathered
from ._states import WORKING_DTYPE

__all__ = ["Backstep", "EpochMomentum", "ExtrapolatedEpoch"]


class EpochMove:
    """The base class of the moves: the start of the epoch, and saved states."""

    _carried: tuple[str, ...] = ()  # attributes that are lists of tensors, or None

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: torch.nn.Module | None = None
    ) -> None:
        _snapshot.check_model(optimizer, model)
        self.optimizer, self._model = optimizer, model
        self._start: list[torch.Tensor] = []
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Begin the epoch now: measure Δ from here. ``step`` calls this method."""
        self._start = _snapshot.clones(_snapshot.parameters(self.optimizer))

    @torch.no_grad()
    def _put(self, params: list[torch.Tensor], values: Leaves) -> None:
        for p, value in zip(params, values.values, strict=True):
            p.copy_(value)
        let_go_of_gathered(self._model)
        self.begin_epoch()

    def _parameters(self) -> list[torch.Tensor]:
        params = _snapshot.parameters(self.optimizer)
        _snapshot.check_start(params, self._start)
        return params

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the method; ``torch.load(weights_only=True)`` can load it."""
        carried = {name: getattr(self, f"_{name}") for name in ("start", *self._carried)}
        return {"method": type(self).__name__} | carried

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state. Load the model and the optimizer separately.

        Args:
            state_dict: the result of ``state_dict``.

        Raises:
            ValueError: if the state belongs to another method or to other parameters.
        """
        _snapshot.check_saved(state_dict, self.state_dict())
        params = _snapshot.parameters(self.optimizer)
        names = ("start", *self._carried)
        new = {f"_{n}": _snapshot.loaded(n, state_dict[n], params) for n in names}
        vars(self).update(new)


class ExtrapolatedEpoch(EpochMove):
    """Move further along the step of an epoch, if the last epoch agrees: θ ← θ + lr·cos φₖ·Δₖ.

    See :mod:`optstudy_core.epoch.extrapolation`. Δ does not include this move. The object keeps two
    copies of the parameters.

    Args:
        optimizer: any ``torch.optim.Optimizer``.
        lr: the factor of the move, ≥ 0.
        model: the model; needed for FSDP2 if it is evaluated at the end of an epoch. The move frees
            the parameters that an evaluation has gathered.

    Attributes:
        size: ‖Δₖ‖₂ of the last epoch; NaN before the first.
        cosine: the cosine of the angle between Δₖ and Δₖ₋₁; NaN if there is none.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a value is not allowed.
    """

    _carried = ("previous",)

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        lr: float = 0.1,
        model: torch.nn.Module | None = None,
    ) -> None:
        extrapolation.check(lr=lr)
        self._lr = lr
        self.size = self.cosine = math.nan
        self._previous: list[torch.Tensor] | None = None
        super().__init__(optimizer, model)

    @torch.no_grad()
    def step(self) -> None:
        """End an epoch."""
        params = self._parameters()
        delta = [p.detach() - s for p, s in zip(params, self._start, strict=True)]
        self.size, self.cosine = float(geometry.norm(delta)), math.nan
        if self._previous is not None:
            self.cosine = float(geometry.cosine(delta, self._previous))
        c = extrapolation.coefficient(self.cosine, lr=self._lr)
        self._put(params, extrapolation.moved(_work(params), _work(delta), c))
        self._previous = delta


class EpochMomentum(EpochMove):
    """An average M of past epochs moves the parameters: θ ← θ + lr·M, M ← β·M + (1 − β)·Δₖ.

    See :mod:`optstudy_core.epoch.momentum`. Δ includes this move. The object keeps a copy of the
    parameters, and M in float32 (float64 for float64 parameters).

    Args:
        optimizer: any ``torch.optim.Optimizer``.
        lr: the factor of the move, ≥ 0.
        beta: β in [0, 1), the decay rate of the average.
        model: as for :class:`ExtrapolatedEpoch`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a value is not allowed.
    """

    _carried = ("m",)

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        lr: float = 1.0,
        beta: float = 0.9,
        model: torch.nn.Module | None = None,
    ) -> None:
        momentum.check(lr=lr, beta=beta)
        self._lr, self._beta = lr, beta
        super().__init__(optimizer, model)
        self._m = list(momentum.init(_work(self._start)).m.values)

    @torch.no_grad()
    def step(self) -> None:
        """End an epoch."""
        params = self._parameters()
        state = momentum.MomentumState(Leaves(self._m, EAGER))
        state, moved = momentum.update(
            state, _work(params), _work(self._start), lr=self._lr, beta=self._beta
        )
        self._put(params, moved)
        self._m = list(state.m.values)


class Backstep:
    """Undo an epoch, to the last bit: :meth:`step` copies the state, :meth:`undo` restores it.

    The state has the parameters, the state of the optimizer, the buffers of ``model`` and the
    random state of torch (see :mod:`optstudy_core.epoch.backstep`).

    Args:
        optimizer: any ``torch.optim.Optimizer``.
        model: the model; its buffers (statistics of BatchNorm) are also restored.

    Raises:
        TypeError: for an argument of another type.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = torch.optim.SGD([w], lr=0.5)
    >>> backstep = Backstep(optimizer)
    >>> w.grad = torch.ones(1)
    >>> _ = optimizer.step()
    >>> backstep.undo()
    >>> w.tolist()
    [1.0]
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: torch.nn.Module | None = None
    ) -> None:
        _snapshot.check_model(optimizer, model)
        self.optimizer, self._model = optimizer, model
        self.step()

    def step(self) -> None:
        """End an epoch: copy the state that :meth:`undo` restores."""
        self._kept = _snapshot.take(self.optimizer, self._model)

    def undo(self) -> None:
        """Restore the state of the last :meth:`step` (or of the creation), any number of times."""
        _snapshot.restore(self._kept, self.optimizer, self._model)

    def state_dict(self) -> dict[str, Any]:
        """Return the copies; ``torch.load(weights_only=True)`` can load them."""
        return {"method": type(self).__name__, "kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load copies from ``state_dict``.

        Args:
            state_dict: the result of ``state_dict``.

        Raises:
            ValueError: if the state belongs to another method or to other parameters.
        """
        _snapshot.check_saved(state_dict, self.state_dict())
        kept, params = state_dict["kept"], _snapshot.parameters(self.optimizer)
        self._kept = _snapshot.loaded_all(kept, params)


def _work(tensors: list[torch.Tensor]) -> Leaves:
    """Return the tensors as one array of the core, in their working dtypes."""
    return Leaves((t.detach().to(WORKING_DTYPE.get(t.dtype, t.dtype)) for t in tensors), EAGER)
