"""What runs a program on the leaves of a group: NumPy in blocks, torch's operations, or a kernel.

All of them round every operation once, so they give the same bits:

- On the CPU, NumPy computes on the memory of the tensors, in blocks whose temporaries stay in the
  cache, with as many threads as torch has.
- On other devices torch's operations run one after another on whole tensors.
- With ``compile=True``, ``torch.compile`` makes one loop of each body, for arrays of any length.

Scalars of all leaves are vectors here, so that one operation advances them all.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from . import _array
from ._array import NUMPY
from ._program import Body, HostNumber, Line, Program, Sum, Symbol
from .geometry import LIBRARY

BLOCK = 1 << 17
"""Numbers in a block: measured on CPUs with 1 MiB of second-level cache a core."""

HOST = "cpu"
"""The type of the devices whose memory NumPy shares."""

_SMALL = 64
"""Up to this length arrays on the CPU are computed without a kernel: a call of one costs more."""


class Batch:
    """Leaves of one dtype on one device.

    Attributes:
        arrays: for each leaf its flat tensors by name: ``p``, ``g``, ``s0``, …
        scalars: vectors with a number for each leaf, by name; NumPy's on the CPU.
        in_place: for each leaf, whether the step is added to ``p``; else it is stored as ``step``.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, count: int) -> None:
        self.dtype, self.device, self.count = dtype, device, count
        self.on_host = device.type == HOST
        self.arrays: list[dict[str, torch.Tensor]] = []
        self.scalars: dict[str, Any] = {}
        self.in_place: list[bool] = []

    def stack(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Return 0-d tensors of the leaves as one vector."""
        if self.on_host:
            return np.array([x.numpy() for x in tensors])
        return torch.stack(list(tensors))

    def spread(self, value: Any) -> Any:
        """Return a number or a 0-d tensor, rounded once, as the vector with it for every leaf."""
        if self.on_host:
            value = value.detach().numpy() if isinstance(value, torch.Tensor) else value
            with np.errstate(all="ignore"):
                return np.full(self.count, value, NUMPY[self.dtype])
        if isinstance(value, torch.Tensor):
            return value.to(self.device, self.dtype).expand(self.count)
        return _array.filled((self.count,), value, self.dtype, self.device)

    def rounded(self, values: Sequence[Any]) -> Any:
        """Return float64 scalars of the leaves as one vector, rounded once."""
        if self.on_host:
            with np.errstate(all="ignore"):
                return np.array([float(x) for x in values]).astype(NUMPY[self.dtype])
        values = [torch.as_tensor(x, dtype=torch.float64) for x in values]
        return torch.stack(values).to(self.device, self.dtype)

    def write(self, vector: Any, tensors: Sequence[torch.Tensor]) -> None:
        """Write a vector to 0-d tensors of the leaves."""
        if self.on_host:
            for x, value in zip(tensors, vector, strict=True):
                x.numpy()[()] = value
        else:
            torch._foreach_copy_(list(tensors), list(vector.unbind()))

    def compute(self, lines: Iterable[Line], hyperparameters: dict[str, Any]) -> None:
        """Run lines of scalars."""
        for line in lines:
            args = [_value(a, self.scalars, hyperparameters) for a in line.args]
            if line.operation == "full":
                self.scalars[line.result.name] = self.spread(args[0])
            elif self.on_host:
                with np.errstate(all="ignore"):
                    result = getattr(np, line.operation)(*args)
                self.scalars[line.result.name] = result
            else:
                self.scalars[line.result.name] = _array.apply(line.operation, *args)

    def rows(self, names: Iterable[str], numbers: Sequence[float]) -> list[torch.Tensor]:
        """Return for each leaf one tensor with its scalars and with numbers, rounded once.

        Truths are 1 and 0.
        """
        columns = [self.scalars[name] for name in names] + [self.spread(x) for x in numbers]
        if not columns:
            return [torch.empty(0, dtype=self.dtype, device=self.device)] * self.count
        if self.on_host:
            table = np.stack(columns, 1, dtype=NUMPY[self.dtype], casting="unsafe")
            return [torch.from_numpy(row) for row in table]
        # No views for torch, which would compile a kernel for every kind of base.
        stacked = torch.stack([column.to(self.dtype) for column in columns], 1)
        return [row.data for row in stacked.unbind()]

    def split(self, compiled: bool) -> tuple[list[int], list[int]]:
        """Return the leaves that NumPy computes in blocks, and those of torch's kernels."""
        leaves = range(self.count)
        if not self.on_host:
            return [], list(leaves)
        small = {i for i in leaves if not compiled or self.arrays[i]["p"].numel() <= _SMALL}
        return sorted(small), [i for i in leaves if i not in small]

    def prepare(self, body: Body) -> list[list[tuple[str, torch.Tensor]]]:
        """Make memory for what a body puts out; return copies of what is moved."""
        moved = []
        for arrays, in_place in zip(self.arrays, self.in_place, strict=True):
            moved.append([(o.target, arrays[o.source.name].clone()) for o in body.moved])
            for output in body.outputs:
                if output.target not in arrays and not (output.target == "step" and in_place):
                    arrays[output.target] = torch.empty_like(arrays["p"])
        return moved

    def move(self, moved: list[list[tuple[str, torch.Tensor]]]) -> None:
        """Write copies of inputs where they go."""
        for arrays, in_place, own in zip(self.arrays, self.in_place, moved, strict=True):
            for target, value in own:
                if target != "step":
                    arrays[target].copy_(value)
                elif in_place:
                    arrays["p"].add_(value)
                else:
                    arrays["step"] = value

    def vectors(self, sums: Sum) -> Iterator[list[torch.Tensor]]:
        """Yield for each leaf the vectors that are summed."""
        for i, arrays in enumerate(self.arrays):
            yield [
                arrays[a.name] if a.is_array else torch.as_tensor(self.scalars[a.name][i : i + 1])
                for a in sums.args
            ]


def _value(argument: Any, scalars: dict[str, Any], hyperparameters: dict[str, Any]) -> Any:
    if isinstance(argument, Symbol):
        return scalars[argument.name]
    return argument.value(hyperparameters) if isinstance(argument, HostNumber) else argument


class Machine:
    """A program with what runs its bodies."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._blockwise = [_Blockwise(phase.body) for phase in program.phases]
        self._kernels = [_Kernel(phase.body) for phase in program.phases]

    def run(
        self, batches: Sequence[Batch], hyperparameters: dict[str, Any], compiled: bool
    ) -> None:
        """Advance the state and the parameters of batches, or store the step.

        Args:
            batches: their arrays are written in place, but for ``g`` and inputs.
            hyperparameters: Python numbers by name.
            compiled: run kernels of ``torch.compile``.
        """
        for number, phase in enumerate(self.program.phases):
            for batch in batches:
                batch.compute(phase.scalars, hyperparameters)
                moved = batch.prepare(phase.body)
                values = [n.value(hyperparameters) for n in phase.body.numbers.values()]
                if phase.body.outputs:
                    blockwise, kernel = batch.split(compiled)
                    self._blockwise[number](batch, blockwise, values)
                    self._kernels[number](batch, kernel, values, compiled)
                batch.move(moved)
            for sums in phase.sums:
                _sum(sums, batches)


def _sum(sums: Sum, batches: Sequence[Batch]) -> None:
    def scalar(rows: Sequence[list[torch.Tensor]]) -> Any:
        full = [row for row in rows if row[0].numel()]
        columns = [[row[k] for row in full] for k in range(len(sums.args))]
        return sums.function(LIBRARY, *columns, exact=True)

    if sums.whole:
        value = scalar([row for batch in batches for row in batch.vectors(sums)])
        for batch in batches:
            batch.scalars[sums.result.name] = batch.spread(value)
    else:
        for batch in batches:
            values = [scalar([row]) for row in batch.vectors(sums)]
            batch.scalars[sums.result.name] = batch.rounded(values)


# NumPy, in blocks.

_NUMBERS, _TRUTHS = "_b", "_t"  # buffers are named after what they hold


class _Blockwise:
    """A body as a function of NumPy's operations, which write to a few buffers again and again.

    A new field of the state is written over the old one as soon as no later line reads that.
    ``step`` is where the step goes; where it is added, or none is made, the parameters themselves.
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

    def __call__(self, batch: Batch, leaves: Iterable[int], numbers: Iterable[float]) -> None:
        """Run the body on some of the leaves."""
        scalars = [batch.scalars[name] for name in self._body.scalars]
        jobs: list[Job] = []
        for i in leaves:
            arrays = batch.arrays[i]
            memory = [arrays[name].numpy() for name in self._names]
            memory.append(arrays.get("step", arrays["p"]).numpy())
            own = (*(vector[i] for vector in scalars), *numbers)
            jobs.append((self._add if batch.in_place[i] else self._store, memory, own))
        _in_threads(jobs, self._buffers[_NUMBERS], self._buffers[_TRUTHS], NUMPY[batch.dtype])

    def _shown(self, argument: Any) -> str:
        if isinstance(argument, Symbol):
            return self._where.get(argument.name, argument.name)
        if isinstance(argument, HostNumber):
            return self._constants[argument.key]
        return repr(argument)

    def _write(self) -> None:
        body = self._body
        last_read = _last_reads(body.lines)
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
        return _function(f"body({', '.join(arguments)})", [*self._lines, *ends], vars(np))


_FRESH = frozenset({"where", "zeros_like", "ones_like"})  # NumPy's, which take no memory to fill

Job = tuple[Callable[..., None], list[np.ndarray], tuple[Any, ...]]
"""A function, its arrays, of which it is given a block each, and its scalars."""


def _in_threads(jobs: Sequence[Job], numbers: int, truths: int, dtype: Any) -> None:
    """Run jobs in blocks, with as many threads as torch has and as pay."""
    if not jobs:
        return
    blocks = [
        (function, arrays if size <= BLOCK else [x[i : i + BLOCK] for x in arrays], scalars)
        for function, arrays, scalars in jobs
        for size in [arrays[-1].size]
        for i in range(0, max(1, size), BLOCK)
    ]
    total = sum(arrays[-1].size for _, arrays, _ in blocks)
    threads = min(torch.get_num_threads(), len(blocks), 1 + total // (2 * BLOCK))
    flushed = _flushes()

    def work(part: Sequence[Job], in_thread: bool) -> None:
        if in_thread:  # the switch is the thread's
            torch.set_flush_denormal(flushed)
        length = max((arrays[-1].size for _, arrays, _ in part), default=0)
        buffers = [np.empty(length, dtype) for _ in range(numbers)]
        buffers += [np.empty(length, np.bool_) for _ in range(truths)]
        with np.errstate(all="ignore"):
            for function, arrays, scalars in part:
                size = arrays[-1].size
                own = buffers if size == length else [b[:size] for b in buffers]
                function(*arrays, *scalars, *own)

    if threads == 1:
        work(blocks, False)
        return
    size = -(-len(blocks) // threads)
    parts = [blocks[i : i + size] for i in range(0, len(blocks), size)]
    waiting = [_pool(threads).submit(work, part, True) for part in parts[1:]]
    work(parts[0], False)
    for future in waiting:
        future.result()


def _flushes() -> bool:
    """Tell whether this thread takes subnormal numbers for zero."""
    with np.errstate(all="ignore"):
        return bool(np.float32(1e-40) * np.float32(1.0) == 0)


@functools.cache
def _pool_of(process: int, threads: int) -> ThreadPoolExecutor:
    del process  # threads do not live on in a forked process
    return ThreadPoolExecutor(threads - 1, "optstudy")


def _pool(threads: int) -> ThreadPoolExecutor:
    return _pool_of(os.getpid(), threads)


# Torch's operations, one after another or compiled.


class _Kernel:
    """A body as a function of torch's operations, for flat arrays of any length."""

    def __init__(self, body: Body) -> None:
        self._body = body
        targets = [o.target for o in body.outputs if o.target != "step"]
        self._names = list(dict.fromkeys([*body.arrays, *targets]))
        self._functions: dict[tuple[bool, bool], Callable[..., None]] = {}

    def __call__(
        self, batch: Batch, leaves: Sequence[int], numbers: Sequence[float], compiled: bool
    ) -> None:
        """Run the body on some of the leaves."""
        if not leaves:
            return
        rows = batch.rows(self._body.scalars, numbers)
        for i in leaves:
            arrays, add = batch.arrays[i], batch.in_place[i]
            if (add, compiled) not in self._functions:
                self._functions[add, compiled] = self._function(add, compiled)
            memory = (arrays[name] for name in self._arguments(add))
            self._functions[add, compiled](*memory, rows[i])

    def _arguments(self, add: bool) -> list[str]:
        return list(dict.fromkeys([*self._names, *self._of_step("p" if add else "step")]))

    def _of_step(self, target: str) -> list[str]:
        return [target for o in self._body.outputs if o.target == "step"]

    def _function(self, add: bool, compiled: bool) -> Callable[..., None]:
        body = self._body
        # Results have names of their own: memory may be called like the value that it is for.
        names = {line.result.name: f"_{line.result.name}" for line in body.lines}
        numbers = {key: f"h{i}" for i, key in enumerate(body.numbers)}
        needed = _last_reads(body.lines)
        needed |= {o.source.name: len(body.lines) for o in body.outputs}

        def shown(argument: Any) -> str:
            if isinstance(argument, Symbol):
                return names.get(argument.name, argument.name)
            return numbers[argument.key] if isinstance(argument, HostNumber) else repr(argument)

        lines = [
            f"{name} = c[{i}]" + (" != 0" if body.scalars.get(name) else "")
            for i, name in enumerate([*body.scalars, *numbers.values()])
        ]
        for i, line in enumerate(body.lines):
            args = ", ".join(map(shown, line.args))
            lines.append(f"{shown(line.result)} = apply({line.operation!r}, {args})")
            read = dict.fromkeys(a.name for a in line.args if isinstance(a, Symbol))
            lines += [f"del {names[n]}" for n in read if n in names and needed[n] == i]
        for target, source in body.outputs:
            if target != "step":
                lines.append(f"{target}.copy_({shown(source)})")
            else:
                lines.append(f"{'p.add_' if add else 'step.copy_'}({shown(source)})")
        function = _function(
            f"body({', '.join([*self._arguments(add), 'c'])})", lines, {"apply": _array.apply}
        )
        if compiled:
            function = torch.compile(function, dynamic=True, fullgraph=True)
        return function


def _last_reads(lines: Sequence[Line]) -> dict[str, int]:
    """Return the number of the last line that reads a symbol, by its name."""
    return {a.name: i for i, x in enumerate(lines) for a in x.args if isinstance(a, Symbol)}


def _function(signature: str, lines: Sequence[str], names: Mapping[str, Any]) -> Any:
    text = "\n    ".join([f"def {signature}:", *lines, "pass"])
    scope = dict(names) | {"inf": math.inf, "nan": math.nan}
    exec(compile(text, f"<optstudy {signature}>", "exec"), scope)
    return scope[signature.partition("(")[0]]
