"""A training in PyTorch and in JAX, compared: the numbers, however they come about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .study import Parameters


@dataclass(frozen=True)
class Gradients:
    """The gradients of both frameworks at the same points, over the steps of an epoch.

    Attributes:
        steps: how many there were.
        differing: in how many of them the gradients are not identical.
        first: the first of these, from 1; ``None`` if there is none.
        first_relative: ‖g_torch − g_jax‖ / ‖g_torch‖ there; 0 if there is none.
        distance: the largest ‖g_torch − g_jax‖ that is finite.
        relative: the largest ‖g_torch − g_jax‖ / ‖g_torch‖ that is finite.
    """

    steps: int
    differing: int
    first: int | None
    first_relative: float
    distance: float
    relative: float


@dataclass(frozen=True)
class Difference:
    """Two sets of parameters compared element by element.

    Attributes:
        elements: how many there are.
        differing: how many are not identical: other bits, except that any NaN equals any NaN and
            zeros of both signs are equal.
        ulp: the largest difference, see :func:`ulps`.
    """

    elements: int
    differing: int
    ulp: float

    @classmethod
    def between(cls, a: Parameters, b: Parameters) -> Difference:
        """Compare arrays of the same names and shapes."""
        distances = [ulps(a[name], b[name]) for name in a]
        return cls(
            elements=sum(d.size for d in distances),
            differing=sum(int(np.count_nonzero(d)) for d in distances),
            ulp=max(float(d.max(initial=0.0)) for d in distances),
        )


@dataclass(frozen=True)
class EpochPair:
    """An epoch of both trainings.

    Attributes:
        epoch: from 1.
        distance: ‖θ_torch − θ_jax‖ at its end.
        angle: between the two epoch steps, in degrees.
        loss_difference: of the mean training losses, torch's less JAX's.
        parameters: the two θ, element by element.
        gradients: both frameworks' gradients at the same points of the PyTorch training.
        optimizer: both optimizers' parameters at its end, fed the same gradients from the start.
    """

    epoch: int
    distance: float
    angle: float
    loss_difference: float
    parameters: Difference
    gradients: Gradients
    optimizer: Difference


@dataclass(frozen=True)
class Twins:
    """A PyTorch run and a JAX run of the same training, compared.

    Attributes:
        study: its name.
        algorithm: of the optimizer.
        hyperparameters: the optimizer's.
        epochs: one entry an epoch.
        conclusion: one sentence that says where the trainings diverge and why.
    """

    study: str
    algorithm: str
    hyperparameters: dict[str, Any]
    epochs: tuple[EpochPair, ...]
    conclusion: str


LEGS: Final = ("PyTorch", "torch.optim", "PyTorch", "Flax", "PyTorch")
"""Where a training is that moves, one after the other."""


@dataclass(frozen=True)
class Journey:
    """A training that moves from library to library, beside one that stays.

    Attributes:
        algorithm: of the optimizer.
        dtype: of the parameters.
        moved: after each epoch ‖θ − θ′‖ / ‖θ′‖ to the training that stayed in PyTorch.
        twin: the same of a training that was in JAX from the start.
    """

    algorithm: str
    dtype: str
    moved: tuple[float, ...]
    twin: tuple[float, ...]

    @property
    def epochs(self) -> int:
        """How many there were."""
        return len(self.moved)


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return |a − b| in units in the last place of the larger of the two, element by element.

    0 where they are identical (any two NaN are, and so are zeros of both signs); infinite where
    only one is finite, or only one NaN.

    >>> one = np.float32([1.0, 0.0, np.nan])
    >>> ulps(one, np.float32([1.0 + 2**-23, -0.0, 1.0])).tolist()
    [1.0, 0.0, inf]
    """
    with np.errstate(all="ignore"):
        unit = np.spacing(np.maximum(np.abs(a), np.abs(b))).astype(np.float64)
        distance = np.abs(a.astype(np.float64) - b.astype(np.float64)) / unit
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        result: np.ndarray = np.where(same, 0.0, np.where(np.isfinite(distance), distance, np.inf))
    return result
