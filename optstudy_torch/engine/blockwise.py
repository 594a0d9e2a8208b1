"""Bodies of programs computed by NumPy, in blocks small enough for the cache."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from .host_numbers import HostNumber
from .operations import function_of, last_reads
from .phases import Body
from .rounding import NUMPY
from .stages import Stage
from .threads import BLOCK, in_threads, parts_of
from .trace import Symbol
from .units import Unit

_NUMBERS, _TRUTHS = "_b", "_t"  # names of buffers, by their contents


class Blockwise:
    """A body as a function of NumPy operations, which reuse a few buffers.

    A new field of the state overwrites the old field as soon as no later line reads the old field.
    ``step`` receives the step; if the step is added, it is the parameters.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        targets = [o.target for o in body.outputs if o.target != "step"]
        self._names = list(dict.fromkeys([*body.arrays, *targets]))
        self._lines: list[str] = []
        self._where: dict[str, str] = {}
        self._written: set[str] = set()
        self._buffers = {_NUMBERS: 0, _TRUTHS: 0}
        self._constants = {key: f"h{i}" for i, key in enumerate(body.numbers)}
        self._write()
        self._add = self._function("add(step, {0}, out=step)")
        self._store = self._function("copyto(step, {0})")

    def __call__(
        self, stage: Stage, units: Iterable[Unit], numbers: Iterable[float]
    ) -> Callable[[], None]:
        """Allocate memory; return a function that runs the body on some of the units."""
        jobs: list[Job] = []
        for unit in units:
            arrays = unit.arrays
            memory = [arrays[name].numpy() for name in self._names]
            memory.append(arrays["step" if "step" in arrays else "g"].numpy())
            if unit.in_place:
                memory[-1] = arrays["p"].numpy()
            own = (*stage.scalars.of(unit, self._body.scalars), *numbers)
            jobs.append((self._add if unit.in_place else self._store, memory, own))
        return _in_blocks(jobs, self._buffers[_NUMBERS], self._buffers[_TRUTHS], NUMPY[stage.dtype])

    def _shown(self, argument: Any) -> str:
        if isinstance(argument, Symbol):
            return self._where.get(argument.name, argument.name)
        if isinstance(argument, HostNumber):
            return self._constants[argument.key]
        return repr(argument)

    def _write(self) -> None:
        body = self._body
        last_read = last_reads(body.lines)
        needed = last_read | {o.source.name: len(body.lines) for o in body.outputs}
        targets = {o.source.name: o.target for o in body.outputs if o.target != "step"}
        free: dict[str, list[str]] = {kind: [] for kind in self._buffers}
        for i, line in enumerate(body.lines):
            name, operation = line.result.name, line.operation
            args = ", ".join(map(self._shown, line.args))
            for read in {a.name for a in line.args if isinstance(a, Symbol)}:
                buffer = self._where.get(read, "")
                if needed[read] == i and buffer[:2] in free:
                    free[buffer[:2]].append(buffer)  # this line may overwrite its argument
            target = targets.get(name)
            if target == name or (target is not None and last_read.get(target, -1) <= i):
                self._where[name] = target
                self._written.add(target)
            else:
                kind = _TRUTHS if line.result.is_truth else _NUMBERS
                if not free[kind]:
                    free[kind].append(f"{kind}{self._buffers[kind]}")
                    self._buffers[kind] += 1
                self._where[name] = free[kind].pop()
            self._lines.append(f"{operation}({args}, out={self._where[name]})")

    def _function(self, step: str) -> Callable[..., None]:
        ends = [
            step.format(self._shown(o.source))
            if o.target == "step"
            else f"copyto({o.target}, {self._shown(o.source)})"
            for o in self._body.outputs
            if o.target not in self._written
        ]
        arguments = [*self._names, "step", *self._body.scalars, *self._constants.values()]
        arguments += [f"{kind}{i}" for kind, count in self._buffers.items() for i in range(count)]
        operations = vars(np) | _OPERATIONS
        return function_of(f"body({', '.join(arguments)})", [*self._lines, *ends], operations)


def _sign(x: np.ndarray, out: np.ndarray) -> None:
    """Write the sign as torch does; with NaN use NumPy, which branches on every element."""
    if np.isnan(np.max(x, initial=-np.inf)):
        np.sign(x, out=out)
    else:
        torch.sign(torch.from_numpy(x), out=torch.from_numpy(out))


def _where(*args: Any, out: np.ndarray) -> None:
    """Write ``where`` as torch does, since ``where`` of NumPy allocates memory."""
    kinds: list[Any] = [np.bool_, out.dtype, out.dtype]
    tensors = [torch.from_numpy(np.asarray(x, k)) for x, k in zip(args, kinds, strict=True)]
    torch.where(*tensors, out=torch.from_numpy(out))


_OPERATIONS: dict[str, Any] = {
    "sign": _sign,
    "where": _where,
    "zeros_like": lambda x, out: out.fill(0),
    "ones_like": lambda x, out: out.fill(1),
}
"""Operations that NumPy does not have, or for which NumPy would allocate memory."""

Job = tuple[Callable[..., None], list[np.ndarray], tuple[Any, ...]]
"""A function, the arrays of which it gets one block at a time, and its scalars."""


def _in_blocks(jobs: Sequence[Job], numbers: int, truths: int, dtype: Any) -> Callable[[], None]:
    """Return a function that runs jobs in blocks."""
    blocks = [
        (function, arrays if size <= BLOCK else [x[i : i + BLOCK] for x in arrays], scalars)
        for function, arrays, scalars in jobs
        for size in [arrays[-1].size]
        for i in range(0, max(1, size), BLOCK)
    ]
    total = sum(arrays[-1].size for _, arrays, _ in blocks)
    parts = parts_of(blocks, threads=1 + total // (2 * BLOCK))
    works = [(part, _Buffers(numbers, dtype), _Buffers(truths, np.bool_)) for part in parts]

    def work(own: Sequence[tuple[Sequence[Job], _Buffers, _Buffers]]) -> None:
        for part, *buffers in own:
            with np.errstate(all="ignore"):
                for function, arrays, scalars in part:
                    size = arrays[-1].size
                    function(*arrays, *scalars, *(x[:size] for b in buffers for x in b.arrays))

    return functools.partial(in_threads, work, works, len(works))


class _Buffers:
    """Arrays with the length of a block, which are reused."""

    _free: ClassVar[dict[str, list[np.ndarray]]] = {}  # new pages cost time

    def __init__(self, count: int, dtype: Any) -> None:
        self._others = self._free.setdefault(np.dtype(dtype).name, [])
        self.arrays: list[np.ndarray] = []
        while len(self.arrays) < count:
            try:
                self.arrays.append(self._others.pop())
            except IndexError:
                self.arrays.append(np.empty(BLOCK, dtype))

    def __del__(self) -> None:
        self._others += self.arrays
