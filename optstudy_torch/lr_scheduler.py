"""Learning-rate schedulers: schedules of the core, and those that look at each epoch.

``ScheduleLR`` follows a schedule of ``optstudy_core.schedules``.

``DirectionLR``, ``CarefulLR`` and ``DirectionCarefulLR`` are stepped once an epoch, and work with
any ``torch.optim.Optimizer``. Each holds a factor on the rate of each parameter group. The rate
that a step is made with is

    min(max(lr·f, ``min_lr``), ``max_lr``)

of ``group["lr"]`` and the factor f, and the group holds it while ``optimizer.step()`` runs, only.
Between steps it holds what it would without these schedulers, so they go together with torch's own
in any order, with those that overwrite the rate (LambdaLR) and with those that multiply it (StepLR,
CosineAnnealingLR) alike. ``get_last_lr()`` tells the rates with the factors. Several of these
schedulers on one optimizer multiply, in the order in which they were made; one that is deleted
stops doing so.

They are ``LRScheduler``s: copied or pickled together with their optimizer, they have the copy's
rates; ``SequentialLR`` and ``ChainedScheduler`` take them. These two call ``step()`` without a
loss, which is then the mean of what ``observe(loss)`` was told. When ``SequentialLR`` comes to one
of them, the rate is the base rate and an epoch begins; when it goes on to the next scheduler, the
factor stays.

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
    """What the three schedulers share.

    Attributes:
        factors: factor on the rate of each group, float32.
        decision: the last one, or ``None``; ``jump`` and ``cut`` tell what the loss did.
        size: of the last epoch's step ‖Δₖ‖₂; NaN if the direction is not looked at.
        cosine: of its angle to the step of the last epoch that was kept; NaN if there is none.
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
        """Begin with nothing seen."""
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
        """Begin the epoch here: what has moved the parameters since the last ``step`` is no part.

        To be called after something else than the optimizer has moved them (EVE, a loaded model).
        ``step`` calls it itself. It also is what an undone epoch returns to, unless jumps are
        being waited for (``patience``).
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
        """Note a loss of the epoch, for a :meth:`step` that is called without one.

        That step takes the mean of what was noted since the last one. Nothing is read from the
        device before.

        Args:
            loss: of a mini-batch or of the epoch, a number or a tensor of one.
        """
        self._observed = self._observed + scalar("loss", loss)
        self._count += 1

    def step(self, metrics: Any = None) -> None:
        """End an epoch.

        Args:
            metrics: its mean training loss, a number or a tensor of one; ``None``: that of
                :meth:`observe`. ``DirectionLR`` does not read it.

        Raises:
            TypeError: if there is none, but one is read.
        """
        if self._is_initial:  # torch's constructors call it: nothing has ended
            self._restart()
        else:
            self._end_epoch(self._loss(metrics))
        self._step_count += 1
        self.last_epoch += 1
        self._last_lr = self.get_last_lr()

    def _update_lr(self, epoch: int | None = None) -> None:
        """Begin here, from the base rate: ``SequentialLR`` has come to this scheduler."""
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
                "metrics = None: allowed is the epoch's mean training loss, or observe(loss) before"
            )
        loss = float(scalar("metrics", metrics))
        return average_of(loss, _snapshot.parameters(self.optimizer)) if self._average else loss

    @torch.no_grad()
    def _measure(self) -> list[torch.Tensor] | None:
        """Return Δ and note its size and cosine; without a start that fits there is none."""
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
        """Return the rate of each group as this scheduler makes it of what the group has now.

        A number; of a group whose rate is a tensor, a tensor.
        """
        rates = [self.scaled(i, g["lr"]) for i, g in enumerate(self.optimizer.param_groups)]
        return [lr if isinstance(lr, torch.Tensor) else float(lr) for lr in rates]

    def get_lr(self) -> list[Any]:
        """Return :meth:`get_last_lr`."""
        return self.get_last_lr()

    # Copied and saved states; the latter are tensors, numbers, lists and dictionaries only.

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        Rates.of(self.optimizer).add(self)  # a copy's: the optimizer's hooks are not copied

    def state_dict(self) -> dict[str, Any]:
        """Return all that the scheduler carries; ``torch.load(weights_only=True)`` takes it."""
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
        """Load a state; the model and the optimizer are to be loaded by themselves.

        Args:
            state_dict: of ``state_dict``.

        Raises:
            ValueError: if the state is of another scheduler or other parameters.
        """
        _snapshot.check_saved(state_dict, self.state_dict())
        if len(state_dict["factors"]) != len(self.optimizer.param_groups):
            raise ValueError(
                f"state_dict of {len(state_dict['factors'])} parameter groups: allowed are "
                f"{len(self.optimizer.param_groups)}"
            )
        params = _snapshot.parameters(self.optimizer)
        kept = state_dict["kept"]
        if (kept is not None) != self._rollback:
            raise ValueError(
                f"state_dict with{'' if kept else 'out'} what a rollback needs: allowed for "
                f"rollback = {self._rollback} is one with{'' if self._rollback else 'out'}"
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
    """Direction-adaptive learning rate: grows while epochs go the same way, else shrinks.

        lr ← lr·(1 + r·cos φₖ);    centred: lr ← lr·(1 + 2r·(cos φₖ − ½))

    See :mod:`optstudy_core.epoch.direction`. Keeps two copies of the parameters.

    Args:
        optimizer: any ``torch.optim.Optimizer``; its groups have the same multipliers.
        r: how strongly the direction counts, in [0, 1].
        centred: take 60° as neutral instead of 90°; r in [0, ⅓].
        min_lr: the rate never falls below it.
        max_lr: the rate never grows above it.

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
        del metrics  # for code that steps several schedulers alike
        return math.nan


class CarefulLR(EpochLR):
    """Careful learning rate: smaller after the loss has jumped up.

        ``Lₖ > L + τ·|L|``, or not finite, ``patience`` times in a row: lr ← γ·lr

    See :mod:`optstudy_core.epoch.careful`.

    Args:
        optimizer: any ``torch.optim.Optimizer``; its groups have the same multipliers.
        tau: τ ≥ 0, by how much of ``|L|`` the loss may rise.
        gamma: γ in [0, 1].
        growth: what every epoch without a jump multiplies the rate by, ≥ 1; bold: 1.05.
        patience: how many jumps in a row it takes, ≥ 1.
        reference: L is the loss of the ``"last"`` epoch, or of the last ``"accepted"`` one.
        rollback: undo the epoch as well: parameters, the optimizer's state, the buffers of
            ``model`` and torch's random state return to what they were before the (first) jump.
        model: whose buffers are restored.
        average: of several processes (``torch.distributed``) all decide alike, by the mean of
            their losses; a message of eight bytes an epoch, so all must step. ``False``: the loss
            is the same on all of them already.
        min_lr: the rate never falls below it.
        max_lr: the rate never grows above it.

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
    """Both: the rate is multiplied by what ``DirectionLR`` and ``CarefulLR`` multiply it by.

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
