"""What a study is: data, one model in both frameworks, a loss, and how its outputs are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from optstudy_core.schedules import Schedule

Parameters = dict[str, np.ndarray]
"""Parameters, gradients or steps by name, in PyTorch's layout; what crosses between frameworks."""

DEVICES: Final = ("cpu", "cuda")


class Batch(NamedTuple):
    """Examples, one a row.

    Attributes:
        inputs: shape (n, …), float32.
        targets: shape (n, …), float32 for numbers, int32 for classes.
        masks: what dropout multiplies the activations by, one array of shape (n, …) for each place
            of dropout in the model; none: the model as it is evaluated.
    """

    inputs: np.ndarray
    targets: np.ndarray
    masks: tuple[np.ndarray, ...] = ()

    def take(self, rows: Any) -> Batch:
        """Return some of the examples.

        Args:
            rows: their numbers, an array of integers or a slice.
        """
        masks = tuple(mask[rows] for mask in self.masks)
        return Batch(self.inputs[rows], self.targets[rows], masks)


class Dropout(NamedTuple):
    """A place of dropout: a share ``rate`` of the activations is 0, the others are /(1 − rate).

    Attributes:
        shape: of the activations of one example, in PyTorch's order (channels, length).
        rate: the share that is dropped.
    """

    shape: tuple[int, ...]
    rate: float

    def draw(self, random: np.random.Generator, examples: int) -> np.ndarray:
        """Return a mask for some examples, float32.

        Args:
            random: a generator, from which the mask is drawn.
            examples: how many.
        """
        kept = random.random((examples, *self.shape), np.float32) >= self.rate
        return np.where(kept, np.float32(1 / (1 - self.rate)), np.float32(0))


class NnxLeaf(NamedTuple):
    """Where a parameter is in the nnx model.

    Attributes:
        path: attribute names from the model to the parameter.
        axes: the order of PyTorch's axes in nnx, e.g. (1, 0) for the kernel of a linear layer;
            ``None``: the same order.
    """

    path: tuple[str, ...]
    axes: tuple[int, ...] | None = None

    def to_nnx(self, value: Any) -> Any:
        """Return the array as nnx has it.

        Args:
            value: the array as PyTorch has it, of NumPy or JAX.
        """
        return value if self.axes is None else value.transpose(self.axes)

    def from_nnx(self, value: Any) -> Any:
        """Return the array as PyTorch has it.

        Args:
            value: the array as nnx has it, of NumPy or JAX.
        """
        return value if self.axes is None else value.transpose(self.torch_axes)

    @property
    def torch_axes(self) -> tuple[int, ...] | None:
        """The order of nnx's axes in PyTorch."""
        return None if self.axes is None else tuple(np.argsort(self.axes).tolist())


class Assessed(NamedTuple):
    """What a network is worth to those who use it.

    Attributes:
        numbers: by name, for a table.
        drawings: by name; each draws a figure, given one of Matplotlib. ``predictions`` stands for
            what ``draw_predictions`` draws of a run.
    """

    numbers: Mapping[str, float]
    drawings: Mapping[str, Callable[[Any], None]]


def _absent(*given: Any) -> Any:
    """Stand for the model and the loss of a framework that a study has not."""
    raise ValueError("the study has no model in this framework")


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """An experiment, the same in both frameworks, or in one of them.

    Nothing here imports a framework before one of its functions is called. A study in one
    framework leaves the model and the loss of the other away.

    Attributes:
        name: of the folder for its runs.
        title: for figures.
        seed: what data, initial parameters and the order of mini-batches are drawn from.
        train: the training data; its size is a multiple of ``batch_size``, so that every
            mini-batch counts the same in an epoch's mean loss.
        initial: initial parameters, float32, under the names of the PyTorch model.
        nnx_leaves: where each of them is in the nnx model, if there is one.
        torch_model: makes the ``torch.nn.Module``.
        nnx_model: makes the ``flax.nnx.Module``.
        torch_loss: ``(outputs, targets) -> 0-d tensor``.
        jax_loss: ``(outputs, targets) -> 0-d array``.
        batch_size: examples in a mini-batch.
        epochs: how many, unless the user says otherwise.
        test: the held-out data, if any.
        loss_label: what the loss is, for figures.
        learning_rates: by algorithm; where there is none, the algorithm's default holds.
        schedule: makes of a learning rate and the number of all steps the rate at each step, a
            :class:`optstudy_core.schedules.Schedule`; ``None``: the rate is constant.
        path_every: how often the parameters are written down.
        metrics: numbers for ``(outputs, targets)`` of the test data, by name.
        assess: says what the network is worth to those who use it, of a function that returns its
            outputs for some inputs; ``None``: nothing besides the metrics.
        draw_predictions: draws the model's predictions over training; see :mod:`studies.figures`;
            ``None``: there is no such figure.
        showcase: the examples that ``draw_predictions`` shows.
        dropout: where the model drops activations, in the order of its masks.
        threads: for PyTorch; ``None``: its own choice. One is best for small models.
        device: where both frameworks compute: one of :data:`DEVICES`.
        landscape: the examples whose loss is drawn around the path; ``None``: all of ``train``.
        grid: points along each side of that drawing.
        at_once: the most examples whose loss is computed at once, where memory is the limit: a
            divisor of the number of training examples; ``None``: all.

    Raises:
        ValueError: if the mini-batches do not divide the data, the names do not fit, or no
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
            raise ValueError("neither torch_model nor nnx_model: allowed is one of them, or both")
        if "jax" in self.backends and set(self.initial) != set(self.nnx_leaves):
            raise ValueError(
                f"nnx_leaves names {sorted(self.nnx_leaves)}: allowed are {sorted(self.initial)}"
            )

    @property
    def backends(self) -> tuple[str, ...]:
        """The frameworks that the study has a model in."""
        models = {"torch": self.torch_model, "jax": self.nnx_model}
        return tuple(name for name, model in models.items() if model is not _absent)

    def rate(self, lr: float) -> float | Schedule:
        """Return the learning rate of a training.

        Args:
            lr: the learning rate, of a schedule the peak.

        Returns:
            ``lr``, or the study's schedule for all steps.
        """
        if self.schedule is None:
            return lr
        return self.schedule(lr, self.epochs * self.steps_per_epoch)

    def parts(self, examples: int) -> list[slice]:
        """Return the rows of the parts of some examples that may be computed at once.

        Args:
            examples: how many there are.
        """
        size = self.at_once or examples
        return [slice(i, i + size) for i in range(0, examples, size)]

    @property
    def steps_per_epoch(self) -> int:
        """The number of mini-batches in an epoch."""
        return len(self.train.targets) // self.batch_size

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the mini-batches of an epoch in their order.

        The order depends on the seed and the epoch only, so a run can be taken up at any epoch.

        Args:
            epoch: its number, from 1.
        """
        order = stream(self.seed, "batches", epoch).permutation(len(self.train.targets))
        random = stream(self.seed, "dropout", epoch)
        for rows in order.reshape(self.steps_per_epoch, self.batch_size):
            masks = tuple(place.draw(random, len(rows)) for place in self.dropout)
            yield self.train.take(rows)._replace(masks=masks)


def draw_signs(random: np.random.Generator, shapes: Mapping[str, tuple[int, ...]]) -> Parameters:
    """Return +1 or -1 for each element, float32: for estimates of a Hessian's diagonal.

    They are drawn by name, so that frameworks that order parameters differently get the same.
    """
    drawn = {
        name: np.asarray(random.integers(0, 2, shapes[name]) * 2 - 1, np.float32)
        for name in sorted(shapes)
    }
    return {name: drawn[name] for name in shapes}


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return the random numbers for a purpose; those of two purposes are independent.

    >>> stream(1, "noise").random() == stream(1, "noise").random()
    True
    """
    return np.random.default_rng([seed, *purpose.encode(), *numbers])


def layers(
    seed: int, shapes: Mapping[str, tuple[int, ...]], gain: float = 1.0
) -> tuple[Parameters, dict[str, NnxLeaf]]:
    """Return the initial parameters of linear and convolutional layers, and their nnx leaves.

    Weights are uniform in ±gain/√(inputs of an output), biases in ±1/√(inputs of an output).

    Args:
        seed: of the draws.
        gain: 1 is PyTorch's rule; √6 keeps the size of the activations from layer to layer if the
            units are rectified (He et al. 2015, *Delving deep into rectifiers*).
        shapes: of the weights, by the layers' names, in PyTorch's order: (outputs, inputs, …).

    Returns:
        ``"<layer>.weight"`` and ``"<layer>.bias"`` by name, float32; and where nnx has them, which
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
        examples: all of them.
        batch_size: the number of training examples is a multiple of it: up to ``batch_size − 1``
            are left out.
        order: of the rows.
        held_out: how many are held out, the last of the order.

    Raises:
        ValueError: if there are too few.
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
