"""An update rule as one kernel: traced once, compiled by torch, for tensors of any size.

The pure function is called once with symbols. Every operation writes a line of a function, which
``torch.compile`` fuses to one loop over flat tensors of dynamic length. What the formula forms
from Python numbers (1 − β, lr·λ) is not in the kernel: it is computed on the host in double at
every step and handed in, rounded once, so new learning rates need no new kernel.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from optstudy_core import Algorithm
from optstudy_core.leaves import Backend, Leaves

from . import _array

Host = Callable[[dict[str, float]], float]


class HostNumber:
    """A Python number that is known when the kernel is called, and what is formed from such."""

    __slots__ = ("key", "value")

    def __init__(self, key: str, value: Host) -> None:
        self.key = key
        self.value = value

    def _combine(self, symbol: str, function: Any, other: Any, reflected: bool = False) -> Any:
        if isinstance(other, HostNumber):
            key, get = other.key, other.value
        elif isinstance(other, int | float):
            key, get = repr(other), lambda _: other
        else:
            return NotImplemented
        mine = self.value
        if reflected:
            return HostNumber(f"({key}{symbol}{self.key})", lambda h: function(get(h), mine(h)))
        return HostNumber(f"({self.key}{symbol}{key})", lambda h: function(mine(h), get(h)))

    def __add__(self, other: Any) -> Any:
        return self._combine("+", operator.add, other)

    def __radd__(self, other: Any) -> Any:
        return self._combine("+", operator.add, other, reflected=True)

    def __sub__(self, other: Any) -> Any:
        return self._combine("-", operator.sub, other)

    def __rsub__(self, other: Any) -> Any:
        return self._combine("-", operator.sub, other, reflected=True)

    def __mul__(self, other: Any) -> Any:
        return self._combine("*", operator.mul, other)

    def __rmul__(self, other: Any) -> Any:
        return self._combine("*", operator.mul, other, reflected=True)

    def __truediv__(self, other: Any) -> Any:
        return self._combine("/", operator.truediv, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._combine("/", operator.truediv, other, reflected=True)

    def __neg__(self) -> HostNumber:
        mine = self.value
        return HostNumber(f"(-{self.key})", lambda h: -mine(h))

    def __bool__(self) -> bool:
        raise TypeError("a formula may not branch on a hyperparameter's value: use absent or where")


class _Tracer(Backend):
    """Writes a line for every operation instead of computing it."""

    name = "torch-compiled"

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.numbers: dict[str, HostNumber] = {}

    def _argument(self, value: Any) -> str:
        if isinstance(value, HostNumber):
            self.numbers.setdefault(value.key, value)
            return f"h{list(self.numbers).index(value.key)}"
        return value if isinstance(value, str) else repr(value)

    def apply(self, operation: str, *args: Any) -> str:
        name = f"t{len(self.lines)}"
        arguments = ", ".join(map(self._argument, args))
        self.lines.append(f"    {name} = apply({operation!r}, {arguments})")
        return name

    def full(self, value: Any, leaf: str) -> str:
        return self.apply("multiply", self.apply("ones_like", leaf), value)


class Kernel:
    """One algorithm with given static hyperparameters, compiled for one working dtype.

    Args:
        algorithm: the update rule; its state must be made of scalars and of arrays like the
            parameter.
        static: hyperparameters that are part of the kernel (truth values, absent terms).
        dynamic: names of the hyperparameters that are numbers, given at every call.
        tensors: names of the hyperparameters that are 0-d tensors, given at every call.
        fields: names of the state's fields.
        rebuild: makes a state of a list of fields.
        flatten: makes a list of fields of a state.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        static: dict[str, Any],
        dynamic: list[str],
        tensors: list[str],
        fields: list[str],
        rebuild: Callable[[list[Any]], Any],
        flatten: Callable[[Any], list[Any]],
    ) -> None:
        tracer = _Tracer()

        def leaf(name: str) -> Leaves:
            return Leaves([name], tracer)

        hyperparameters = dict(static)
        hyperparameters |= {n: HostNumber(n, operator.itemgetter(n)) for n in dynamic}
        hyperparameters |= {n: leaf(f"x_{n}") for n in tensors}
        state, step = algorithm.update(
            rebuild([leaf(f"s{i}") for i in range(len(fields))]),
            leaf("g"),
            leaf("p"),
            **hyperparameters,
        )
        results = [new.values[0] for new in flatten(state)]
        inputs = ["p", "g", *(f"s{i}" for i in range(len(fields)))]
        # Inductor reorders a copy of one input to another, so what is only moved is moved outside.
        self._moved = {
            i: inputs.index(new)
            for i, new in enumerate(results)
            if new in inputs and new != f"s{i}"
        }
        self._numbers = list(tracer.numbers.values())
        self._tensors = tensors
        arguments = (
            inputs + [f"h{i}" for i in range(len(self._numbers))] + [f"x_{n}" for n in tensors]
        )
        copies = [f"    s{i}.copy_({new})" for i, new in enumerate(results) if new not in inputs]
        result = step.values[0]  # may be a field, which its successor overwrites
        self.source = "\n".join(
            [
                f"def kernel({', '.join(arguments)}):",
                *tracer.lines,
                f"    step = {result}.clone()" if result in inputs else f"    step = {result}",
                *copies,
                "    {end}",
            ]
        )
        # One function for each end, so that none is compiled anew for the other.
        self._add = self._compile(algorithm.name, "p.add_(step)")
        self._return = self._compile(algorithm.name, "return step.clone()")

    def _compile(self, name: str, end: str) -> Callable[..., Any]:
        scope: dict[str, Any] = {"apply": _array.apply, "inf": math.inf, "nan": math.nan}
        exec(compile(self.source.format(end=end), f"<optstudy kernel {name}>", "exec"), scope)
        compiled: Callable[..., Any] = torch.compile(scope["kernel"], dynamic=True, fullgraph=True)
        return compiled

    def host(
        self, hyperparameters: dict[str, Any], dtype: torch.dtype, device: torch.device
    ) -> list[torch.Tensor]:
        """Return the scalars of the kernel: formed in double, rounded once to ``dtype``."""
        numbers = [torch.tensor(n.value(hyperparameters), dtype=dtype) for n in self._numbers]
        numbers += [hyperparameters[n].to(dtype) for n in self._tensors]
        return [n.to(device) for n in numbers]

    def __call__(
        self,
        param: torch.Tensor,
        grad: torch.Tensor,
        fields: list[torch.Tensor],
        scalars: list[torch.Tensor],
        add: bool,
    ) -> torch.Tensor | None:
        """Advance one flat parameter and its state in place; return the step unless added."""
        advance = self._add if add else self._return
        inputs = [param, grad, *fields]
        moved = {i: inputs[source].clone() for i, source in self._moved.items()}
        step: torch.Tensor | None = advance(*inputs, *scalars)
        for i, value in moved.items():
            fields[i].copy_(value)
        return step
