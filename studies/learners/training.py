"""Training: one loop for both frameworks, and the interface that a framework must provide.

:func:`run_epochs` trains and measures nothing. :func:`record` trains and records every epoch. Only
``torch_learner`` and ``jax_learner`` use a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Protocol

import numpy as np

from optstudy_core.records import Run
from studies.records import Path, finish
from studies.study import Batch, Parameters, Study

from .epochs import EpochMeter, Stopwatch, mean
from .methods import Ended
from .optimizer import Optimizer

BACKENDS: Final[Mapping[str, tuple[str, ...]]] = {
    "torch": ("torch",),
    "jax": ("jax", "optax", "flax"),
}
"""The frameworks, and the distributions that each framework needs."""


class Learner(Protocol):
    """The model and the optimizer of a study in one framework.

    Parameters, gradients and data are passed as NumPy arrays. Methods with parameters as an
    argument are pure: they change neither the training nor a random state.
    """

    backend: str

    def step(self, batch: Batch) -> Any:
        """Train on a mini-batch; return its loss before the step, a 0-d array of the framework."""

    def apply(self, gradients: Parameters, loss: float, hessian: Parameters | None = None) -> None:
        """Step the optimizer with given gradients, a loss and an estimate of the Hessian."""

    def end_epoch(self, loss: float, train: Batch) -> Ended:
        """Let the method end an epoch; without a method nothing happens.

        Args:
            loss: the mean loss of the epoch.
            train: all training data.
        """

    def parameters(self) -> Parameters:
        """Return a copy of the parameters."""

    def loss(self, parameters: Parameters, batch: Batch) -> float:
        """Return the loss at some parameters."""

    def gradients(self, parameters: Parameters, batch: Batch) -> Parameters:
        """Return the gradients of the loss at some parameters."""

    def hessian(self, parameters: Parameters, batch: Batch) -> Parameters | None:
        """Return an estimate of the diagonal of the Hessian, if the algorithm needs one.

        Not pure: it draws the random signs of the next step of the training.
        """

    def outputs(self, parameters: Parameters, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs of the model for some inputs at some parameters."""


def installed_backends() -> list[str]:
    """Return the installed frameworks."""
    return [name for name, needs in BACKENDS.items() if all(map(find_spec, needs))]


def checked(device: str, backends: Sequence[str]) -> str:
    """Return the device.

    Raises:
        ValueError: if a framework has no such device.
    """
    for backend in backends if device != "cpu" else ():
        if backend == "torch":
            import torch

            found = torch.cuda.is_available()
        else:
            import jax

            found = jax.default_backend() == "gpu"
        if not found:
            raise ValueError(
                f"device = {device!r}: {backend} has no such device here; allowed is 'cpu'"
            )
    return device


def make_learner(backend: str, study: Study, optimizer: Optimizer) -> Learner:
    """Import the framework; return a learner at the initial parameters of the study."""
    learner: Learner = import_module(f"{__package__}.{backend}_learner").make(study, optimizer)
    return learner


def run_epochs(
    study: Study,
    learner: Learner,
    *,
    after_step: Callable[[], None] | None = None,
    before_end: Callable[[list[float]], None] | None = None,
) -> Iterator[Ended]:
    """Train, and yield the result of the method at the end of each epoch.

    Args:
        study: the data and the number of epochs.
        learner: the learner to train.
        after_step: called after each step.
        before_end: called with the losses of the mini-batches after the steps of an epoch.
    """
    for epoch in range(1, study.epochs + 1):
        losses = []
        for batch in study.batches(epoch):
            losses.append(learner.step(batch))
            if after_step is not None:
                after_step()
        numbers = [float(loss) for loss in losses]
        if before_end is not None:
            before_end(numbers)
        yield learner.end_epoch(mean(numbers), study.train)


def record(
    study: Study,
    learner: Learner,
    run: Run,
    *,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    """Train and record every epoch; recording does not change the training.

    Args:
        study: the data and the number of epochs.
        learner: the learner to train.
        run: the run, open for writing.
        after_epoch: called after each epoch, for a progress bar.
    """
    path = Path.start(learner.parameters(), study.path_every)
    meter = EpochMeter(learner.parameters())
    every_step = study.path_every == "step"
    row: dict[str, Any] = {}
    watch = Stopwatch(study.device)

    def measure(losses: list[float]) -> None:
        with watch.stopped():
            row.update(meter.close(losses, learner.parameters()))

    def add_to_path() -> None:
        with watch.stopped():
            path.append(learner.parameters())

    after_step = add_to_path if every_step else None
    training = run_epochs(study, learner, after_step=after_step, before_end=measure)
    for number, ended in enumerate(training, 1):
        row["seconds"] = watch.seconds()
        here = learner.parameters()
        meter.moved(here, undone=ended.undone)
        row["method"] = asdict(ended)
        if study.test is not None:
            outputs = learner.outputs(here, study.test.inputs)
            row |= study.metrics(outputs, study.test.targets)
        if every_step:
            path.replace_last(here)
        else:
            path.append(here)
        run.epoch(number, row)
        after_epoch()
        watch.restart()
    finish(run, study.epochs, learner.parameters(), path, final_loss(study, learner))


def final_loss(study: Study, learner: Learner) -> float:
    """Return the mean loss of the mini-batches of the training data, without dropout."""
    here = learner.parameters()
    batches = (batch._replace(masks=()) for batch in study.batches(1))
    return mean([learner.loss(here, batch) for batch in batches])
