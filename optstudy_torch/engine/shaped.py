"""Run a program of one shape on all leaves of a group with the shape, at once.

Bodies, sums and sums along an axis are kernels. Moves and products are functions of the library,
leaf by leaf: a matrix product is as fast as in BLAS. A branch, or an iteration of a cycle, runs for
the leaves that satisfy the condition.

The last phase writes the state and the parameters in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .alike import Alike
from .arguments import OfOneStep
from .kernels import Run
from .kernels_of_shape import OfShape
from .memory import Memory
from .phases import Added, Branch, Cycle, Output, Phase
from .program import Program
from .trace import Move, Product, Sum, Symbol


class Whole(NamedTuple):
    """A sum over all leaves of a group; an execution has some of the leaves.

    Attributes:
        node: the sum.
        vectors: the vectors of the leaves of the execution.
    """

    node: Sum
    vectors: list[Sequence[Any]]


Running = Generator[list[Whole], Any, None]
"""A running program, which yields when it needs sums over all leaves."""


class _Some(dict[str, Any]):
    """Values of some leaves, selected from the values of all leaves on demand.

    Args:
        whole: the values of all leaves.
        pick: a function that selects some leaves of a value.
    """

    def __init__(self, whole: Mapping[str, Any], pick: Callable[[Any], Any]) -> None:
        super().__init__()
        self._whole, self._pick = whole, pick

    def __missing__(self, name: str) -> Any:
        found = self[name] = self._pick(self._whole[name])
        return found


class Execution:
    """A program on leaves of its shape, in one step.

    Args:
        program: the program for the shape and working dtype of the leaves.
        kernels: the kernels of the program.
        hyperparameters: numbers by name; step counts are added.
        count: the number of leaves.
        values: arrays of each leaf by name: ``p``, ``g``, inputs and fields of the state.
        scalars: vectors with a number for each leaf, by name.
        adds: whether to add the step to ``p`` in place.
    """

    def __init__(
        self,
        program: Program,
        kernels: OfShape,
        hyperparameters: dict[str, Any],
        count: int,
        values: dict[str, Any],
        scalars: dict[str, Any],
        adds: bool,
    ) -> None:
        assert program.dtype is not None
        self.program, self.kernels, self.count = program, kernels, count
        self._memory: Memory = kernels.memory
        self.device = self._memory.device
        self.hyperparameters, self.adds = hyperparameters, adds
        self.values, self.scalars = values, scalars
        self.dtype = program.dtype
        self.arguments = OfOneStep(self._memory, count)
        self._views: set[str] = set()  # values that may share memory with others

    def run(self) -> Running:
        """Run the program.

        Yields:
            sums over all leaves, and expects their values; an empty list before the part that
            writes, when all memory is allocated.
        """
        for name, x in self.scalars.items():
            self.scalars[name] = self._memory.vector(Symbol(name, ()), x)
        for name, (number, symbol) in self.program.numbers.items():
            with np.errstate(all="ignore"):
                value = number.value(self.hyperparameters)
            self.scalars[name] = self._memory.spread(symbol, value, self.count)
        *before, last = self.program.phases
        for phase in before:
            yield from self._phase(phase)
        ends = [output for body in last.bodies for output in body.moved]
        for name in {x for body in last.bodies for x in body.arrays} & self._views:
            self.values[name] = self.values[name].copied()  # others are written before it is read
        kept = {o.source.name: self.value(o.source).copied() for o in ends if self._is_given(o)}
        bodies = self._bodies(last)
        yield []
        for body in bodies:
            body()
        for output in ends:
            self._move(output, kept.get(output.source.name))

    def _is_given(self, output: Output) -> bool:
        """Return whether the source of an output is memory that another output may overwrite."""
        name = output.source.name
        if not output.source.is_array or name not in self.values:  # a result of the last phase
            return False
        own = {id(x) for given in self.values if given[0] != "t" for x in self.values[given]}
        views = name[0] != "t" or name in self._views
        return views or any(id(x) in own for x in self.values[name])

    def _move(self, output: Output, kept: Alike | None) -> None:
        source = kept or self.value(output.source)
        if output.target == "step" and not self.adds:
            self.values["step"] = source
            return
        to = self.values["p" if output.target == "step" else output.target]
        for x, y in zip(to, source, strict=True):
            self._memory.write(x, y, output.target == "step")

    # Phases.

    def _bodies(self, phase: Phase) -> list[Run]:
        self.kernels.scalars(self, phase)
        return self.kernels.bodies(self, phase)

    def _phase(self, phase: Phase) -> Running:
        for body in self._bodies(phase):
            body()
        whole = []
        for x in phase.barriers:
            if isinstance(x, Sum) and x.whole:
                whole.append(Whole(x, [self.value(a) for a in x.args]))
            else:
                self._barrier(x)
        if whole:
            found = yield whole
            for own, value in zip(whole, found, strict=True):
                result = own.node.result
                self.scalars[result.name] = self._memory.spread(result, value, self.count)
        for name in phase.dropped:
            self.values.pop(name, None)

    def _phases(self, phases: Sequence[Phase]) -> None:
        """Run phases without sums over all leaves."""
        for phase in phases:
            for _ in self._phase(phase):
                raise AssertionError("a sum over all leaves in a branch")

    def _barrier(self, x: Any) -> None:
        if isinstance(x, Added):
            self.values[x.node.result.name] = self.kernels.added(self, x)
        elif isinstance(x, Sum):
            found = self.kernels.sums(self, x)
            self.scalars[x.result.name] = self._memory.vector(x.result, found)
        elif isinstance(x, Product):
            multiply = functools.partial(self._memory.product, rough=x.rough)
            self._enter(x.result, map(multiply, *map(self.value, x.args)))
        elif isinstance(x, Move):
            self._enter(x.result, map(x.function, *(self._column(a) for a in x.args)))
            self._views.add(x.result.name)
        else:
            run = self._branch if isinstance(x, Branch) else self._cycle
            run(x)
            self._views.update(result.name for result in x.node.results)

    def _enter(self, symbol: Symbol, arrays: Iterator[Any]) -> None:
        """Store an array of each leaf as a value."""
        if symbol.is_array:
            self.values[symbol.name] = self._memory.alike(symbol, arrays)
        else:
            self.scalars[symbol.name] = self._memory.vector(symbol, arrays)

    def _branch(self, branch: Branch) -> None:
        node = branch.node
        which = self._true(node.condition)
        if len(which):
            inside = self if len(which) == self.count else self._some(which)
            inside._phases(branch.phases)
        for result, made, old in zip(node.results, node.made, node.otherwise, strict=True):
            if len(which) == self.count:
                self._keep(result, self._of(made))
                continue
            own = list(self._of(old))
            if len(which):
                for i, x in zip(which, inside._of(made), strict=True):
                    own[i] = x
            self._enter(result, iter(own))

    def _cycle(self, cycle: Cycle) -> None:
        node = cycle.node
        ends = [list(self._of(x)) for x in node.begin]
        active, inside = np.arange(self.count), self._some(range(self.count))
        for carried, x in zip(node.carried, node.begin, strict=True):
            inside._keep(carried, self._of(x))
        for turn in range(node.most + 1):
            if turn < node.most:
                inside._phases(cycle.checks)
                left = inside._true(node.goes_on)
            else:
                left = np.empty(0, np.int64)
            for end, x in zip(ends, node.carried, strict=True):
                own = inside._of(x)
                for i in {*range(inside.count)} - {*left.tolist()}:
                    end[active[i]] = own[i]
            if not len(left):
                break
            if len(left) < inside.count:
                active, whole = active[left], inside
                inside = self._some(active)
                for x in node.carried:
                    inside._keep(x, whole._picked(left)(whole._of(x)))
            inside._phases(cycle.phases)
            made = [inside._of(x) for x in node.made]
            for carried, x in zip(node.carried, made, strict=True):
                inside._keep(carried, x)
        for result, end in zip(node.results, ends, strict=True):
            self._enter(result, iter(end))

    def _some(self, which: Any) -> Execution:
        """Return an execution of some of the leaves."""
        pick = self._picked(which)
        values, scalars = _Some(self.values, pick), _Some(self.scalars, pick)
        numbers = self.program, self.kernels, self.hyperparameters
        return Execution(*numbers, len(which), values, scalars, False)

    def _picked(self, which: Any) -> Callable[[Any], Any]:
        return lambda x: x.of(which) if isinstance(x, Alike) else x[which]

    # Methods for kernels.

    def value(self, x: Symbol | str) -> Alike:
        """Return the array of each leaf; for a scalar, its elements as arrays."""
        if isinstance(x, Symbol) and not x.is_array:
            return Alike.of_rows(self.vector(x))
        found: Alike = self.values[x.name if isinstance(x, Symbol) else x]
        return found

    def vector(self, symbol: Symbol) -> Any:
        """Return the scalars of all leaves as a vector."""
        return self._memory.vector(symbol, self.scalars[symbol.name])

    def make(self, name: str, symbol: Symbol, shape: tuple[int, ...] | None) -> None:
        """Allocate memory for a value; a field of the state is written in place."""
        if name[0] != "s" or name == "step":
            self.values[name] = self.empty(symbol, shape or ())

    def empty(self, symbol: Symbol, shape: tuple[int, ...]) -> Alike:
        """Return new arrays for the value of a symbol."""
        return self._memory.empty(self.count, symbol, shape)

    def _true(self, condition: Symbol) -> np.ndarray:
        """Return the indices of the leaves with a true condition."""
        return self._memory.true(self.scalars[condition.name])

    def _of(self, x: Symbol) -> Any:
        """Return the values of each leaf, one after another."""
        return self.values[x.name] if x.is_array else self.scalars[x.name]

    def _column(self, x: Symbol) -> Sequence[Any]:
        """Return the values of each leaf as arrays."""
        if x.is_array:
            return self.value(x)
        return self._memory.column(self.scalars[x.name])

    def _keep(self, symbol: Symbol, value: Any) -> None:
        (self.values if symbol.is_array else self.scalars)[symbol.name] = value
