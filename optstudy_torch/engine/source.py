"""Programs as text: the part that C and Triton share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from .host_numbers import HostNumber
from .phases import Body, Phase
from .trace import DOUBLE, WORKING, Line, Symbol

INFIX = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "greater": "{0} > {1}",
    "greater_equal": "{0} >= {1}",
    "equal": "{0} == {1}",
    "not_equal": "{0} != {1}",
    "logical_and": "{0} & {1}",
    "logical_or": "{0} | {1}",
    "negative": "-{0}",
    "full": "{0}",
}
"""Operations with the same text in Triton and in C."""


class Number(NamedTuple):
    """A number that a kernel reads, with the kind of the other operand."""

    value: Any
    kind: str


class Text:
    """Lines of a kernel, with the numbers that they read.

    Args:
        forms: a function that returns the text of an operation on values of a kind.
    """

    def __init__(self, forms: Callable[[str, str], str]) -> None:
        self._forms = forms
        self._names: dict[str, str] = {}  # names of symbols
        self._numbers: dict[tuple[str, str], Number] = {}

    def shown(self, argument: Any, kind: str = WORKING) -> str:
        """Return an argument of a line as text; a number has the given kind."""
        if isinstance(argument, Symbol):
            return self._names.get(argument.name, argument.name)
        key = kind, argument.key if isinstance(argument, HostNumber) else repr(argument)
        self._numbers.setdefault(key, Number(argument, kind))
        return f"h{list(self._numbers).index(key)}"

    def line(self, line: Line) -> str:
        """Return a line of a program as text; the result has the name of its symbol."""
        kind = kind_of(line)
        args = [self.shown(a, kind) for a in line.args]
        value = self._forms(line.operation, kind).format(*args)
        name = self._names[line.result.name] = f"_{line.result.name}"
        return f"{name} = {value}"

    @property
    def numbers(self) -> list[Number]:
        """The numbers that are read, called ``h0``, ``h1`` and so on."""
        return list(self._numbers.values())


def kind_of(line: Line) -> str:
    """Return the kind of the numbers in an operation."""
    read = {a.kind for a in line.args if isinstance(a, Symbol)}
    return DOUBLE if DOUBLE in read or (not read and line.result.kind == DOUBLE) else WORKING


def rows(body: Body, in_place: bool) -> list[str]:
    """Return names of the arrays of a body; ``step`` only if the step is not added in place."""
    targets = [o.target for o in body.outputs]
    steps = ["p" if in_place else "step"] * ("step" in targets)
    return list(dict.fromkeys([*body.arrays, *(t for t in targets if t != "step"), *steps]))


def reads(body: Body, in_place: bool) -> list[str]:
    """Return names of the arrays that a body reads, with parameters that the step is added to."""
    steps = any(o.target == "step" for o in body.outputs)
    return list(dict.fromkeys([*body.arrays, *["p"] * (in_place and steps)]))


def arrays_of(body: Body) -> dict[str, Symbol]:
    """Return the arrays that a body reads and writes."""
    made = {
        target: source._replace(name=target, shape=body.shape) for target, source, _ in body.outputs
    }
    return {"p": Symbol("p", body.shape)} | made | body.arrays


def merged(
    shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]]
) -> tuple[list[int], list[tuple[bool, ...]]]:
    """Return the lengths of axes, with similar neighbours merged, and who is long along each.

    >>> merged((2, 3, 1, 4), [(2, 3, 1, 4), (1, 1, 1, 4), ()])
    ([6, 4], [(True, False, False), (True, True, False)])
    """
    wide = [(1,) * (len(shape) - len(x)) + x for x in shapes]
    lengths: list[int] = []
    patterns: list[tuple[bool, ...]] = []
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        pattern = tuple(x[axis] > 1 for x in wide)
        if patterns and patterns[-1] == pattern:
            lengths[-1] *= length
        else:
            lengths.append(length)
            patterns.append(pattern)
    if not lengths:  # all have length 1
        return [1], [tuple(map(bool, shapes))]
    return lengths, patterns


def values(numbers: Sequence[Number], hyperparameters: dict[str, Any]) -> list[float]:
    """Return the numbers of a text for these hyperparameters, in double precision."""
    return [n.value(hyperparameters) if isinstance(n, HostNumber) else float(n) for n, _ in numbers]


def scalars_of(phase: Phase, kept: set[str]) -> tuple[list[Symbol], list[Symbol]]:
    """Return the symbols that the scalar lines of a phase read, and the results that are kept."""
    made = {line.result.name for line in phase.scalars}
    args = [a for line in phase.scalars for a in line.args if isinstance(a, Symbol)]
    read = {a.name: a for a in args if a.name not in made}
    return list(read.values()), [x.result for x in phase.scalars if x.result.name in kept]


def kept_names(phases: Sequence[Phase], kept: Iterable[Symbol]) -> set[str]:
    """Return names of the scalars that are read outside of their phase."""
    read = {symbol.name for symbol in kept}
    for number, phase in enumerate(phases):
        read |= phase.read_after_scalars()
        later = chain.from_iterable(line.args for p in phases[number + 1 :] for line in p.scalars)
        read |= {a.name for a in later if isinstance(a, Symbol)}
    return read
