"""Training: one loop for both frameworks, and what a framework must provide for it.

:func:`run_epochs` is the training itself and measures nothing; :func:`record` runs it and writes
down every epoch. Only the learners know a framework: ``torch_learner`` and ``jax_learner``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Protocol

import numpy as np

from optstudy_core import ALGORITHMS
from optstudy_core.algorithm import find

from .epochs import EpochMeter
from .records import Path, RunWriter
from .study import Batch, Parameters, Study

BACKENDS: Final[Mapping[str, tuple[str, ...]]] = {
    "torch": ("torch",),
    "jax": ("jax", "optax", "flax"),
}
"""The frameworks, and the distributions that each of them needs."""


@dataclass(frozen=True)
class Optimizer:
    """Which update rule trains, with the same hyperparameters in both frameworks.

    Attributes:
        algorithm: a name of ``optstudy_core.ALGORITHMS``.
        lr: learning rate.
        dialect: whose mathematics; ``None``: the algorithm's default.
    """

    algorithm: str
    lr: float
    dialect: str | None = None

    @classmethod
    def of(cls, study: Study, algorithm: str, lr: float | None, dialect: str | None) -> Optimizer:
        """Return the update rule with the study's learning rate where ``lr`` is ``None``.

        Raises:
            ValueError: for an unknown algorithm or dialect, or a rate that is not allowed.
        """
        rule = find(algorithm, ALGORITHMS)
        default = rule.defaults(dialect)["lr"]
        if lr is None:
            lr = study.learning_rates.get(algorithm, default)
        rule.resolve(dialect, {"lr": lr})
        return cls(algorithm, float(lr), dialect)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Every hyperparameter, by the core's name."""
        return ALGORITHMS[self.algorithm].resolve(self.dialect, {"lr": self.lr})


class Learner(Protocol):
    """A study's model and its optimizer in one framework.

    Parameters, gradients and data cross as NumPy arrays. The methods that take parameters are
    pure: they read the model's form only, and neither the training nor a random state changes.
    """

    backend: str

    def step(self, batch: Batch) -> Any:
        """Train on a mini-batch; return its loss before the step, a 0-d array of the framework."""

    def apply(self, gradients: Parameters) -> None:
        """Make the optimizer's step for gradients from elsewhere."""

    def parameters(self) -> Parameters:
        """Return a copy of the parameters."""

    def loss(self, parameters: Parameters, batch: Batch) -> float:
        """Return the loss at some parameters."""

    def gradients(self, parameters: Parameters, batch: Batch) -> Parameters:
        """Return the gradients of the loss at some parameters."""

    def outputs(self, parameters: Parameters, inputs: np.ndarray) -> np.ndarray:
        """Return what the model makes of some inputs at some parameters."""


def installed_backends() -> list[str]:
    """Return the frameworks that can be imported here."""
    return [name for name, needs in BACKENDS.items() if all(map(find_spec, needs))]


def make_learner(backend: str, study: Study, optimizer: Optimizer) -> Learner:
    """Return a learner at the study's initial parameters; imports the framework."""
    learner: Learner = import_module(f"{__package__}.{backend}_learner").make(study, optimizer)
    return learner


def run_epochs(
    study: Study,
    learner: Learner,
    epochs: int,
    *,
    after_step: Callable[[], None] | None = None,
) -> Iterator[list[Any]]:
    """Train, and yield the losses of the mini-batches after each epoch.

    Args:
        study: the data.
        learner: is trained.
        epochs: how many.
        after_step: called after each step.
    """
    for epoch in range(1, epochs + 1):
        losses = []
        for batch in study.batches(epoch):
            losses.append(learner.step(batch))
            if after_step is not None:
                after_step()
        yield losses


def record(
    study: Study,
    learner: Learner,
    epochs: int,
    writer: RunWriter,
    *,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    """Train and write every epoch down; the training is the same as without.

    Args:
        study: the data.
        learner: is trained.
        epochs: how many.
        writer: of the run's folder.
        after_epoch: called after each epoch, for a progress bar.
    """
    path = Path.start(learner.parameters(), study.path_every)
    meter = EpochMeter(learner.parameters())
    every_step = study.path_every == "step"
    after_step = (lambda: path.append(learner.parameters())) if every_step else None
    for losses in run_epochs(study, learner, epochs, after_step=after_step):
        here = learner.parameters()
        row = meter.close([float(loss) for loss in losses], here)
        if study.test is not None:
            outputs = learner.outputs(here, study.test.inputs)
            row |= study.metrics(outputs, study.test.targets)
        if not every_step:
            path.append(here)
        writer.append(row)
        after_epoch()
    writer.finish(learner.parameters(), path)
