"""The operators of an array, for trees of leaves and numbers of a backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any


def _binary(operation: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def forward(self: Any, other: Any) -> Any:
        return self.backend.meet(operation, self, other)

    def reflected(self: Any, other: Any) -> Any:
        return self.backend.meet(operation, other, self)

    return forward, reflected


def _unary(operation: str) -> Callable[..., Any]:
    return lambda self: self.backend.meet(operation, self)


class Operators:
    """Operators that call ``self.backend.meet`` with the operands."""

    __slots__ = ()
    __array_priority__ = 1000
    __array_ufunc__ = None  # a NumPy scalar on the left then uses our operation
    backend: Any

    __add__, __radd__ = _binary("add")
    __sub__, __rsub__ = _binary("subtract")
    __mul__, __rmul__ = _binary("multiply")
    __truediv__, __rtruediv__ = _binary("divide")
    __lt__ = _binary("less")[0]
    __le__ = _binary("less_equal")[0]
    __gt__ = _binary("greater")[0]
    __ge__ = _binary("greater_equal")[0]
    __eq__ = _binary("equal")[0]
    __ne__ = _binary("not_equal")[0]
    __and__ = _binary("logical_and")[0]
    __or__ = _binary("logical_or")[0]
    __neg__ = _unary("negative")
    __invert__ = _unary("logical_not")
    __abs__ = _unary("abs")
    __hash__ = None  # type: ignore[assignment]

    def __pow__(self, exponent: Any) -> Any:
        raise TypeError(
            "powers round differently in every library: write x * x; for 1 - b**t there is "
            "optstudy_core.parts.bias_correction, for others optstudy_core.parts.power"
        )

    __rpow__ = __pow__

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"an array in a formula has no {name!r}: use operators, functions of "
                "optstudy_core.namespace(x) such as sqrt and where, and the sums and norms of "
                "optstudy_core.reductions"
            )

    def __bool__(self) -> bool:
        raise TypeError("a formula may not branch on the values of arrays: use xp.where")
