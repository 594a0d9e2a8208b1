"""Learning rates that groups have only during a step."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar, Protocol

import torch


class Scheduler(Protocol):
    """A scheduler with factors of the rates."""

    def scaled(self, i: int, lr: Any) -> Any:
        """Return the rate of group ``i`` with its factor."""


class Rates:
    """Multiplies the rates in the groups of an optimizer by factors, during each step."""

    _known: ClassVar[Any] = weakref.WeakKeyDictionary()  # by optimizer

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._schedulers: list[weakref.ref[Scheduler]] = []
        self._written: list[tuple[dict[str, Any], Any, Any]] = []
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> Rates:
        """Return the object for an optimizer, which is made once."""
        if optimizer not in cls._known:
            cls._known[optimizer] = cls(optimizer)
        rates: Rates = cls._known[optimizer]
        return rates

    def add(self, scheduler: Scheduler) -> None:
        """Add a scheduler; deleted schedulers are dropped."""
        self._schedulers.append(weakref.ref(scheduler, self._schedulers.remove))

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs
        self._after()  # if the last step raised an error
        for i, group in enumerate(optimizer.param_groups):
            lr = group["lr"]
            for reference in self._schedulers:
                scheduler = reference()
                if scheduler is not None:
                    lr = scheduler.scaled(i, lr)
            if lr is not group["lr"]:
                self._written.append((group, group["lr"], lr))
                group["lr"] = lr

    def _after(self, *_: Any) -> None:
        for group, own, written in self._written:
            if group["lr"] is written:  # otherwise the user has set another rate
                group["lr"] = own
        self._written = []
