"""An update rule as a program: traced once, then run on flat tensors of any length.

The pure function is called once with symbols, and every operation writes a line. What the formula
forms of hyperparameters and of counts of steps (1 − β, lr·λ, 1 − βᵗ) is no line: it is computed on
the host in double at every step and handed in, rounded once, so new learning rates need no new
program.

Lines of scalars (bias corrections, norms) are kept apart from lines of arrays, and both are cut
into phases: a phase ends where the formula sums over elements, because what follows has to wait
for all of them.

    phase 0: scalars, arrays that are summed; sums; phase 1: scalars, …; the new state and the step

:mod:`optstudy_torch.engine.dispatch` runs a program: in blocks, or compiled to kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from optstudy_core import Algorithm
from optstudy_core.arrays.leaves import Backend, Leaves, Reduction

from .host_numbers import COMPARISONS, HOST_NUMBERS, LOGICAL, HostNumber

INPUT = "x_"
"""What the names of symbols begin with that are given at every step, besides the gradient."""


class Symbol(NamedTuple):
    """A value of a program: one scalar a leaf, or an array like the leaf; numbers or truths."""

    name: str
    is_array: bool
    phase: int
    is_truth: bool = False


class Line(NamedTuple):
    """``name = operation(*args)``; arguments are symbols, host numbers and Python numbers."""

    result: Symbol
    operation: str
    args: tuple[Any, ...]


class Sum(NamedTuple):
    """``name = function(*args)``, a sum over the elements of each leaf or of all leaves."""

    result: Symbol
    function: Reduction
    args: tuple[Symbol, ...]
    whole: bool


class Choice(NamedTuple):
    """A count of steps that a truth chooses, which is known after sums: one of two counts.

    Attributes:
        condition: the truth, a scalar.
        new: the count where it holds.
        old: the count where it does not.
    """

    condition: Symbol
    new: HostNumber | Choice
    old: HostNumber | Choice

    def value(self, known: dict[str, Any], scalars: dict[str, Any]) -> Any:
        """Return the count, one for each leaf.

        Args:
            known: of :meth:`HostNumber.value`.
            scalars: by name, NumPy's or tensors.
        """
        truths = scalars[self.condition.name]
        truths = truths.cpu().numpy() if hasattr(truths, "cpu") else truths
        return np.where(truths, *(count_of(x, known, scalars) for x in (self.new, self.old)))

    @property
    def conditions(self) -> list[Symbol]:
        """All truths that have to be known."""
        parts = [x.conditions for x in (self.new, self.old) if isinstance(x, Choice)]
        return [self.condition, *chain.from_iterable(parts)]


def count_of(number: HostNumber | Choice, known: dict[str, Any], scalars: dict[str, Any]) -> Any:
    """Return a count of steps, for all leaves or for each; args as for :meth:`Choice.value`."""
    if isinstance(number, HostNumber):
        return number.value(known)
    return number.value(known, scalars)


class _Tracer(Backend):
    """Writes a line for every operation instead of computing it."""

    name = "torch-program"

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.sums: list[Sum] = []
        self.numbers: dict[str, tuple[Symbol, HostNumber]] = {}
        self.choices: dict[str, Choice] = {}

    def _count(self, x: Any) -> HostNumber | Choice | None:
        """Return the number of each leaf that an argument is, exactly; ``None`` if it is none."""
        if isinstance(x, HostNumber):
            return x if x.per_leaf and not x.is_truth else None
        return self.choices.get(x.name) if isinstance(x, Symbol) else None

    def _scalar(self, x: Any) -> Any:
        """Return the scalar that a number for each leaf, or a truth, is; others as they are."""
        if not isinstance(x, HostNumber) or not (x.per_leaf or x.is_truth):
            return x
        symbol = Symbol(f"k{len(self.numbers)}", False, 0, x.is_truth)
        return self.numbers.setdefault(x.key, (symbol, x))[0]

    def apply(self, operation: str, *args: Any) -> Symbol:
        counts = [self._count(x) for x in args[1:]] if operation == "where" else []
        args = tuple(map(self._scalar, args))
        symbols = [a for a in args if isinstance(a, Symbol)]
        result = Symbol(
            f"t{len(self.lines)}",
            any(s.is_array for s in symbols),
            max((s.phase for s in symbols), default=0),
            operation in COMPARISONS or operation in LOGICAL,
        )
        self.lines.append(Line(result, operation, args))
        if len(counts) == 2 and counts[0] is not None and counts[1] is not None:
            self.choices[result.name] = Choice(args[0], counts[0], counts[1])
        return result

    def of_numbers(self, operation: str, *args: Any) -> Any:
        return HOST_NUMBERS.meet(operation, *args)

    def full(self, value: Any, leaf: Symbol) -> Symbol:
        value = self._scalar(value)
        if isinstance(value, Symbol):
            return value
        result = Symbol(f"t{len(self.lines)}", False, 0)
        self.lines.append(Line(result, "full", (value,)))
        return result

    def reduce(self, function: Reduction, trees: Sequence[Leaves], whole: bool) -> Leaves:
        args = tuple(tree.values[0] for tree in trees)
        result = Symbol(f"r{len(self.sums)}", False, 1 + max(s.phase for s in args))
        self.sums.append(Sum(result, function, args, whole))
        return Leaves([result], self)


class Output(NamedTuple):
    """Where a value goes: to a field of the state, to the step, or to memory for a later phase."""

    target: str
    source: Symbol


@dataclass
class Body:
    """Lines of arrays without a sum between them: what one kernel computes for one leaf.

    Attributes:
        lines: in the order of the formula.
        outputs: made by lines; none is an input.
        moved: inputs that become another field of the state, or the step, as they are.
        arrays: names of the arrays that are read.
        scalars: names of the scalars that are read, and whether each is a truth.
        numbers: host numbers that are read, by their keys.
    """

    lines: list[Line]
    outputs: list[Output]
    moved: list[Output] = field(default_factory=list)
    arrays: list[str] = field(init=False)
    scalars: dict[str, bool] = field(init=False)
    numbers: dict[str, HostNumber] = field(init=False)

    def __post_init__(self) -> None:
        made = {line.result.name for line in self.lines}
        read = [a for line in self.lines for a in line.args]
        read += [output.source for output in self.outputs]
        symbols = {a.name: a for a in read if isinstance(a, Symbol) and a.name not in made}
        self.arrays = [name for name, s in symbols.items() if s.is_array]
        self.scalars = {name: s.is_truth for name, s in symbols.items() if not s.is_array}
        self.numbers = {a.key: a for a in read if isinstance(a, HostNumber)}


@dataclass
class Phase:
    """Scalars, then a body, then sums."""

    scalars: list[Line]
    body: Body
    sums: list[Sum]


class Program:
    """One algorithm with given static hyperparameters.

    Args:
        algorithm: the update rule; its state must be made of scalars and of arrays like the
            parameter.
        static: hyperparameters that are part of the program (truth values, absent terms).
        dynamic: names of the other hyperparameters, numbers that are given at every step.
        inputs: what the rule is given besides the gradient, and whether it is an array.
        full: for each field of the state, whether it is an array like the parameter.
        counts: for each field of the state, whether it is a count of steps.
        rebuild: makes a state of a list of fields.
        flatten: makes a list of fields of a state.

    Attributes:
        phases: in order; the last one makes the state and the step.
        new_scalars: the scalar for each field of the state that is one, by the field's index.
        new_counts: the number for each field of the state that is a count, by the field's index.
        kept: scalars that are read when the step is done: the new ones, and what chooses counts.
        numbers: what is formed of counts and read by lines: scalars by name.
        reads_params: whether the parameters are read.
        inputs: symbols of the inputs that are arrays.

    Raises:
        NotTraceableError: if the formula branches on a hyperparameter's value.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        static: dict[str, Any],
        dynamic: Iterable[str],
        inputs: dict[str, bool],
        full: list[bool],
        counts: list[bool],
        rebuild: Callable[[list[Any]], Any],
        flatten: Callable[[Any], list[Any]],
    ) -> None:
        self.algorithm = algorithm
        tracer = _Tracer()

        def leaf(name: str, is_array: bool) -> Leaves:
            return Leaves([Symbol(name, is_array, 0)], tracer)

        hyperparameters = dict(static)
        hyperparameters |= {n: HostNumber(n) for n in dynamic}
        hyperparameters |= {n: leaf(INPUT + n, is_array) for n, is_array in inputs.items()}
        self.inputs = [INPUT + n for n, is_array in inputs.items() if is_array]
        fields = [
            HostNumber(f"s{i}", per_leaf=True) if counts[i] else leaf(f"s{i}", is_array)
            for i, is_array in enumerate(full)
        ]
        state, step = algorithm.update(
            rebuild(list(fields)), leaf("g", True), leaf("p", True), **hyperparameters
        )
        new = dict(enumerate(flatten(state)))
        self.new_counts: dict[int, HostNumber | Choice] = {
            i: tracer.choices[x.values[0].name] if isinstance(x, Leaves) else x
            for i, x in ((i, new.pop(i)) for i, is_count in enumerate(counts) if is_count)
        }
        symbols = {i: x.values[0] for i, x in new.items()}
        self.new_scalars = {i: s for i, s in symbols.items() if not full[i]}
        ends = [Output(f"s{i}", s) for i, s in symbols.items() if full[i]]
        ends = [output for output in ends if output.source.name != output.target]
        ends.append(Output("step", step.values[0]))
        choices = [x for x in self.new_counts.values() if isinstance(x, Choice)]
        self.kept = [*self.new_scalars.values(), *chain(*(x.conditions for x in choices))]
        self.phases = _phases(tracer, ends, self.kept)
        moved = [o.source.name for phase in self.phases for o in phase.body.moved]
        summed = [a.name for phase in self.phases for sums in phase.sums for a in sums.args]
        read = [name for phase in self.phases for name in phase.body.arrays]
        self.reads_params = "p" in {*read, *summed, *moved}
        used = {s.name for s in self.kept}
        for phase in self.phases:
            used = used.union(*(_names(x.args) for x in phase.scalars), phase.body.scalars)
            used = used.union(*(_names(sums.args) for sums in phase.sums))
        self.numbers = {s.name: (x, s) for s, x in tracer.numbers.values() if s.name in used}


def _phases(tracer: _Tracer, ends: list[Output], scalars: list[Symbol]) -> list[Phase]:
    args: dict[str, tuple[Any, ...]] = {x.result.name: x.args for x in tracer.lines}
    args |= {x.result.name: x.args for x in tracer.sums}
    needed = _made_of([o.source for o in ends] + scalars, args)
    lines = [x for x in tracer.lines if x.result.name in needed]
    sums = [x for x in tracer.sums if x.result.name in needed]
    arrays = {x.result.name: x for x in lines if x.result.is_array}
    last = max((x.result.phase for x in sums), default=0)
    phases = []
    for number in range(last + 1):
        here = [x for x in sums if x.result.phase == number + 1]
        if number < last:
            sources = {a.name: a for x in here for a in x.args if a.name in arrays}
            outputs, moved = [Output(name, a) for name, a in sources.items()], []
        else:
            outputs = [o for o in ends if o.source.name in arrays or not o.source.is_array]
            moved = [o for o in ends if o not in outputs]
        made_of = _made_of([o.source for o in outputs], {n: x.args for n, x in arrays.items()})
        body = Body([x for n, x in arrays.items() if n in made_of], outputs, moved)
        if number < last:
            for name in sources:  # it stays in memory, and later phases read it
                del arrays[name]
        of_scalars = [x for x in lines if not x.result.is_array and x.result.phase == number]
        phases.append(Phase(of_scalars, body, here))
    return phases


def _names(args: Iterable[Any]) -> set[str]:
    return {a.name for a in args if isinstance(a, Symbol)}


def _made_of(results: Iterable[Symbol], args: dict[str, tuple[Any, ...]]) -> set[str]:
    """Return the names of the results and of all that they are made of, by those arguments."""
    found: set[str] = set()
    waiting = [s.name for s in results]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [a.name for a in args.get(name, ()) if isinstance(a, Symbol)]
    return found
