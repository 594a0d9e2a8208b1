"""What a backend is, what it reports of a case, and how the report is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optstudy_core import Algorithm, geometry
from parity.cases import Case


@dataclass
class Run:
    """What a backend made of a case, as NumPy arrays.

    Attributes:
        trajectory: the parameters after each step, a list of leaves.
        state: the fields of the state after the last step, by ``path.field``.
        norms: of the parameters, the last step and all steps together, and each leaf's.
        angles: between the last step and all steps together, radians and the cosine.
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
    """Fill in norms and angles: of the start, the step before the end and the end."""
    first, last, whole = triple
    for name, tree in (("parameters", first), ("last step", last), ("all steps", whole)):
        run.norms[name] = np.array(norm(tree), dtype=np.float64)
    for path, leaf in leaves:
        run.norms[path] = np.array(norm(leaf), dtype=np.float64)
    run.angles["cosine of last step and all steps"] = np.array(cosine(last, whole), np.float64)
    run.angles["angle of last step and all steps"] = np.array(angle(last, whole), np.float64)


def measure_on_host(run: Run, paths: list[str], triple: list[Any]) -> None:
    """Fill in norms and angles by the core's own geometry."""
    leaves = zip(paths, triple[2], strict=True)
    measure(run, geometry.norm, geometry.cosine, geometry.angle, triple, leaves)


def minus(x: list[Any], y: list[Any]) -> list[Any]:
    """Return the differences of the leaves of two trees."""
    return [a - b for a, b in zip(x, y, strict=True)]
