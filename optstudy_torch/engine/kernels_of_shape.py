"""The common base of kernels for a program of one shape, in C and in Triton."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from .alike import Alike
from .kernels import Run
from .memory import Memory
from .phases import Added, Body, Branch, Cycle, Phase
from .program import Program
from .source import kept_names
from .trace import Sum


class OfShape(ABC):
    """The kernels of each phase of a program, for an execution.

    Attributes:
        program: the program of one shape.
        memory: the memory for the values of the program.
    """

    memory: Memory

    def __init__(self, program: Program) -> None:
        self.program = program
        self._made: dict[int, list[Any]] = {}
        self._enter(program.phases, program.kept)

    def _enter(self, phases: Sequence[Phase], kept: Sequence[Any]) -> None:
        names = kept_names(phases, kept)
        for phase in phases:
            bodies = [self._body(body) for body in phase.bodies if body.outputs]
            self._made[id(phase)] = [self._scalars(phase, names), *bodies]
            for barrier in phase.barriers:
                if isinstance(barrier, Added):
                    self._made[id(barrier)] = [self._added(barrier)]
                if isinstance(barrier, Cycle):
                    self._enter(barrier.checks, [barrier.node.goes_on])
                if isinstance(barrier, Branch | Cycle):
                    self._enter(barrier.phases, barrier.node.made)

    @abstractmethod
    def _scalars(self, phase: Phase, kept: set[str]) -> Any:
        """Return a function that computes the scalars of a phase; ``kept`` are stored."""

    @abstractmethod
    def _body(self, body: Body) -> Any:
        """Return a function that allocates memory and returns a function that runs a body."""

    @abstractmethod
    def _added(self, barrier: Added) -> Any:
        """Return a function that sums along an axis."""

    @abstractmethod
    def sums(self, execution: Any, node: Sum) -> Any:
        """Return the float64 sums of each leaf."""

    def scalars(self, execution: Any, phase: Phase) -> None:
        """Compute the scalars of a phase."""
        self._made[id(phase)][0](execution, execution.hyperparameters)

    def bodies(self, execution: Any, phase: Phase) -> list[Run]:
        """Allocate memory; return functions that run the bodies of a phase, in order."""
        return [body(execution) for body in self._made[id(phase)][1:]]

    def added(self, execution: Any, barrier: Added) -> Alike:
        """Return sums along an axis."""
        found: Alike = self._made[id(barrier)][0](execution)
        return found
