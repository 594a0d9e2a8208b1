"""Programs as text: what the languages of kernels share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._program import Body, HostNumber, Line, Symbol

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


def values(numbers: Sequence[Any], hyperparameters: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the numbers of a text for these hyperparameters."""
    known = dict(hyperparameters)
    return tuple(n.value(known) if isinstance(n, HostNumber) else float(n) for n in numbers)
