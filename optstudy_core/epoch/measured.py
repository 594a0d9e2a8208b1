"""The measurements of an epoch, and the decision that follows from them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array


class Measured(NamedTuple):
    """The measurements of an epoch for a decision about the learning rate.

    Attributes:
        cosine: the cosine of the angle between the steps of this epoch and the last one; NaN if
            there is no angle.
        loss: the mean training loss of the epoch.
    """

    cosine: Any = math.nan
    loss: Any = math.nan


class Decision(NamedTuple):
    """The decision at the end of an epoch.

    Attributes:
        multiplier: the multiplier of the learning rate, float32.
        jump: whether the loss jumped up.
        cut: whether the loss jumped up ``patience`` times in a row, so that the rate is cut. With
            ``rollback`` the epochs of the jumps are also undone.
    """

    multiplier: Array
    jump: Array
    cut: Array
