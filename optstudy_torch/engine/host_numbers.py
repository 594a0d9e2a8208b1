"""Numbers of a program that the host computes at every step, in double.

A formula's hyperparameters and step counts are :class:`HostNumber` while it is traced, and so
is what it forms of them (1 − β, lr·λ, 1 − βᵗ). What is formed of counts may differ from leaf to
leaf: then it is a vector.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from optstudy_core.arrays.doubles import Functions, of_number
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.operators import Operators

COMPARISONS = frozenset(
    {"isfinite", "less", "less_equal", "greater", "greater_equal", "equal", "not_equal"}
)
"""Operations that make truths of numbers."""

LOGICAL = frozenset({"logical_and", "logical_or", "logical_not"})
"""Operations that make truths of truths."""


class HostNumber(Operators):
    """A number that is known when the program runs, and what is formed of such.

    Attributes:
        key: what it is: a name, or a digest of what makes it.
        names: of the hyperparameters that it is made of.
        per_leaf: whether it is made of step counts: then it may be a vector, with a number for
            each leaf, and is a scalar of the program.
        is_truth: whether it is a truth.
    """

    __slots__ = ("_args", "_function", "is_truth", "key", "names", "per_leaf")
    shape = ()  # of each leaf

    def __init__(
        self,
        key: str,
        function: Callable[..., Any] | None = None,
        args: tuple[Any, ...] = (),
        is_truth: bool = False,
        per_leaf: bool = False,
    ) -> None:
        self.key, self._function, self._args, self.is_truth = key, function, args, is_truth
        own = [a for a in args if isinstance(a, HostNumber)]
        self.per_leaf: bool = per_leaf or any(a.per_leaf for a in own)
        self.names = frozenset({key}) if function is None else frozenset()
        self.names = self.names.union(*(a.names for a in own))

    @property
    def backend(self) -> Any:
        """What combines it with others."""
        return HOST_NUMBERS

    def __array_namespace__(self, api_version: str | None = None) -> Functions:
        return Functions(HOST_NUMBERS)

    def value(self, known: dict[str, Any]) -> Any:
        """Return the number.

        Args:
            known: the hyperparameters and the step counts by name; what is computed is added.
        """
        if self.key not in known:
            assert self._function is not None
            args = (a.value(known) if isinstance(a, HostNumber) else a for a in self._args)
            known[self.key] = self._function(*args)
        return known[self.key]

    def __bool__(self) -> bool:
        raise NotTraceableError(self.names)

    def __float__(self) -> float:
        raise NotTraceableError(self.names)


class NotTraceableError(TypeError):
    """A formula asks for the value of a number, which no program knows: to branch on it.

    Args:
        names: of the hyperparameters that the number is made of.
    """

    def __init__(self, names: frozenset[str]) -> None:
        shown = ", ".join(sorted(names))
        super().__init__(f"a formula may not branch on the value of {shown}: use absent or where")
        self.names = names


class _HostNumbers:
    """Combines host numbers, as a backend combines trees."""

    def meet(self, operation: str, *args: Any) -> Any:
        """Return ``operation`` of host numbers, Python numbers and trees."""
        tree = next((a for a in args if isinstance(a, Leaves)), None)
        if tree is not None:
            return tree.backend.map(operation, *args)
        is_truth = operation in COMPARISONS | LOGICAL or any(
            operation == "where" and getattr(a, "is_truth", False) for a in args[1:]
        )
        return _made(operation, _FUNCTIONS[operation], args, is_truth)

    def counted(self, t: HostNumber) -> HostNumber:
        """Return a step count in double, which it is."""
        return t

    def counts(self, number: HostNumber, like: HostNumber) -> HostNumber:
        """Return a whole number as a step count, which is written as one when it is kept."""
        del like
        return number

    def one_minus_power(self, a: Any, t: HostNumber) -> HostNumber:
        """Return what :func:`optstudy_core.doubles.one_minus_power` says."""
        return _made("one_minus_power", _one_minus_power, (a, t))


HOST_NUMBERS: Final = _HostNumbers()


def _made(
    operation: str, function: Callable[..., Any], args: tuple[Any, ...], is_truth: bool = False
) -> HostNumber:
    keys = [a.key if isinstance(a, HostNumber) else repr(a) for a in args]
    key = f"{operation}({', '.join(keys)})"
    if len(key) > 80:  # it would double with every operation on it
        key = hashlib.sha256(key.encode()).hexdigest()[:32]
    return HostNumber(key, function, args, is_truth)


def _one_minus_power(a: Any, t: Any) -> Any:
    if not isinstance(a, np.ndarray) and not isinstance(t, np.ndarray):
        return of_number(float(a), int(t))
    return np.array([of_number(float(x), int(n)) for x, n in np.broadcast(a, t)])


def _of_numpy(name: str) -> Callable[..., Any]:
    """Return NumPy's function; of numbers it returns a Python number."""
    function = getattr(np, name)

    def call(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            found = function(*args)
        return found if isinstance(found, np.ndarray) and found.ndim else found.item()

    return call


def _divide(x: Any, y: Any) -> Any:
    return _BY_ZERO(x, y) if isinstance(y, float | int) and y == 0 else x / y


_BY_ZERO = _of_numpy("divide")

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": _divide,
    "negative": operator.neg,
    "abs": operator.abs,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
}
_FUNCTIONS |= {
    name: _of_numpy(name)
    for name in (
        *("sqrt", "sign", "maximum", "minimum", "remainder", "where"),
        *("isfinite", "logical_and", "logical_or", "logical_not"),
    )
}
