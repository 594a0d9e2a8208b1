"""The numbers of comparisons between a training in PyTorch and in JAX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .study import Parameters


@dataclass(frozen=True)
class Gradients:
    """The gradients of both frameworks at the same points, over the steps of an epoch.

    Attributes:
        steps: the number of steps.
        differing: the number of steps with different gradients.
        first: the first of these steps, from 1; ``None`` if there is none.
        first_relative: ‖g_torch − g_jax‖ / ‖g_torch‖ in that step; 0 if there is none.
        distance: the largest finite ‖g_torch − g_jax‖.
        relative: the largest finite ‖g_torch − g_jax‖ / ‖g_torch‖.
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
        elements: the number of elements.
        differing: the number of elements that are not identical: with other bits, but any two NaN
            are equal, and zeros of both signs are equal.
        ulp: the largest difference, see :func:`ulps`.
    """

    elements: int
    differing: int
    ulp: float

    @classmethod
    def between(cls, a: Parameters, b: Parameters) -> Difference:
        """Compare arrays with the same names and shapes."""
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
        epoch: the number of the epoch, from 1.
        distance: ‖θ_torch − θ_jax‖ at the end of the epoch.
        angle: the angle between the steps of the two epochs, in degrees.
        loss_difference: the mean training loss in PyTorch minus that in JAX.
        parameters: the comparison of the two θ, element by element.
        gradients: the gradients of both frameworks at the same points of the PyTorch training.
        optimizer: the comparison of the parameters of both optimizers at the end of the epoch, if
            both get the same gradients from the start.
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
        study: the name of the study.
        algorithm: the algorithm of the optimizer.
        hyperparameters: the hyperparameters of the optimizer.
        epochs: one entry for each epoch.
        conclusion: one sentence that says where the trainings diverge and why.
    """

    study: str
    algorithm: str
    hyperparameters: dict[str, Any]
    epochs: tuple[EpochPair, ...]
    conclusion: str


LEGS: Final = ("PyTorch", "torch.optim", "PyTorch", "Flax", "PyTorch")
"""The libraries of a training that moves, in order."""


@dataclass(frozen=True)
class Journey:
    """A training that moves between libraries, compared with a training that stays.

    Attributes:
        algorithm: the algorithm of the optimizer.
        dtype: the dtype of the parameters.
        moved: ‖θ − θ′‖ / ‖θ′‖ after each epoch, where θ′ belongs to the training that stays in
            PyTorch.
        twin: the same for a training that runs in JAX from the start.
    """

    algorithm: str
    dtype: str
    moved: tuple[float, ...]
    twin: tuple[float, ...]

    @property
    def epochs(self) -> int:
        """The number of epochs."""
        return len(self.moved)


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return |a − b| in units in the last place of the larger of the two, element by element.

    0 for identical elements (any two NaN are identical, and so are zeros of both signs); infinite
    if only one element is finite, or only one is NaN.

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
