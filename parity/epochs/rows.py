"""Code for all backends: the record of an epoch, a loss, and when an epoch is undone."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.backends import Run

from .cases import Tree


class Rows:
    """The record of every epoch."""

    def __init__(self) -> None:
        self.run = Run()
        self._columns: dict[str, list[Any]] = {}

    def add(self, params: Tree, **noted: Any) -> None:
        self.run.trajectory.append(params)
        for name, value in noted.items():
            self._columns.setdefault(name, []).append(value)

    def done(self) -> Run:
        for name, column in self._columns.items():
            values = np.asarray(column).astype(np.float64)
            if name == "size":
                self.run.norms[name] = values
            elif name == "cosine":
                self.run.angles[name] = values
            else:
                self.run.state[name] = values
        return self.run


def undone(loss: float) -> bool:
    """Return whether a case of backstep undoes an epoch."""
    return not loss <= 1.0  # also for NaN


def distance(xp: Any, theta: Any, target: Any) -> Any:
    """Return |θ − θ*| of one element, in the dtype of the parameters, rounded once."""
    return xp.abs(theta[-1].reshape(-1)[0] - target[-1].reshape(-1)[0])
