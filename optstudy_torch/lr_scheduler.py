"""Learning-rate schedulers: schedules of the core, and methods that act once an epoch.

``ScheduleLR`` follows a schedule of ``optstudy_core.schedules``.

``DirectionLR``, ``CarefulLR`` and ``DirectionCarefulLR`` take one step each epoch, and work with
any ``torch.optim.Optimizer``. Each holds a factor f for each parameter group. A step of the
optimizer uses the rate

    min(max(lr·f, ``min_lr``), ``max_lr``)

where lr is ``group["lr"]``. The group holds this rate only while ``optimizer.step()`` runs. Between
steps it holds the rate without the factor. So these schedulers work with those of torch in any
order: with schedulers that overwrite the rate (LambdaLR), and with schedulers that multiply it
(StepLR, CosineAnnealingLR). ``get_last_lr()`` returns the rates with the factors. The factors of
several of these schedulers on one optimizer multiply, in the order of their creation. The factor of
a deleted scheduler no longer counts.

All are ``LRScheduler``s. A scheduler that is copied or pickled together with its optimizer sets the
rates of the copy. ``SequentialLR`` and ``ChainedScheduler`` accept these schedulers. These two call
``step()`` without a loss; the loss is then the mean of the losses from ``observe(loss)``. When
``SequentialLR`` reaches one of these schedulers, the rate is the base rate and an epoch begins.
When it moves on to the next scheduler, the factor stays.

>>> import torch
>>> model = torch.nn.Linear(2, 1)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
>>> scheduler = CarefulLR(optimizer, rollback=True, model=model)
>>> for loss in [1.0, 0.9, 2.0]:  # the mean training loss of each epoch
...     scheduler.step(loss)
>>> round(scheduler.get_last_lr()[0], 6)
0.08
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler

from optstudy_core.epoch import (
    Decision,
    Measured,
    careful,
    direction,
    direction_careful,
    rate,
)

from . import _snapshot, geometry
from ._ranks import average as average_of
from ._ranks import scalar
from ._rates import Rates
from ._schedule_lr import ScheduleLR

__all__ = ["CarefulLR", "DirectionCarefulLR", "DirectionLR", "ScheduleLR"]


class EpochLR(LRScheduler):
    """The base class of the three schedulers.

    Attributes:
        factors: the factor of the rate of each group, float32.
        decision: the last decision, or ``None``; its ``jump`` and ``cut`` describe the loss.
        size: ‖Δₖ‖₂ of the step of the last epoch; NaN if the method does not use the direction.
        cosine: the cosine of the angle between Δₖ and the step of the last epoch that was kept; NaN
            if there is none.
    """

    _method: Any  # the module of the core
    _measures_steps = True

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        values: dict[str, Any],
        *,
        rollback: bool = False,
        model: torch.nn.Module | None = None,
        average: bool = True,
        min_lr: float = 0.0,
        max_lr: float = rate.LARGEST,
    ) -> None:
        _snapshot.check_model(optimizer, model, moves=rollback is True)
        for name, flag in (("rollback", rollback), ("average", average)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} = {flag!r}: allowed are True and False")
        self._method.check(**values)
        rate.check_limits(min_lr, max_lr)
        self.min_lr, self.max_lr = float(min_lr), float(max_lr)
        self._values, self._rollback, self._model = values, rollback, model
        self._average = average
        super().__init__(optimizer)  # which calls step
        Rates.of(optimizer).add(self)

    def _restart(self) -> None:
        """Reset the state to that before the first epoch."""
        self.factors = np.ones(len(self.optimizer.param_groups), np.float32)
        self.decision: Decision | None = None
        self.size = self.cosine = math.nan
        self._state = self._method.init()
        self._observed: Any = 0.0  # the sum of the losses
        self._count = 0
        self._previous: list[torch.Tensor] | None = None
        self._kept: dict[str, Any] | None = None
        self._start: list[torch.Tensor] | None = None
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Begin the epoch now: moves of the parameters since the last ``step`` do not count.

        Call this method if something other than the optimizer has moved the parameters (EVE, a
        loaded model). ``step`` calls it. An undone epoch also returns to this point, except during
        a series of jumps (``patience``).
        """
        params = _snapshot.parameters(self.optimizer)
        waiting = self._kept is not None and float(getattr(self._state, "jumps", 0)) > 0
        self._start = None
        if self._measures_steps or (self._rollback and not waiting):
            self._start = _snapshot.clones(params)
        if self._rollback and not waiting:
            kept = _snapshot.take(self.optimizer, self._model, self._start)
            self._kept = kept | {"previous": self._previous}

    def observe(self, loss: Any) -> None:
        """Note a loss of the epoch, for a :meth:`step` without a loss.

        That step uses the mean of the losses since the last step. Until then, nothing is read from
        the device.

        Args:
            loss: the loss of a mini-batch or of the epoch, a number or a tensor with one element.
        """
        self._observed = self._observed + scalar("loss", loss)
        self._count += 1

    def step(self, metrics: Any = None) -> None:
        """End an epoch.

        Args:
            metrics: the mean training loss of the epoch, a number or a tensor with one element;
                ``None``: the mean of the losses from :meth:`observe`. ``DirectionLR`` ignores it.

        Raises:
            TypeError: if the method needs a loss and there is none.
        """
        if self._is_initial:  # called by a constructor of torch: no epoch has ended
            self._restart()
        else:
            self._end_epoch(self._loss(metrics))
        self._step_count += 1
        self.last_epoch += 1
        self._last_lr = self.get_last_lr()

    def _update_lr(self, epoch: int | None = None) -> None:
        """Begin at the base rate: ``SequentialLR`` has reached this scheduler."""
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=False):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self._restart()
        self.last_epoch = epoch or 0
        self._last_lr = self.get_last_lr()

    def _end_epoch(self, loss: float) -> None:
        groups = self.optimizer.param_groups
        added = len(groups) - len(self.factors)
        self.factors = np.append(self.factors, np.ones(max(added, 0), np.float32))
        delta = self._measure()
        rates = np.asarray([float(g["lr"]) for g in groups])
        low, high = rate.limits(rates, min_lr=self.min_lr, max_lr=self.max_lr)
        self._state, decision = self._method.update(
            self._state._replace(factor=self.factors),
            Measured(cosine=self.cosine, loss=loss),
            low=low,
            high=high,
            **self._values,
        )
        self.factors = self._state.factor
        self.decision = decision
        self._observed, self._count = 0.0, 0
        if self._rollback and bool(decision.cut):
            self._undo()
        else:
            self._previous = delta
        self.begin_epoch()

    def _loss(self, metrics: Any) -> float:
        if metrics is None and self._count:
            metrics = self._observed / self._count
        if metrics is None:
            raise TypeError(
                "metrics = None: pass the mean training loss of the epoch, or call observe(loss) "
                "before"
            )
        loss = float(scalar("metrics", metrics))
        return average_of(loss, _snapshot.parameters(self.optimizer)) if self._average else loss

    @torch.no_grad()
    def _measure(self) -> list[torch.Tensor] | None:
        """Return Δ, and note its size and cosine; ``None`` without a start of the same shapes."""
        self.size = self.cosine = math.nan
        params = _snapshot.parameters(self.optimizer)
        if not self._measures_steps or self._start is None:
            return None
        if [p.shape for p in params] != [s.shape for s in self._start]:
            return None  # parameters were added
        delta = [p.detach() - s for p, s in zip(params, self._start, strict=True)]
        previous = self._previous
        if previous is not None and len(previous) != len(delta):
            previous = None
        self.size = float(geometry.norm(delta))
        if previous is not None:
            self.cosine = float(geometry.cosine(delta, previous))
        return delta

    def _undo(self) -> None:
        kept = self._kept
        assert kept is not None
        _snapshot.restore(kept, self.optimizer, self._model)
        self._previous = kept["previous"]

    # Rates.

    def scaled(self, i: int, lr: Any) -> Any:
        """Return the rate of group ``i`` with its factor."""
        factor = float(self.factors[i]) if i < len(self.factors) else 1.0
        if isinstance(lr, torch.Tensor):  # no synchronization: on its device, in its dtype
            return (lr * factor).clamp(self.min_lr, self.max_lr)
        if factor == 1.0 and self.min_lr <= lr <= self.max_lr:
            return lr
        return float(rate.scaled(lr, np.float64(factor), min_lr=self.min_lr, max_lr=self.max_lr))

    def get_last_lr(self) -> list[Any]:
        """Return the current rate of each group, with the factor of this scheduler.

        The rate of a group is a number, or a tensor if the group holds a tensor.
        """
        rates = [self.scaled(i, g["lr"]) for i, g in enumerate(self.optimizer.param_groups)]
        return [lr if isinstance(lr, torch.Tensor) else float(lr) for lr in rates]

    def get_lr(self) -> list[Any]:
        """Return :meth:`get_last_lr`."""
        return self.get_last_lr()

    # Copies, and saved states, which have tensors, numbers, lists and dictionaries only.

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        Rates.of(self.optimizer).add(self)  # for copies: the hooks of an optimizer are not copied

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scheduler; ``torch.load(weights_only=True)`` can load it."""
        state: dict[str, Any] = {
            "method": type(self).__name__,
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "base_lrs": self.base_lrs,
            "observed": float(self._observed),
            "count": self._count,
            "factors": [float(f) for f in self.factors],
            "size": self.size,
            "cosine": self.cosine,
            "start": self._start,
            "previous": self._previous,
            "kept": self._kept,
        }
        for name in ("reference", "jumps"):
            if hasattr(self._state, name):
                state[name] = float(getattr(self._state, name))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state. Load the model and the optimizer separately.

        Args:
            state_dict: the result of ``state_dict``.

        Raises:
            ValueError: if the state belongs to another scheduler or to other parameters.
        """
        _snapshot.check_saved(state_dict, self.state_dict())
        if len(state_dict["factors"]) != len(self.optimizer.param_groups):
            raise ValueError(
                f"state_dict of {len(state_dict['factors'])} parameter groups: the optimizer has "
                f"{len(self.optimizer.param_groups)}"
            )
        params = _snapshot.parameters(self.optimizer)
        kept = state_dict["kept"]
        if (kept is not None) != self._rollback:
            raise ValueError(
                f"state_dict with{'' if kept else 'out'} copies for a rollback: allowed for "
                f"rollback = {self._rollback} is a state with{'' if self._rollback else 'out'}"
            )
        start = _snapshot.loaded("start", state_dict["start"], params)
        previous = _snapshot.loaded("previous", state_dict["previous"], params)
        if kept is not None:
            before = _snapshot.loaded("previous", kept["previous"], params)
            kept = _snapshot.loaded_all(kept, params) | {"previous": before}
        self.last_epoch = int(state_dict["last_epoch"])
        self._step_count = int(state_dict["step_count"])
        self.base_lrs = list(state_dict["base_lrs"])
        self._observed, self._count = float(state_dict["observed"]), int(state_dict["count"])
        self.factors = np.asarray(state_dict["factors"], np.float32)
        self.size, self.cosine = float(state_dict["size"]), float(state_dict["cosine"])
        self._start, self._previous = start, previous
        self._kept = kept
        self._state = self._state._replace(
            **{n: np.float32(state_dict[n]) for n in ("reference", "jumps") if n in state_dict}
        )
        self._last_lr = self.get_last_lr()


class DirectionLR(EpochLR):
    """Direction-adaptive learning rate: grows while epochs have the same direction, else shrinks.

        lr ← lr·(1 + r·cos φₖ);    centred: lr ← lr·(1 + 2r·(cos φₖ − ½))

    See :mod:`optstudy_core.epoch.direction`. Keeps two copies of the parameters.

    Args:
        optimizer: any ``torch.optim.Optimizer``; all groups have the same multipliers.
        r: the weight of the direction, in [0, 1].
        centred: at 60°, instead of at 90°, the rate stays; requires r in [0, ⅓].
        min_lr: lower bound of the rate.
        max_lr: upper bound of the rate.

    Raises:
        TypeError, ValueError: for a value that is not allowed.
    """

    _method = direction

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        r: float = 0.05,
        *,
        centred: bool = False,
        min_lr: float = 0.0,
        max_lr: float = rate.LARGEST,
    ) -> None:
        super().__init__(optimizer, {"r": r, "centred": centred}, min_lr=min_lr, max_lr=max_lr)

    def _loss(self, metrics: Any) -> float:
        del metrics  # accepted, so that all schedulers can be called in the same way
        return math.nan


class CarefulLR(EpochLR):
    """Careful learning rate: smaller after the loss has jumped up.

        ``Lₖ > L + τ·|L|``, or not finite, ``patience`` times in a row: lr ← γ·lr

    See :mod:`optstudy_core.epoch.careful`.

    Args:
        optimizer: any ``torch.optim.Optimizer``; all groups have the same multipliers.
        tau: τ ≥ 0. A loss above ``L + τ·|L|`` is a jump.
        gamma: γ in [0, 1], the factor of the rate at a cut.
        growth: the factor of the rate after an epoch without a jump, ≥ 1; 1.05 in the bold variant.
        patience: the number of jumps in a row that lead to a cut, ≥ 1.
        reference: ``"last"`` or ``"accepted"``: L is the loss of the last epoch, or of the last
            epoch without a jump.
        rollback: at a cut, also restore the parameters, the state of the optimizer, the buffers of
            ``model`` and the random state of torch to those before the (first) jump.
        model: the model; a rollback restores its buffers.
        average: all processes (``torch.distributed``) decide by the mean of their losses. Each
            epoch sends a message of eight bytes, so all processes must call ``step``. ``False``:
            the loss is already the same on all processes.
        min_lr: lower bound of the rate.
        max_lr: upper bound of the rate.

    Raises:
        TypeError, ValueError: for a value that is not allowed.
    """

    _method = careful
    _measures_steps = False

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        tau: float = 0.02,
        gamma: float = 0.8,
        *,
        growth: float = 1.0,
        patience: int = 1,
        reference: str = "last",
        rollback: bool = False,
        model: torch.nn.Module | None = None,
        average: bool = True,
        min_lr: float = 0.0,
        max_lr: float = rate.LARGEST,
    ) -> None:
        values = {
            "tau": tau,
            "gamma": gamma,
            "growth": growth,
            "patience": patience,
            "reference": reference,
        }
        super().__init__(
            optimizer,
            values,
            rollback=rollback,
            model=model,
            average=average,
            min_lr=min_lr,
            max_lr=max_lr,
        )


class DirectionCarefulLR(EpochLR):
    """Both methods: the rate is multiplied by the factors of ``DirectionLR`` and ``CarefulLR``.

    The direction of an epoch that is undone does not count. Args and errors as for
    :class:`DirectionLR` and :class:`CarefulLR`.
    """

    _method = direction_careful

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        r: float = 0.05,
        tau: float = 0.02,
        gamma: float = 0.8,
        *,
        centred: bool = False,
        growth: float = 1.0,
        patience: int = 1,
        reference: str = "last",
        rollback: bool = False,
        model: torch.nn.Module | None = None,
        average: bool = True,
        min_lr: float = 0.0,
        max_lr: float = rate.LARGEST,
    ) -> None:
        values = {
            "r": r,
            "centred": centred,
            "tau": tau,
            "gamma": gamma,
            "growth": growth,
            "patience": patience,
            "reference": reference,
            "rollback": rollback,
        }
        super().__init__(
            optimizer,
            values,
            rollback=rollback,
            model=model,
            average=average,
            min_lr=min_lr,
            max_lr=max_lr,
        )
