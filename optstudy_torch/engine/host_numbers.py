"""Scalars of a program that the host computes at every step, in double precision.

While a formula is traced, hyperparameters and step counts are :class:`HostNumber`, and so are
results computed from them (1 − β, lr·λ, 1 − βᵗ). Results from step counts may differ between
leaves; then the value is a vector.
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
"""Operations from numbers to booleans."""

LOGICAL = frozenset({"logical_and", "logical_or", "logical_not"})
"""Operations from booleans to booleans."""


class HostNumber(Operators):
    """A number that is known when the program runs, or a result computed from such numbers.

    Attributes:
        key: a name, or a digest of the formula of the number.
        names: the names of the hyperparameters in the formula.
        per_leaf: whether step counts are in the formula. Then the number may be a vector with one
            element for each leaf, and is a scalar of the program.
        is_truth: whether the value is boolean.
    """

    __slots__ = ("_args", "_function", "is_truth", "key", "names", "per_leaf")
    shape = ()  # for each leaf

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
        """The backend that combines this number with others."""
        return HOST_NUMBERS

    def __array_namespace__(self, api_version: str | None = None) -> Functions:
        return Functions(HOST_NUMBERS)

    def value(self, known: dict[str, Any]) -> Any:
        """Return the number.

        Args:
            known: the hyperparameters and the step counts by name; computed values are added.
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
    """A formula branches on the value of a number, which is unknown during tracing.

    Args:
        names: the names of the hyperparameters in the formula of the number.
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
        """Return the step count, which is already a double."""
        return t

    def counts(self, number: HostNumber, like: HostNumber) -> HostNumber:
        """Return a whole number as a step count, which a state stores as an integer."""
        del like
        return number

    def one_minus_power(self, a: Any, t: HostNumber) -> HostNumber:
        """Return the result of :func:`optstudy_core.doubles.one_minus_power`."""
        return _made("one_minus_power", _one_minus_power, (a, t))


HOST_NUMBERS: Final = _HostNumbers()


def _made(
    operation: str, function: Callable[..., Any], args: tuple[Any, ...], is_truth: bool = False
) -> HostNumber:
    keys = [a.key if isinstance(a, HostNumber) else repr(a) for a in args]
    key = f"{operation}({', '.join(keys)})"
    if len(key) > 80:  # the length would double with every operation
        key = hashlib.sha256(key.encode()).hexdigest()[:32]
    return HostNumber(key, function, args, is_truth)


def _one_minus_power(a: Any, t: Any) -> Any:
    if not isinstance(a, np.ndarray) and not isinstance(t, np.ndarray):
        return of_number(float(a), int(t))
    return np.array([of_number(float(x), int(n)) for x, n in np.broadcast(a, t)])


def _of_numpy(name: str) -> Callable[..., Any]:
    """Return a NumPy function that returns a Python number for Python numbers."""
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
