"""What is measured of an epoch, and what is decided from it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array


class Measured(NamedTuple):
    """What a decision about the learning rate is made from.

    Attributes:
        cosine: of the angle between the epoch's step and the last one; NaN: no information.
        loss: the epoch's mean training loss.
    """

    cosine: Any = math.nan
    loss: Any = math.nan


class Decision(NamedTuple):
    """What was decided at the end of an epoch.

    Attributes:
        multiplier: what the learning rate is multiplied by, float32.
        jump: the loss jumped up.
        cut: it did so ``patience`` times in a row, so the rate is cut. The epoch is undone as
            well where that is asked for (``rollback``), and stays otherwise.
    """

    multiplier: Array
    jump: Array
    cut: Array
