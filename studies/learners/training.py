"""Training: one loop for both frameworks, and what a framework must provide for it.

:func:`run_epochs` is the training itself and measures nothing; :func:`record` runs it and writes
down every epoch. Only the learners know a framework: ``torch_learner`` and ``jax_learner``.
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
"""The frameworks, and the distributions that each of them needs."""


class Learner(Protocol):
    """A study's model and its optimizer in one framework.

    Parameters, gradients and data cross as NumPy arrays. The methods that take parameters are
    pure: they read the model's form only, and neither the training nor a random state changes.
    """

    backend: str

    def step(self, batch: Batch) -> Any:
        """Train on a mini-batch; return its loss before the step, a 0-d array of the framework."""

    def apply(self, gradients: Parameters, loss: float, hessian: Parameters | None = None) -> None:
        """Make the optimizer's step for gradients, a loss and a Hessian from elsewhere."""

    def end_epoch(self, loss: float, train: Batch) -> Ended:
        """Let the method end an epoch; without one nothing happens.

        Args:
            loss: the epoch's mean loss.
            train: all training data.
        """

    def parameters(self) -> Parameters:
        """Return a copy of the parameters."""

    def loss(self, parameters: Parameters, batch: Batch) -> float:
        """Return the loss at some parameters."""

    def gradients(self, parameters: Parameters, batch: Batch) -> Parameters:
        """Return the gradients of the loss at some parameters."""

    def hessian(self, parameters: Parameters, batch: Batch) -> Parameters | None:
        """Return an estimate of the Hessian's diagonal, if the algorithm is given one.

        Not pure: it draws the signs that the training's next step would draw.
        """

    def outputs(self, parameters: Parameters, inputs: np.ndarray) -> np.ndarray:
        """Return what the model makes of some inputs at some parameters."""


def installed_backends() -> list[str]:
    """Return the frameworks that can be imported here."""
    return [name for name, needs in BACKENDS.items() if all(map(find_spec, needs))]


def checked(device: str, backends: Sequence[str]) -> str:
    """Return the device.

    Raises:
        ValueError: if a framework has none of that kind.
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
    """Return a learner at the study's initial parameters; imports the framework."""
    learner: Learner = import_module(f"{__package__}.{backend}_learner").make(study, optimizer)
    return learner


def run_epochs(
    study: Study,
    learner: Learner,
    *,
    after_step: Callable[[], None] | None = None,
    before_end: Callable[[list[float]], None] | None = None,
) -> Iterator[Ended]:
    """Train, and yield what the method did at the end of each epoch.

    Args:
        study: the data, and how many epochs.
        learner: is trained.
        after_step: called after each step.
        before_end: called with the losses of the mini-batches when an epoch's steps are made.
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
    """Train and write every epoch down; the training is the same as without.

    Args:
        study: the data, and how many epochs.
        learner: is trained.
        run: open for writing.
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
