"""The definition of a study: data, one model in both frameworks, a loss, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from optstudy_core.schedules import Schedule

Parameters = dict[str, np.ndarray]
"""Parameters, gradients or steps by name, in the layout of PyTorch, for both frameworks."""

DEVICES: Final = ("cpu", "cuda")


class Batch(NamedTuple):
    """Examples, one in each row.

    Attributes:
        inputs: array of shape (n, …), float32.
        targets: array of shape (n, …), float32 for numbers, int32 for classes.
        masks: the factors of the activations for dropout, one array of shape (n, …) for each
            dropout layer of the model; empty for evaluation.
    """

    inputs: np.ndarray
    targets: np.ndarray
    masks: tuple[np.ndarray, ...] = ()

    def take(self, rows: Any) -> Batch:
        """Return some of the examples.

        Args:
            rows: the numbers of the examples, an array of integers or a slice.
        """
        masks = tuple(mask[rows] for mask in self.masks)
        return Batch(self.inputs[rows], self.targets[rows], masks)


class Dropout(NamedTuple):
    """A dropout layer: a fraction ``rate`` of the activations is 0, the others are /(1 − rate).

    Attributes:
        shape: the shape of the activations of one example, in the order of PyTorch (channels,
            length).
        rate: the fraction of dropped activations.
    """

    shape: tuple[int, ...]
    rate: float

    def draw(self, random: np.random.Generator, examples: int) -> np.ndarray:
        """Return a mask for some examples, float32.

        Args:
            random: the random generator.
            examples: the number of examples.
        """
        kept = random.random((examples, *self.shape), np.float32) >= self.rate
        return np.where(kept, np.float32(1 / (1 - self.rate)), np.float32(0))


class NnxLeaf(NamedTuple):
    """The place of a parameter in the nnx model.

    Attributes:
        path: the attribute names from the model to the parameter.
        axes: the order in nnx of the axes in PyTorch, e.g. (1, 0) for the kernel of a linear layer;
            ``None``: the same order.
    """

    path: tuple[str, ...]
    axes: tuple[int, ...] | None = None

    def to_nnx(self, value: Any) -> Any:
        """Return the array with axes in the order of nnx.

        Args:
            value: the array with axes in the order of PyTorch, of NumPy or JAX.
        """
        return value if self.axes is None else value.transpose(self.axes)

    def from_nnx(self, value: Any) -> Any:
        """Return the array with axes in the order of PyTorch.

        Args:
            value: the array with axes in the order of nnx, of NumPy or JAX.
        """
        return value if self.axes is None else value.transpose(self.torch_axes)

    @property
    def torch_axes(self) -> tuple[int, ...] | None:
        """The order in PyTorch of the axes in nnx."""
        return None if self.axes is None else tuple(np.argsort(self.axes).tolist())


class Assessed(NamedTuple):
    """An assessment of a trained network in the terms of its application.

    Attributes:
        numbers: numbers by name, for a table.
        drawings: functions by name, each of which draws on a figure of Matplotlib. The name
            ``predictions`` is for the same figure as ``draw_predictions`` draws for a run.
    """

    numbers: Mapping[str, float]
    drawings: Mapping[str, Callable[[Any], None]]


def _absent(*given: Any) -> Any:
    """Stand for the model and the loss of a framework that a study does not use."""
    raise ValueError("the study has no model in this framework")


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """An experiment, the same in both frameworks, or in one of them.

    No framework is imported before one of these functions is called. A study in one framework
    leaves out the model and the loss of the other.

    Attributes:
        name: the name of the folder for its runs.
        title: the title for figures.
        seed: the seed of data, initial parameters and the order of mini-batches.
        train: the training data. Its size is a multiple of ``batch_size``, so that every mini-batch
            has the same weight in the mean loss of an epoch.
        initial: the initial parameters, float32 arrays, by the names of the PyTorch model.
        nnx_leaves: the place of each parameter in the nnx model, if there is one.
        torch_model: a function that makes the ``torch.nn.Module``.
        nnx_model: a function that makes the ``flax.nnx.Module``.
        torch_loss: ``(outputs, targets) -> 0-d tensor``.
        jax_loss: ``(outputs, targets) -> 0-d array``.
        batch_size: the number of examples in a mini-batch.
        epochs: the default number of epochs.
        test: the held-out data, if any.
        loss_label: a description of the loss, for figures.
        learning_rates: learning rates by algorithm; other algorithms use their default.
        schedule: a function of a learning rate and the number of all steps, which returns a
            :class:`optstudy_core.schedules.Schedule`; ``None``: the rate is constant.
        path_every: how often the parameters are recorded.
        metrics: a function of ``(outputs, targets)`` of the test data, which returns numbers by
            name.
        assess: a function that assesses the network in the terms of its application. Its argument
            is a function that returns the outputs for some inputs. ``None``: only the metrics.
        draw_predictions: a function that draws the predictions of the model over the training; see
            :mod:`studies.figures`. ``None``: no such figure.
        showcase: the examples that ``draw_predictions`` shows.
        dropout: the dropout layers of the model, in the order of the masks.
        threads: the number of threads of PyTorch; ``None``: the choice of PyTorch. One thread is
            best for small models.
        device: the device of both frameworks, one of :data:`DEVICES`.
        landscape: the examples for the drawing of the loss around the path; ``None``: all of
            ``train``.
        grid: the number of points along each side of that drawing.
        at_once: the largest number of examples to compute at once, if memory is the limit: a
            divisor of the number of training examples; ``None``: all.

    Raises:
        ValueError: if the mini-batches do not divide the data, if names do not match, or if no
            framework has both a model and a loss.
    """

    name: str
    title: str
    seed: int
    train: Batch
    initial: Mapping[str, np.ndarray]
    nnx_leaves: Mapping[str, NnxLeaf] = field(default_factory=dict)
    torch_model: Callable[[], Any] = _absent
    nnx_model: Callable[[], Any] = _absent
    torch_loss: Callable[[Any, Any], Any] = _absent
    jax_loss: Callable[[Any, Any], Any] = _absent
    batch_size: int
    epochs: int
    test: Batch | None = None
    loss_label: str = "mean over the examples"
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    schedule: Callable[[float, int], Schedule] | None = None
    path_every: Literal["step", "epoch"] = "epoch"
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]] = lambda outputs, targets: {}
    assess: Callable[[Callable[[np.ndarray], np.ndarray]], Assessed] | None = None
    draw_predictions: Callable[..., None] | None = None
    showcase: Batch | None = None
    dropout: tuple[Dropout, ...] = ()
    threads: int | None = 1
    device: str = "cpu"
    landscape: Batch | None = None
    grid: int = 49
    at_once: int | None = None

    def __post_init__(self) -> None:
        size = len(self.train.targets)
        if size % self.batch_size:
            raise ValueError(f"batch_size = {self.batch_size}: allowed are divisors of {size}")
        if self.at_once is not None and size % self.at_once:
            raise ValueError(f"at_once = {self.at_once}: allowed are divisors of {size}")
        for model, loss in (("torch_model", "torch_loss"), ("nnx_model", "jax_loss")):
            given = [name for name in (model, loss) if getattr(self, name) is not _absent]
            if len(given) == 1:
                raise ValueError(f"{given[0]} alone: allowed are {model} and {loss} together")
        if not self.backends:
            raise ValueError("torch_model and nnx_model are missing: pass one of them, or both")
        if "jax" in self.backends and set(self.initial) != set(self.nnx_leaves):
            raise ValueError(
                f"nnx_leaves has {sorted(self.nnx_leaves)}: expected are the names in initial, "
                f"{sorted(self.initial)}"
            )

    @property
    def backends(self) -> tuple[str, ...]:
        """The frameworks in which the study has a model."""
        models = {"torch": self.torch_model, "jax": self.nnx_model}
        return tuple(name for name, model in models.items() if model is not _absent)

    def rate(self, lr: float) -> float | Schedule:
        """Return the learning rate of a training.

        Args:
            lr: the learning rate, or the peak of the schedule.

        Returns:
            ``lr``, or the schedule of the study for all steps.
        """
        if self.schedule is None:
            return lr
        return self.schedule(lr, self.epochs * self.steps_per_epoch)

    def parts(self, examples: int) -> list[slice]:
        """Return the rows of the parts of some examples, each small enough to compute at once.

        Args:
            examples: the number of examples.
        """
        size = self.at_once or examples
        return [slice(i, i + size) for i in range(0, examples, size)]

    @property
    def steps_per_epoch(self) -> int:
        """The number of mini-batches in an epoch."""
        return len(self.train.targets) // self.batch_size

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the mini-batches of an epoch in their order.

        The order depends on the seed and the epoch only, so a run can be resumed at any epoch.

        Args:
            epoch: the number of the epoch, from 1.
        """
        order = stream(self.seed, "batches", epoch).permutation(len(self.train.targets))
        random = stream(self.seed, "dropout", epoch)
        for rows in order.reshape(self.steps_per_epoch, self.batch_size):
            masks = tuple(place.draw(random, len(rows)) for place in self.dropout)
            yield self.train.take(rows)._replace(masks=masks)


def draw_signs(random: np.random.Generator, shapes: Mapping[str, tuple[int, ...]]) -> Parameters:
    """Return +1 or -1 for each element, float32, for estimates of the diagonal of a Hessian.

    The order of the draws is that of the names, so that all frameworks get the same signs.
    """
    drawn = {
        name: np.asarray(random.integers(0, 2, shapes[name]) * 2 - 1, np.float32)
        for name in sorted(shapes)
    }
    return {name: drawn[name] for name in shapes}


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return the random generator for a purpose; different purposes are independent.

    >>> stream(1, "noise").random() == stream(1, "noise").random()
    True
    """
    return np.random.default_rng([seed, *purpose.encode(), *numbers])


def layers(
    seed: int, shapes: Mapping[str, tuple[int, ...]], gain: float = 1.0
) -> tuple[Parameters, dict[str, NnxLeaf]]:
    """Return the initial parameters of linear and convolutional layers, and their nnx leaves.

    Weights are uniform in ±gain/√n and biases in ±1/√n, where n is the number of inputs of an
    output.

    Args:
        seed: the seed of the draws.
        gain: 1 is the rule of PyTorch; √6 keeps the size of the activations from layer to layer for
            rectified units (He et al. 2015, *Delving deep into rectifiers*).
        shapes: the shapes of the weights by the names of the layers, in the order of PyTorch:
            (outputs, inputs, …).

    Returns:
        ``"<layer>.weight"`` and ``"<layer>.bias"`` by name, float32; and their places in nnx, which
        keeps (…, inputs, outputs) in ``kernel``.
    """
    random = stream(seed, "parameters")
    drawn: Parameters = {}
    leaves: dict[str, NnxLeaf] = {}
    for layer, shape in shapes.items():
        limit = float(np.prod(shape[1:])) ** -0.5
        drawn[f"{layer}.weight"] = (gain * random.uniform(-limit, limit, shape)).astype(np.float32)
        drawn[f"{layer}.bias"] = random.uniform(-limit, limit, shape[0]).astype(np.float32)
        axes = (*range(2, len(shape)), 1, 0)
        leaves[f"{layer}.weight"] = NnxLeaf((layer, "kernel"), axes)
        leaves[f"{layer}.bias"] = NnxLeaf((layer, "bias"))
    return drawn, leaves


def split(
    examples: Batch, batch_size: int, order: Sequence[int] | np.ndarray, held_out: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the training and of the held-out examples.

    Args:
        examples: all examples.
        batch_size: the size of a mini-batch. The number of training examples is a multiple of it,
            so up to ``batch_size − 1`` examples are left out.
        order: the order of the rows.
        held_out: the number of held-out examples, the last ones in the order.

    Raises:
        ValueError: if there are too few examples.
    """
    number = len(examples.targets) - held_out
    number -= number % batch_size
    if number < batch_size or held_out < 1:
        raise ValueError(
            f"examples = {len(examples.targets)}: allowed are {batch_size + 1} or more, of which "
            f"{held_out} are held out"
        )
    order = np.asarray(order)
    return order[:number], order[len(order) - held_out :]
