"""The epoch methods that a training can use, by name, the same in both frameworks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal


@dataclass(frozen=True)
class Method:
    """A method at the end of each epoch.

    Attributes:
        title: the title for figures.
        kind: the action: ``direction``, ``careful`` and ``direction_careful`` multiply the learning
            rate, ``eve`` searches for the lowest loss over all training data, ``extrapolate`` and
            ``momentum`` move the parameters.
        values: hyperparameters that differ from the defaults.
    """

    title: str
    kind: Literal[
        "plain", "direction", "careful", "direction_careful", "eve", "extrapolate", "momentum"
    ]
    values: Mapping[str, Any] = field(default_factory=dict)


PLAIN: Final = "plain"
METHODS: Final[Mapping[str, Method]] = {
    PLAIN: Method("plain", "plain"),
    "direction": Method("direction-adaptive rate", "direction"),
    "direction_centred": Method("direction-adaptive rate, centred", "direction", {"centred": True}),
    "careful": Method("careful rate", "careful"),
    "careful_rollback": Method("careful rate, rollback", "careful", {"rollback": True}),
    "direction_careful": Method("direction and careful", "direction_careful"),
    "eve_grid": Method("EVE, grid", "eve"),
    "eve_march": Method("EVE, march", "eve", {"search": "march"}),
    "extrapolated": Method("extrapolated epoch", "extrapolate"),
    "epoch_momentum": Method("epoch momentum", "momentum"),
}
"""The methods; ``plain`` means no method."""


@dataclass(frozen=True)
class Ended:
    """The result of a method at the end of an epoch.

    Attributes:
        lr_factor: the factor of the learning rate from now on.
        undone: whether the epoch was undone.
        evaluations: the number of evaluations of the loss over all training data.
        s: the distance that the parameters went on, in epoch steps.
    """

    lr_factor: float = 1.0
    undone: bool = False
    evaluations: int = 0
    s: float = 0.0
