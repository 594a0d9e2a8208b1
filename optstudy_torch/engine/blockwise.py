"""Bodies of programs computed by NumPy, in blocks whose temporaries stay in the cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from .host_numbers import HostNumber
from .operations import function_of, last_reads
from .program import Body
from .rounding import NUMPY
from .stages import Stage
from .threads import BLOCK, in_threads
from .trace import Symbol
from .units import Unit

_NUMBERS, _TRUTHS = "_b", "_t"  # buffers are named after what they hold


class Blockwise:
    """A body as a function of NumPy's operations, which write to a few buffers again and again.

    A new field of the state is written over the old one as soon as no later line reads that.
    ``step`` is where the step goes; where it is added, the parameters themselves.
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

    def __call__(self, stage: Stage, units: Iterable[Unit], numbers: Iterable[float]) -> None:
        """Run the body on some of the units."""
        jobs: list[Job] = []
        for unit in units:
            arrays = unit.arrays
            memory = [arrays[name].numpy() for name in self._names]
            memory.append(arrays["step" if "step" in arrays else "g"].numpy())
            if unit.in_place:
                memory[-1] = arrays["p"].numpy()
            own = (*stage.scalars_of(unit, self._body.scalars), *numbers)
            jobs.append((self._add if unit.in_place else self._store, memory, own))
        _in_blocks(jobs, self._buffers[_NUMBERS], self._buffers[_TRUTHS], NUMPY[stage.dtype])

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
                    free[buffer[:2]].append(buffer)  # this line may write over what it reads
            target = targets.get(name)
            if target == name or (target is not None and last_read.get(target, -1) <= i):
                self._where[name] = target
                self._written.add(target)
            elif operation in _FRESH:
                self._where[name] = f"fresh_{name}"
                self._lines.append(f"fresh_{name} = {operation}({args})")
                continue
            else:
                kind = _TRUTHS if line.result.is_truth else _NUMBERS
                if not free[kind]:
                    free[kind].append(f"{kind}{self._buffers[kind]}")
                    self._buffers[kind] += 1
                self._where[name] = free[kind].pop()
            self._lines.append(
                f"copyto({self._where[name]}, {operation}({args}))"
                if operation in _FRESH
                else f"{operation}({args}, out={self._where[name]})"
            )

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
        operations = vars(np) | {"sign": _sign}
        return function_of(f"body({', '.join(arguments)})", [*self._lines, *ends], operations)


def _sign(x: np.ndarray, out: np.ndarray) -> None:
    """Write NumPy's sign, which branches on every number, as torch's and NaN where it is NaN."""
    nan = np.not_equal(x, x)
    torch.sign(torch.from_numpy(x), out=torch.from_numpy(out))
    if nan.any():
        out[nan] = np.nan


_FRESH = frozenset({"where", "zeros_like", "ones_like"})  # NumPy's, which take no memory to fill

Job = tuple[Callable[..., None], list[np.ndarray], tuple[Any, ...]]
"""A function, its arrays, of which it is given a block each, and its scalars."""


def _in_blocks(jobs: Sequence[Job], numbers: int, truths: int, dtype: Any) -> None:
    """Run jobs in blocks."""
    if not jobs:
        return
    blocks = [
        (function, arrays if size <= BLOCK else [x[i : i + BLOCK] for x in arrays], scalars)
        for function, arrays, scalars in jobs
        for size in [arrays[-1].size]
        for i in range(0, max(1, size), BLOCK)
    ]
    total = sum(arrays[-1].size for _, arrays, _ in blocks)

    def work(part: Sequence[Job]) -> None:
        length = max(arrays[-1].size for _, arrays, _ in part)
        buffers = _memory(length, numbers, dtype) + _memory(length, truths, np.bool_)
        with np.errstate(all="ignore"):
            for function, arrays, scalars in part:
                size = arrays[-1].size
                own = buffers if size == length else [b[:size] for b in buffers]
                function(*arrays, *scalars, *own)

    in_threads(work, blocks, threads=1 + total // (2 * BLOCK))


_kept = threading.local()


def _memory(length: int, count: int, dtype: Any) -> list[np.ndarray]:
    """Return arrays of this thread, the same ones at every call: new pages cost time."""
    arrays = _kept.__dict__.setdefault(np.dtype(dtype).name, [])
    arrays += [np.empty(BLOCK, dtype) for _ in range(count - len(arrays))]
    return [x[:length] for x in arrays[:count]]
