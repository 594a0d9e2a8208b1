"""What a study is: data, one model in both frameworks, a loss, and how its outputs are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from optstudy_core.hyperparameters import nearest

Parameters = dict[str, np.ndarray]
"""Parameters, gradients or steps by name, in PyTorch's layout; what crosses between frameworks."""

STUDIES: Final = ("linear_regression", "digits")
"""The studies; each is the module of this package with that name."""


class Batch(NamedTuple):
    """Examples, one a row.

    Attributes:
        inputs: shape (n, …), float32.
        targets: shape (n,), float32 for numbers, int32 for classes.
    """

    inputs: np.ndarray
    targets: np.ndarray

    def take(self, rows: Any) -> Batch:
        """Return some of the examples."""
        return Batch(self.inputs[rows], self.targets[rows])


class NnxLeaf(NamedTuple):
    """Where a parameter is in the nnx model.

    Attributes:
        path: attribute names from the model to the parameter.
        axes: the order of PyTorch's axes in nnx, e.g. (1, 0) for the kernel of a linear layer;
            ``None``: the same order.
    """

    path: tuple[str, ...]
    axes: tuple[int, ...] | None = None

    def to_nnx(self, value: np.ndarray) -> np.ndarray:
        """Return the array as nnx has it."""
        return value if self.axes is None else np.transpose(value, self.axes)

    def from_nnx(self, value: np.ndarray) -> np.ndarray:
        """Return the array as PyTorch has it."""
        return value if self.axes is None else np.transpose(value, np.argsort(self.axes))


@dataclass(frozen=True, eq=False)
class Study:
    """An experiment, the same in both frameworks.

    Nothing here imports a framework before one of its functions is called.

    Attributes:
        name: the module of the study.
        title: for figures.
        seed: what data, initial parameters and the order of mini-batches are drawn from.
        train: the training data; its size is a multiple of ``batch_size``, so that every
            mini-batch counts the same in an epoch's mean loss.
        test: the held-out data, if any.
        initial: initial parameters, float32, under the names of the PyTorch model.
        nnx_leaves: where each of them is in the nnx model.
        torch_model: makes the ``torch.nn.Module``.
        nnx_model: makes the ``flax.nnx.Module``.
        torch_loss: ``(outputs, targets) -> 0-d tensor``.
        jax_loss: ``(outputs, targets) -> 0-d array``.
        loss_label: what the loss is, for figures.
        batch_size: examples in a mini-batch.
        epochs: how many, unless the user says otherwise.
        learning_rates: by algorithm; where there is none, the algorithm's default holds.
        path_every: how often the parameters are written down.
        metrics: numbers for ``(outputs, targets)`` of the test data, by name.
        draw_predictions: draws the model's predictions over training; see :mod:`studies.figures`.
        showcase: the examples that ``draw_predictions`` shows.
    """

    name: str
    title: str
    seed: int
    train: Batch
    test: Batch | None
    initial: Mapping[str, np.ndarray]
    nnx_leaves: Mapping[str, NnxLeaf]
    torch_model: Callable[[], Any]
    nnx_model: Callable[[], Any]
    torch_loss: Callable[[Any, Any], Any]
    jax_loss: Callable[[Any, Any], Any]
    loss_label: str
    batch_size: int
    epochs: int
    learning_rates: Mapping[str, float]
    path_every: Literal["step", "epoch"]
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    draw_predictions: Callable[..., None]
    showcase: Batch

    def __post_init__(self) -> None:
        size = len(self.train.targets)
        if size % self.batch_size:
            raise ValueError(f"batch_size = {self.batch_size}: allowed are divisors of {size}")
        if set(self.initial) != set(self.nnx_leaves):
            raise ValueError(
                f"nnx_leaves names {sorted(self.nnx_leaves)}: allowed are {sorted(self.initial)}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """The number of mini-batches in an epoch."""
        return len(self.train.targets) // self.batch_size

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the mini-batches of an epoch (from 1) in their order.

        The order depends on the seed and the epoch only, so a run can be taken up at any epoch.
        """
        order = stream(self.seed, "batches", epoch).permutation(len(self.train.targets))
        for rows in order.reshape(self.steps_per_epoch, self.batch_size):
            yield self.train.take(rows)


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return the random numbers for a purpose; those of two purposes are independent.

    >>> stream(1, "noise").random() == stream(1, "noise").random()
    True
    """
    return np.random.default_rng([seed, *purpose.encode(), *numbers])


def load(name: str, seed: int) -> Study:
    """Return a study.

    Args:
        name: one of :data:`STUDIES`.
        seed: for everything that is drawn at random, ≥ 0.

    Raises:
        ValueError: if there is no such study.
    """
    if name not in STUDIES:
        raise ValueError(f"study = {name!r}: {nearest(name, STUDIES)}")
    study: Study = import_module(f"{__package__}.{name}").study(seed)
    return study
