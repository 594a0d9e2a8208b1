"""The interface of backends, their report of a case, and its norms and angles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optstudy_core import Algorithm, geometry
from parity.case import Case


@dataclass
class Run:
    """The results of a backend for a case, as NumPy arrays.

    Attributes:
        trajectory: the parameters after each step, a list of leaves.
        state: the fields of the state after the last step, by ``path.field``.
        norms: norms of the parameters, of the last step and of all steps together, also by leaf.
        angles: the angle between the last step and all steps together, in radians, and its cosine.
    """

    trajectory: list[list[np.ndarray]] = field(default_factory=list)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    norms: dict[str, np.ndarray] = field(default_factory=dict)
    angles: dict[str, np.ndarray] = field(default_factory=dict)


class Backend(ABC):
    """A library, eager or compiled."""

    name: str
    device: str = "cpu"

    @abstractmethod
    def run(self, algorithm: Algorithm, case: Case) -> Run:
        """Train ``case`` with ``algorithm`` and measure it."""


def measure(run: Run, norm: Any, cosine: Any, angle: Any, triple: list[Any], leaves: Any) -> None:
    """Fill in norms and angles, from parameters at the start, before the last step and the end."""
    first, last, whole = triple
    for name, tree in (("parameters", first), ("last step", last), ("all steps", whole)):
        run.norms[name] = np.array(norm(tree), dtype=np.float64)
    for path, leaf in leaves:
        run.norms[path] = np.array(norm(leaf), dtype=np.float64)
    run.angles["cosine of last step and all steps"] = np.array(cosine(last, whole), np.float64)
    run.angles["angle of last step and all steps"] = np.array(angle(last, whole), np.float64)


def measure_on_host(run: Run, paths: list[str], triple: list[Any]) -> None:
    """Fill in norms and angles with the geometry of the core."""
    leaves = zip(paths, triple[2], strict=True)
    measure(run, geometry.norm, geometry.cosine, geometry.angle, triple, leaves)


def minus(x: list[Any], y: list[Any]) -> list[Any]:
    """Return the differences of the leaves of two trees."""
    return [a - b for a, b in zip(x, y, strict=True)]
