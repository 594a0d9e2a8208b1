"""One kernel for all leaves of a group on a GPU: programs written in Triton's language.

A kernel is handed, for each array of the program, the address in the first leaf and how far off it
is in the others, so that a step is one launch for the scalars of all leaves and one for the rest,
however many leaves there are; nothing is copied together, and parameters are read and written in
their own dtype.

What differs from IEEE 754 in Triton, and is fixed here:

- A product and a sum are contracted to one fused multiply-add: ``enable_fp_fusion=False``.
- ``x / y`` of float32 is ``div.full``, off by a unit in the last place for a fifth of quotients:
  ``div_rn``. ``sqrt`` of float32 is approximate as well: ``sqrt_rn``. In float64 both are exact.
- ``maximum`` and ``minimum`` lose NaN unless they are told to keep it.
- A number in the text of a kernel, or handed over as an argument, is rounded to float32: numbers
  are in a tensor of the working dtype.
"""

from __future__ import annotations

import functools
import hashlib
import linecache
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from .c_compiler import compiler
from .errors import NoKernelsError
from .kernels import Places
from .program import Body, Phase, Program
from .source import INFIX, Text, kept_names, reads, rows, scalars_of, values
from .stages import Stage
from .units import Unit

BLOCK = 1024
"""Numbers that one instance of a kernel computes."""

_WARPS = 4
_ALIGNED = 16
"""Bytes: where all addresses are multiples of them, distances are counted in them, so that the
compiler knows, and reads and writes four floats at once."""

_COUNTS = ["count", "leaves"]  # arguments for whose values no kernel is made again
_LANGUAGE = {
    torch.float32: "tl.float32",
    torch.float64: "tl.float64",
    torch.bfloat16: "tl.bfloat16",
    torch.float16: "tl.float16",
}
_FORMS = INFIX | {
    "abs": "tl.abs({0})",
    "sign": "tl.where({0} != {0}, {0}, ({0} > 0).to({0}.dtype) - ({0} < 0).to({0}.dtype))",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "where": "tl.where({0}, {1}, {2})",
    "isfinite": "tl.abs({0}) < float('inf')",
    "logical_not": "{0} == 0",
    "zeros_like": "({0} == {0}).to({0}.dtype) * 0",
    "ones_like": "({0} == {0}).to({0}.dtype) * 0 + 1",
}
_ROUNDED = {
    torch.float32: {"divide": "tl.div_rn({0}, {1})", "sqrt": "tl.sqrt_rn({0})"},
    torch.float64: {"divide": "{0} / {1}", "sqrt": "tl.sqrt({0})"},
}


def _text(dtype: torch.dtype) -> Text:
    return Text(_FORMS | _ROUNDED[dtype])


def _loads(text: Text) -> list[str]:
    """Return what reads the numbers."""
    return [f"h{i} = tl.load(c + {i})" for i in range(len(text.numbers))]


def _kernel(name: str, arguments: Iterable[str], lines: Iterable[str]) -> Any:
    """Return a kernel of these lines."""
    import triton
    import triton.language as tl

    text = "\n    ".join([f"def {name}({', '.join(arguments)}):", *lines]) + "\n"
    # Of the same text the same name, so that the table grows no further, in whatever thread.
    file = f"<optstudy {name} {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, Any] = {"tl": tl, "triton": triton, "__name__": __name__}
    exec(compile(text, file, "exec"), scope)
    return triton.jit(do_not_specialize=_COUNTS)(scope[name])


def _start(kernel: Any, instances: int, device: torch.device, *arguments: Any) -> None:
    """Start a kernel on a device, which need not be the current one."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(instances,)](*arguments, BLOCK, num_warps=_WARPS, enable_fp_fusion=False)


class Scalars:
    """The scalars of a phase, for all leaves at once.

    Args:
        phase: whose lines are computed.
        kept: names of the results that someone reads later.
    """

    def __init__(self, phase: Phase, kept: set[str]) -> None:
        self._lines = phase.scalars
        read, self._results = scalars_of(phase, kept)
        self._read = [symbol.name for symbol in read]
        self._kernels: dict[torch.dtype, tuple[Any, list[Any]]] = {}

    def __call__(self, stage: Stage, hyperparameters: dict[str, Any]) -> None:
        """Compute the scalars of a stage."""
        if not self._lines:
            return
        if stage.dtype not in self._kernels:
            self._kernels[stage.dtype] = self._made(stage.dtype)
        kernel, numbers = self._kernels[stage.dtype]
        read = [stage.scalars[name].contiguous() for name in self._read]
        made = [
            stage.room(symbol.name, torch.bool if symbol.is_truth else stage.dtype)
            for symbol in self._results
        ]
        c = stage.numbers(id(self), values(numbers, hyperparameters))
        instances = -(-stage.count // BLOCK)
        _start(kernel, instances, stage.device, *read, *made, c, stage.count)
        for symbol, x in zip(self._results, made, strict=True):
            stage.scalars[symbol.name] = x

    def _made(self, dtype: torch.dtype) -> tuple[Any, list[Any]]:
        text = _text(dtype)
        lines = []
        for line in self._lines:
            written = text.line(line)
            if line.operation == "full":  # one number, for all leaves
                written += f" + tl.zeros([BLOCK], {_LANGUAGE[dtype]})"
            lines.append(written)
        loads = [f"{name} = tl.load(in_{name} + at, mask=inside)" for name in self._read]
        stores = [
            f"tl.store(out_{x.name} + at, {text.shown(x)}, mask=inside)" for x in self._results
        ]
        place = ["at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)", "inside = at < count"]
        arguments = [f"in_{name}" for name in self._read]
        arguments += [f"out_{x.name}" for x in self._results]
        arguments += ["c", "count", "BLOCK: tl.constexpr"]
        body = [*place, *_loads(text), *loads, *lines, *stores]
        return _kernel("scalars", arguments, body), text.numbers


class _Launch(NamedTuple):
    """A kernel and what it is handed, for leaves of the same dtypes."""

    kernel: Any
    numbers: list[Any]
    firsts: list[tuple[Unit, str]]
    table: torch.Tensor
    places: Places
    leaves: int


class Arrays:
    """A body, for all leaves at once."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._kernels: dict[Any, tuple[Any, list[Any]]] = {}

    def __call__(
        self,
        stage: Stage,
        units: Sequence[Unit],
        hyperparameters: dict[str, Any],
        step_dtype: str | None,
    ) -> None:
        """Run the body on units of one leaf each."""
        key = id(self), step_dtype
        # Where the states lie the stage knows; gradients may lie elsewhere at every step.
        moving = stage.put(("moving", key), None, lambda: self._moving(units))
        arrays = [unit.arrays[name] for unit, name in moving]
        places = [x.data_ptr() for x in arrays], [x.dtype for x in arrays]
        launches = stage.put(
            ("launches", key), places, lambda: list(self._launches(stage, units, step_dtype))
        )
        scalars = [stage.scalars[name].contiguous() for name in self._body.scalars]
        for launch in launches:
            _start(
                launch.kernel,
                launch.places.instances,
                stage.device,
                *(unit.arrays[name] for unit, name in launch.firsts),
                launch.table,
                *launch.places[1:],
                launch.leaves,
                *scalars,
                stage.numbers(id(self), values(launch.numbers, hyperparameters)),
            )

    def _moving(self, units: Sequence[Unit]) -> list[tuple[Unit, str]]:
        return [
            (unit, name)
            for unit in units
            for name in rows(self._body, unit.in_place)
            if name not in unit.states
        ]

    def _launches(
        self, stage: Stage, units: Sequence[Unit], step_dtype: str | None
    ) -> Iterator[_Launch]:
        alike: dict[Any, list[Unit]] = {}
        for unit in units:
            dtypes = tuple(unit.arrays[name].dtype for name in rows(self._body, unit.in_place))
            alike.setdefault((unit.in_place, dtypes), []).append(unit)
        for (in_place, dtypes), own in alike.items():
            names = rows(self._body, in_place)
            table = [[unit.arrays[name].data_ptr() for unit in own] for name in names]
            aligned = not any(address % _ALIGNED for row in table for address in row)
            key = in_place, dtypes, aligned, stage.dtype, step_dtype
            if key not in self._kernels:
                self._kernels[key] = self._made(*key)
            places = stage.places(own, BLOCK)
            if places.instances:
                distances = stage.distances(table, _units(dtypes, aligned))
                firsts = [(own[0], name) for name in names]
                yield _Launch(*self._kernels[key], firsts, distances, places, len(own))

    def _made(
        self,
        in_place: bool,
        dtypes: Sequence[torch.dtype],
        aligned: bool,
        dtype: torch.dtype,
        step_dtype: str | None,
    ) -> tuple[Any, list[Any]]:
        body, names = self._body, rows(self._body, in_place)
        own = dict(zip(names, dtypes, strict=True))
        working = _LANGUAGE[dtype]
        text = _text(dtype)
        lines = [text.line(line) for line in body.lines]
        read = reads(body, in_place)

        def pointers() -> list[str]:
            made = []
            for i, (name, unit) in enumerate(zip(names, _units(dtypes, aligned), strict=True)):
                distance = f"tl.load(table + {i} * leaves + leaf) * {unit // own[name].itemsize}"
                made.append(f"to_{name} = first_{name} + {distance}")
            return made

        def added(step: str) -> str:
            if own["p"] == dtype:
                return f"p + ({step})"
            small = _LANGUAGE[own["p"]]
            # torch adds numbers of a small dtype in float32, and rounds the sum.
            rounded = step if step_dtype else f"({step}).to({small}).to({working})"
            return f"(p + ({rounded})).to({small})"

        def computed(mask: str) -> list[str]:
            made = [f"own_{name} = tl.load(to_{name} + at{mask})" for name in read]
            made += [f"{name} = own_{name}.to({working})" for name in read]
            made += lines
            for target, source in body.outputs:
                shown = text.shown(source)
                value = f"tl.zeros([BLOCK], {working}) + {shown}" if not source.is_array else shown
                if target == "step" and in_place:
                    made.append(f"tl.store(to_p + at, {added(value)}{mask})")
                else:
                    made.append(f"tl.store(to_{target} + at, {value}{mask})")
            return made

        whole, rest = computed(""), computed(", mask=at < size")
        place = [
            "instance = tl.program_id(0)",
            "leaf = tl.load(leaf_of + instance)",
            "start = tl.load(part_of + instance).to(tl.int64) * BLOCK",
            "column = tl.load(column_of + leaf)",
            "size = tl.load(size_of + leaf)",
            "at = start + tl.arange(0, BLOCK)",
        ]
        scalars = [f"{name} = tl.load(in_{name} + column)" for name in body.scalars]
        arguments = [f"first_{name}" for name in names]
        arguments += ["table", "leaf_of", "part_of", "column_of", "size_of", "leaves"]
        arguments += [f"in_{name}" for name in body.scalars]
        arguments += ["c", "BLOCK: tl.constexpr"]
        branches = ["if start + BLOCK <= size:", *_indented(whole), "else:", *_indented(rest)]
        kernel = _kernel(
            "arrays", arguments, [*place, *pointers(), *_loads(text), *scalars, *branches]
        )
        return kernel, text.numbers


class Kernels:
    """The kernels of a program.

    Raises:
        NoKernelsError: without Triton, or a C compiler for its launcher.
    """

    any_dtype = True

    def __init__(self, program: Program, dtype: torch.dtype) -> None:
        del dtype  # each kernel is made for those of its leaves
        if not _has_triton():
            raise NoKernelsError("there is no Triton, or no C compiler for its launcher")
        phases = program.phases
        kept = kept_names(phases, program.kept)
        self.scalars = [Scalars(phase, kept) for phase in phases]
        self.arrays = [Arrays(phase.body) for phase in phases]


@functools.cache
def _has_triton() -> bool:
    there = find_spec("triton") is not None and torch.version.hip is None
    return there and compiler() is not None


def _units(dtypes: Iterable[torch.dtype], aligned: bool) -> list[int]:
    """Return in how many bytes distances are counted, for arrays of these dtypes."""
    return [_ALIGNED if aligned else dtype.itemsize for dtype in dtypes]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
