"""Programs as text: what the languages of kernels share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from .host_numbers import HostNumber
from .program import Body, Line, Phase, Symbol

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
"""Operations that are written alike in Triton and in C."""


class Text:
    """Lines of a kernel, with the numbers that they read.

    Args:
        forms: how the language writes each operation.
    """

    def __init__(self, forms: Mapping[str, str]) -> None:
        self._forms = forms
        self._names: dict[str, str] = {}  # of symbols
        self._numbers: dict[str, Any] = {}

    def shown(self, argument: Any) -> str:
        """Return an argument of a line as text."""
        if isinstance(argument, Symbol):
            return self._names.get(argument.name, argument.name)
        key = argument.key if isinstance(argument, HostNumber) else repr(argument)
        self._numbers.setdefault(key, argument)
        return f"h{list(self._numbers).index(key)}"

    def line(self, line: Line) -> str:
        """Return a line of a program as text; its result is called like its symbol."""
        value = self._forms[line.operation].format(*map(self.shown, line.args))
        name = self._names[line.result.name] = f"_{line.result.name}"
        return f"{name} = {value}"

    @property
    def numbers(self) -> list[Any]:
        """The numbers that are read, called ``h0``, ``h1`` and so on."""
        return list(self._numbers.values())


def rows(body: Body, in_place: bool) -> list[str]:
    """Return names of the arrays that a body reads or writes; ``step`` only if it is not added."""
    targets = [o.target for o in body.outputs]
    steps = ["p" if in_place else "step"] * ("step" in targets)
    return list(dict.fromkeys([*body.arrays, *(t for t in targets if t != "step"), *steps]))


def reads(body: Body, in_place: bool) -> list[str]:
    """Return names of the arrays that a body reads; a parameter that takes the step is one."""
    steps = any(o.target == "step" for o in body.outputs)
    return list(dict.fromkeys([*body.arrays, *["p"] * (in_place and steps)]))


def values(numbers: Sequence[Any], hyperparameters: dict[str, Any]) -> list[float]:
    """Return the numbers of a text for these hyperparameters."""
    return [n.value(hyperparameters) if isinstance(n, HostNumber) else float(n) for n in numbers]


def scalars_of(phase: Phase, kept: set[str]) -> tuple[list[Symbol], list[Symbol]]:
    """Return what the lines of scalars of a phase read, and what is kept of their results."""
    made = {line.result.name for line in phase.scalars}
    args = [a for line in phase.scalars for a in line.args if isinstance(a, Symbol)]
    read = {a.name: a for a in args if a.name not in made}
    return list(read.values()), [x.result for x in phase.scalars if x.result.name in kept]


def kept_names(phases: Sequence[Phase], new: Iterable[Symbol]) -> set[str]:
    """Return names of the scalars that are read outside of the lines that make them."""
    read = {symbol.name for symbol in new}
    for number, phase in enumerate(phases):
        read |= set(phase.body.scalars)
        read |= {a.name for sums in phase.sums for a in sums.args}
        later = chain.from_iterable(line.args for p in phases[number + 1 :] for line in p.scalars)
        read |= {a.name for a in later if isinstance(a, Symbol)}
    return read
