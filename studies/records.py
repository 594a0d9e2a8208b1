"""The parameters in the folder of a run of a study: at the end, and during the training.

The folder is one of :mod:`optstudy_core.records`. Its checkpoint, written when the training ends,
has the final parameters and the path to them.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from optstudy_core import records

from .study import Parameters


@dataclass
class Path:
    """The parameters during a training.

    Attributes:
        points: arrays by name, in order, starting with the initial parameters.
        every: whether there is a point for each step or for each epoch.
    """

    points: dict[str, list[np.ndarray]]
    every: Literal["step", "epoch"]

    @classmethod
    def start(cls, parameters: Parameters, every: Literal["step", "epoch"]) -> Path:
        """Return a path with one point."""
        return cls({name: [value] for name, value in parameters.items()}, every)

    def append(self, parameters: Parameters) -> None:
        """Add a point."""
        for name, values in self.points.items():
            values.append(parameters[name])

    def replace_last(self, parameters: Parameters) -> None:
        """Replace the last point, if a method has moved the parameters after the step."""
        for name, values in self.points.items():
            values[-1] = parameters[name]

    def __len__(self) -> int:
        return len(next(iter(self.points.values())))

    def __getitem__(self, index: int) -> Parameters:
        return {name: values[index] for name, values in self.points.items()}

    def at_epochs(self, steps_per_epoch: int) -> Path:
        """Return the points at the start and after each epoch."""
        stride = steps_per_epoch if self.every == "step" else 1
        return Path({name: values[::stride] for name, values in self.points.items()}, "epoch")

    def matrix(self, names: Iterable[str]) -> np.ndarray:
        """Return the points as vectors: shape (points, parameters), float64.

        Args:
            names: the order of the parameters in the vectors (a file keeps its own).
        """
        columns = [np.stack(self.points[n]).reshape(len(self), -1) for n in names]
        return np.concatenate(columns, axis=1).astype(np.float64)


@dataclass(frozen=True)
class Run:
    """A recorded run.

    Attributes:
        folder: the folder of the run.
        config: the configuration, with the versions.
        rows: the rows of the epochs.
        parameters: the final parameters of a study; ``None`` if the run has not finished, or is of
            another training loop.
        path: the parameters during the training, or ``None``.
        loss: the loss at the final parameters, the mean over the mini-batches of the training data
            without dropout, or ``None``.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    parameters: Parameters | None
    path: Path | None
    loss: float | None

    @property
    def is_unfinished(self) -> bool:
        """Whether the training of a study has not ended (unknown for other training loops)."""
        return "source" in self.config and self.parameters is None

    @property
    def step_rows(self) -> list[dict[str, Any]]:
        """The rows of the steps, read from the folder; one for each step that was recorded."""
        return records.Run.read(self.folder).step_rows

    def column(self, name: str) -> np.ndarray:
        """Return a measurement over the epochs, float64; see ``optstudy_core.records.Run``."""
        return records.column(self.rows, name)

    def layer_column(self, layer: str, name: str) -> np.ndarray:
        """Return a measurement of one layer over the epochs, float64."""
        return self.column(f"layers/{layer}/{name}")


def finish(run: records.Run, epoch: int, parameters: Parameters, path: Path, loss: float) -> None:
    """Write the final parameters, the path to them, and their loss."""
    points = {name: np.stack(values) for name, values in path.points.items()}
    tree = {"parameters": parameters, "path": points, "every": path.every, "loss": loss}
    run.checkpoint(epoch, *records.pack(tree))


def read(folder: pathlib.Path) -> Run:
    """Read the folder of a run.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if a file is damaged.
    """
    run = records.Run.read(folder)
    last = run.last_checkpoint()
    parameters = path = loss = None
    if last is not None:
        where = f"{folder}, the checkpoint of epoch {last.epoch}"
        try:
            tree = records.unpack(last.arrays, last.state)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if "source" in run.config or (isinstance(tree, dict) and "path" in tree):
            parameters, path, loss = _finished(tree, where)
    return Run(folder, run.config, run.epochs, parameters, path, loss)


def _finished(tree: Any, where: str) -> tuple[Parameters, Path, float]:
    """Return the values from :func:`finish`.

    Raises:
        ValueError: if the tree has another form.
    """

    def check(fits: bool, entry: str, expected: str) -> None:
        if not fits:
            raise ValueError(f"{where}: {entry} is missing or wrong; expected is {expected}")

    found = tree if isinstance(tree, dict) else {}
    parameters: Any = found.get("parameters")
    points: Any = found.get("path")
    loss: Any = found.get("loss")
    check(_are_arrays(parameters), "parameters", "an array by each name")
    check(_are_arrays(points), "path", "an array by each name")
    shapes = {name: value.shape for name, value in parameters.items()}
    lengths = {len(value) if value.ndim else 0 for value in points.values()}
    fits = {name: value.shape[1:] for name, value in points.items()} == shapes
    check(fits and len(lengths) == 1 and 0 not in lengths, "path", "the shapes of the parameters")
    check(found.get("every") in ("step", "epoch"), "every", "step or epoch")
    check(
        isinstance(loss, float) or (isinstance(loss, int) and abs(loss) < 2**1023),
        "loss",
        "a number",
    )
    return parameters, Path({n: list(v) for n, v in points.items()}, found["every"]), loss


def _are_arrays(values: Any) -> bool:
    return isinstance(values, dict) and all(
        isinstance(name, str) and isinstance(value, np.ndarray | np.generic)
        for name, value in values.items()
    )


def encode(value: Any) -> Any:
    """Return ``value`` with replacements for numbers that JSON does not have.

    >>> encode({"angle": math.nan, "loss": [math.inf, 1.0]})
    {'angle': None, 'loss': ['Infinity', 1.0]}
    """
    if isinstance(value, Mapping):
        return {key: encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [encode(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            return None
        return "Infinity" if value > 0 else "-Infinity"
    return value
