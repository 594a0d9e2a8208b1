"""Changes of hyperparameters during a run, for both sides of a pair: schedulers, and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

DECAYS = frozenset({"b1", "b2", "b3", "momentum", "alpha", "rho", "beta", "beta3", "decay"})
"""Hyperparameters β below 1, for which 1 − β moves."""


def factor(t: int) -> float:
    """Return the factor of a hyperparameter, or of 1 − β, at a step: from 0.5 to 1.

    >>> factor(0), factor(30) < 0.6
    (1.0, True)
    """
    return 0.75 + 0.25 * math.cos(t / 9)


def moved(name: str, value: float, t: int) -> float:
    """Return a hyperparameter at a step.

    Args:
        name: the name of the hyperparameter.
        value: the value at the first step.
        t: the number of the step, from 0.

    >>> round(moved("b1", 0.9, 28), 2), round(moved("lr", 0.1, 28), 2)
    (0.95, 0.05)
    """
    if name in DECAYS and 0 < value < 1:  # an absent term stays absent
        return 1 - (1 - value) * factor(t)
    return value * factor(t)


# For torch: functions that change the groups of an optimizer before each step.

Move = Callable[[Any, int], Callable[[int], None]]
"""A function of an optimizer and the number of steps; the result is called before each step."""


def _scheduler(make: Callable[[Any, int], Any]) -> Move:
    def move(optimizer: Any, steps: int) -> Callable[[int], None]:
        scheduler = make(optimizer, steps)

        def before(t: int) -> None:
            if t:
                scheduler.step()

        return before

    return move


def _one_cycle(optimizer: Any, steps: int) -> Any:
    from torch.optim.lr_scheduler import OneCycleLR

    return OneCycleLR(optimizer, max_lr=0.02, total_steps=steps + 1)


def _cyclic(optimizer: Any, steps: int) -> Any:
    from torch.optim.lr_scheduler import CyclicLR

    return CyclicLR(optimizer, base_lr=1e-3, max_lr=0.02, step_size_up=max(steps // 7, 1))


def _lambda(optimizer: Any, steps: int) -> Any:
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimizer, lambda t: 1 / (1 + 3 * t / steps))


def _by_hand(optimizer: Any, steps: int) -> Callable[[int], None]:
    del steps
    (group,) = optimizer.param_groups
    first = {k: v for k, v in group.items() if k in _BY_HAND}

    def before(t: int) -> None:
        at = 10 * (t // 10)
        for name, value in first.items():
            several = value if isinstance(value, tuple) else (value,)
            new = tuple(x if x is None else moved(_BY_HAND[name], x, at) for x in several)
            group[name] = new if isinstance(value, tuple) else new[0]
        if first.get("momentum") == 0 and "dampening" in group:  # SGD allows changes from and to 0
            group["momentum"] = 0.7 if 60 <= t < 120 else 0.0

    return before


_BY_HAND = {
    "betas": "b1",
    "momentum": "momentum",
    "rho": "rho",
    "eps": "eps",
    "weight_decay": "weight_decay",
    "lr": "lr",
    "momentum_decay": "momentum_decay",
    "lr_decay": "lr_decay",
    "dampening": "dampening",
    "lambd": "lambd",
}
"""The hyperparameters of a group that are changed by hand, with their changes."""


def _tensor(optimizer: Any, steps: int) -> Callable[[int], None]:
    import torch

    del steps
    (group,) = optimizer.param_groups
    lr = group["lr"]
    group["lr"] = torch.tensor(lr, dtype=torch.float64)
    return lambda t: group["lr"].fill_(moved("lr", lr, t))


MOVES: Mapping[str, Move] = {
    "OneCycleLR": _scheduler(_one_cycle),
    "CyclicLR": _scheduler(_cyclic),
    "LambdaLR": _scheduler(_lambda),
    "changes by hand": _by_hand,
    "a tensor as lr, changed in place": _tensor,
}
"""Every way of changing the groups of torch optimizers."""

CYCLES = frozenset({"OneCycleLR", "CyclicLR"})
"""Ways that move β₁ or the momentum, and refuse optimizers without them."""
