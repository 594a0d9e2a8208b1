"""The layers and losses of the networks of PV-finder, for both frameworks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

from .event import BINS, FEATURES

LEAK: Final = 0.01
ASYMMETRY: Final = 4.0
"""The asymmetry of the ratio loss. PV-finder trains with several values: a larger value finds more
vertices and more false vertices. With 3 or less, the outputs of AllCNN stay empty."""
SCALE: Final = 1e-2
"""The unit of the kernel inside DDplus."""


def allcnn(features: int = 1) -> dict[str, tuple[int, int, int]]:
    """Return the shapes of the weights of AllCNN: (output channels, input channels, width)."""
    return {
        "conv1": (20, features, 25),
        "conv2": (10, 20, 15),
        "conv3": (10, 10, 15),
        "conv4": (10, 10, 15),
        "conv5": (1, 10, 5),
        "filter": (1, 1, 91),
    }


INTERVALS: Final = 40
INTERVAL_BINS: Final = BINS // INTERVALS
"""DDplus divides the beam into intervals of 10 mm, with the same weights in each."""
PADDING: Final = 5.0
"""An interval also has tracks that pass the beam within this distance (mm) of the interval."""
CHANNELS: Final = 8
_SIZES: Final = (FEATURES, 25, 25, 25, 25, 25, 50, 25, 25, 50, 25, 25, CHANNELS * INTERVAL_BINS)
OF_TRACKS: Final[dict[str, tuple[int, ...]]] = {
    f"track{i}": (after, before) for i, (before, after) in enumerate(pairwise(_SIZES), 1)
}
MIXING: Final[dict[str, tuple[int, int, int]]] = {"mix1": (25, CHANNELS, 25), "mix2": (1, 25, 5)}
DENSE: Final[dict[str, tuple[int, ...]]] = {"dense": (INTERVAL_BINS, INTERVAL_BINS)}
TRACKS_TO_KERNEL: Final = OF_TRACKS | MIXING | DENSE
"""Shapes of the weights of the first part of DDplus; the second part is AllCNN."""


def ratio_cost(
    xp: Any, prediction: Any, target: Any, c: float = ASYMMETRY, eps: float = 1e-5
) -> Any:
    """Return the asymmetric ratio cost of each bin.

        r = |(ŷ + ε) / (y + ε)|,    cost = −ln(2r / (r² + 1)) · (1 + c·e^(−r))

    A prediction that is too small (r < 1) costs up to 1 + c times as much as one that is too large.

    Args:
        xp: the functions of the framework.
        prediction: ŷ.
        target: y, finite.
        c: the asymmetry.
        eps: ε, so that empty bins have a ratio.

    Returns:
        array of the same shape.

    >>> import numpy as np
    >>> ratio_cost(np, np.array([1.0, 0.0]), np.ones(2)).round(1).tolist()
    [-0.0, 54.1]
    """
    r = abs((prediction + eps) / (target + eps))
    return -xp.log(2 * r / (r * r + 1)) * (1 + c * xp.exp(-r))


def square_cost(prediction: Any, target: Any) -> Any:
    """Return ((ŷ − y)/0.01)² of each bin.

    >>> square_cost(0.25, 0.24).__round__(9)
    1.0
    """
    return ((prediction - target) / 0.01) ** 2
