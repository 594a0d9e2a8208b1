"""What runs a program on the leaves of a group: NumPy in blocks, torch's operations, or a kernel.

All of them round every operation once, so they give the same bits:

- On the CPU, NumPy computes on the memory of the tensors, in blocks whose temporaries stay in the
  cache, with as many threads as torch has.
- On other devices torch's operations run one after another on whole tensors.
- Compiled, one kernel takes all leaves: a loop in C on the CPU (:mod:`optstudy_torch._native`), one
  of Triton on a GPU (:mod:`optstudy_torch._triton`).

They run on the units of a :mod:`stage <optstudy_torch._stages>`.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from . import _array, _native, _triton
from ._array import NUMPY
from ._language import rows
from ._passes import scalars_of
from ._program import Body, HostNumber, Line, Program, Sum, Symbol
from ._stages import BLOCK, Kernels, NoKernelsError, Stage, Unit
from ._threads import in_threads
from .geometry import sum_of

KERNELS: dict[str, Callable[[Program, torch.dtype], Kernels]] = {
    "cpu": _native.Kernels,
    "cuda": _triton.Kernels,
}
"""What makes kernels, by the type of the device."""


class Machine:
    """A program with what runs its bodies."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._kernels: dict[tuple[str, torch.dtype], Kernels | NoKernelsError] = {}

    @functools.cached_property
    def _blockwise(self) -> list[_Blockwise]:
        return [_Blockwise(phase.body) for phase in self.program.phases]

    @functools.cached_property
    def _operations(self) -> list[_Operations]:
        return [_Operations(phase.body) for phase in self.program.phases]

    def kernels(
        self, device: torch.device, dtype: torch.dtype, compiled: bool | None
    ) -> Kernels | None:
        """Return kernels for a device and a working dtype; for ``None`` where they can be made.

        Raises:
            RuntimeError: if ``compiled`` is true and they cannot be made.
        """
        if compiled is False:
            return None
        kind = device.type
        made = self._kernels.get((kind, dtype))
        if kind not in KERNELS:
            made = NoKernelsError(f"allowed on {' and '.join(KERNELS)}")
        elif made is None:
            try:
                made = KERNELS[kind](self.program, dtype)
            except NoKernelsError as error:
                made = error
            self._kernels[kind, dtype] = made
        if not isinstance(made, NoKernelsError):
            return made
        if compiled:
            raise RuntimeError(f"compile = True on {kind}: {made}")
        return None

    def run(
        self,
        stages: Sequence[Stage],
        hyperparameters: dict[str, Any],
        inputs: Mapping[str, Mapping[Any, torch.Tensor]],
        step_dtype: str | None,
    ) -> None:
        """Advance states and parameters.

        Args:
            stages: all parameters of a group that have a gradient.
            hyperparameters: Python numbers and tensors by name; inputs that are scalars, too.
            inputs: tensors like the parameters, by name and parameter.
            step_dtype: of the sum of a parameter and its step, if it is not the parameter's.
        """
        phases = self.program.phases
        tensors = {k: v for k, v in hyperparameters.items() if isinstance(v, torch.Tensor)}
        for stage in stages:
            stage.begin(tensors)
        if len(phases) == 1:
            for stage in stages:
                self._compute(0, stage, hyperparameters)
                for units in stage.chunks:
                    stage.load(units, inputs)
                    self._body(0, stage, units, hyperparameters, step_dtype)
                    stage.store(units, step_dtype)
        else:
            everything = [(stage, units) for stage in stages for units in stage.chunks]
            for stage, units in everything:
                stage.load(units, inputs)
            for number, phase in enumerate(phases):
                for stage, units in everything:
                    self._compute(number, stage, hyperparameters)
                    self._body(number, stage, units, hyperparameters, step_dtype)
                for sums in phase.sums:
                    _sum(sums, stages)
            for stage, units in everything:
                stage.store(units, step_dtype)
        for stage in stages:
            stage.end(self.program.new_scalars)

    def _compute(self, number: int, stage: Stage, hyperparameters: dict[str, Any]) -> None:
        if stage.kernels:
            stage.kernels.scalars[number](stage, hyperparameters)
        else:
            stage.compute(self.program.phases[number].scalars, hyperparameters)

    def _body(
        self,
        number: int,
        stage: Stage,
        units: Sequence[Unit],
        hyperparameters: dict[str, Any],
        step_dtype: str | None,
    ) -> None:
        body = self.program.phases[number].body
        ready = stage.direct and not body.moved and len(self.program.phases) == 1
        unready = [unit for unit in units if not (ready and unit.in_place)]
        moved = [unit.prepare(body, stage.dtype) for unit in unready]
        if body.outputs and stage.kernels:
            stage.kernels.arrays[number](stage, units, hyperparameters, step_dtype)
        elif body.outputs:
            numbers = [n.value(hyperparameters) for n in body.numbers.values()]
            one_by_one = self._blockwise if stage.on_host else self._operations
            one_by_one[number](stage, units, numbers)
        for unit, own in zip(unready, moved, strict=True):
            unit.move(own, step_dtype)


def _sum(sums: Sum, stages: Sequence[Stage]) -> None:
    compiled = all(stage.kernels for stage in stages)

    def scalar(rows: Sequence[list[torch.Tensor]]) -> Any:
        full = [row for row in rows if row[0].numel()]
        columns = [[row[k] for row in full] for k in range(len(sums.args))]
        return sum_of(sums.function, columns, in_c=compiled)

    name = sums.result.name
    if sums.whole:
        value = scalar([row for stage in stages for row in stage.vectors(sums)])
        for stage in stages:
            stage.scalars[name] = stage.spread(value)
        return
    for stage in stages:
        rows = list(stage.vectors(sums))
        found = scalars_of(sums.function, rows) if compiled and stage.on_host else None
        stage.scalars[name] = stage.rounded(found or [scalar([row]) for row in rows])


# NumPy, in blocks.

_NUMBERS, _TRUTHS = "_b", "_t"  # buffers are named after what they hold


class _Blockwise:
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
        operations = vars(np) | {"sign": _sign}
        return _function(f"body({', '.join(arguments)})", [*self._lines, *ends], operations)


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


# Torch's operations, one after another.


class _Operations:
    """A body as a function of torch's operations, for flat arrays."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._functions = {in_place: self._function(in_place) for in_place in (False, True)}

    def __call__(self, stage: Stage, units: Iterable[Unit], numbers: Sequence[float]) -> None:
        """Run the body on some of the units."""
        for unit in units:
            memory = (unit.arrays[name] for name in rows(self._body, unit.in_place))
            row = stage.row(unit, self._body.scalars, numbers)
            self._functions[unit.in_place](*memory, row)

    def _function(self, in_place: bool) -> Callable[..., None]:
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
                lines.append(f"{'p.add_' if in_place else 'step.copy_'}({shown(source)})")
        arguments = ", ".join([*rows(body, in_place), "c"])
        return _function(f"body({arguments})", lines, {"apply": _array.apply})


def _last_reads(lines: Sequence[Line]) -> dict[str, int]:
    """Return the number of the last line that reads a symbol, by its name."""
    return {a.name: i for i, x in enumerate(lines) for a in x.args if isinstance(a, Symbol)}


def _function(signature: str, lines: Sequence[str], names: Mapping[str, Any]) -> Any:
    text = "\n    ".join([f"def {signature}:", *lines, "pass"])
    scope = dict(names) | {"inf": math.inf, "nan": math.nan}
    exec(compile(text, f"<optstudy {signature}>", "exec"), scope)
    return scope[signature.partition("(")[0]]
