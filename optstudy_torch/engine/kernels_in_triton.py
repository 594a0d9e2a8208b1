"""One kernel for all leaves of a group on a GPU, written in Triton.

For each array of the program, a kernel gets the address in the first leaf and the distances to the
other leaves. So a step is one launch for the scalars of all leaves and one for the rest. Leaves are
not copied together, and parameters are read and written in their own dtype.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from optstudy_core.arrays.leaves import Reduction

from .errors import NoKernelsError
from .exact_sums_in_triton import scalars_of as scalars_of_leaves
from .kernels import Places, Run
from .phases import Body, Phase
from .program import Program
from .source import kept_names, reads, rows, scalars_of, values
from .stages import Stage
from .triton_source import BLOCK, LANGUAGE, dtype_of, has_triton, kernel_of, loads, start, text_of
from .units import Unit

_ALIGNED = 16
"""Bytes. If all addresses are multiples, distances have this unit, so that the compiler knows and
reads and writes four floats at once."""


class Scalars:
    """The scalars of a phase, for all leaves at once.

    Args:
        phase: the phase to compute.
        kept: the names of results that are read later.
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
            stage.arguments.room(symbol.name, dtype_of(symbol.kind, stage.dtype))
            for symbol in self._results
        ]
        c = stage.arguments.numbers(id(self), values(numbers, hyperparameters))
        instances = -(-stage.count // BLOCK)
        start(kernel, instances, stage.device, *read, *made, c, stage.count)
        for symbol, x in zip(self._results, made, strict=True):
            stage.scalars[symbol.name] = x

    def _made(self, dtype: torch.dtype) -> tuple[Any, list[Any]]:
        text = text_of(dtype)
        lines = []
        for line in self._lines:
            written = text.line(line)
            if line.operation == "full":  # one scalar for all leaves
                written += f" + tl.zeros([BLOCK], {LANGUAGE[dtype]})"
            lines.append(written)
        inputs = [f"{name} = tl.load(in_{name} + at, mask=inside)" for name in self._read]
        stores = [
            f"tl.store(out_{x.name} + at, {text.shown(x)}, mask=inside)" for x in self._results
        ]
        place = ["at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)", "inside = at < count"]
        arguments = [f"in_{name}" for name in self._read]
        arguments += [f"out_{x.name}" for x in self._results]
        arguments += ["c", "count", "BLOCK: tl.constexpr"]
        body = [*place, *loads(text, dtype), *inputs, *lines, *stores]
        return kernel_of("scalars", arguments, body), text.numbers


class _Launch(NamedTuple):
    """A kernel and its arguments, for leaves of the same dtypes."""

    kernel: Any
    numbers: list[Any]
    firsts: list[tuple[Unit, str]]
    table: torch.Tensor
    places: Places
    leaves: int


class Arrays:
    """A body for all leaves at once."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._kernels: dict[Any, tuple[Any, list[Any]]] = {}

    def __call__(
        self,
        stage: Stage,
        units: Sequence[Unit],
        hyperparameters: dict[str, Any],
        step_dtype: str | None,
    ) -> Run:
        """Return a function that runs the body on units of one leaf each."""
        key = id(self), step_dtype
        # The stage knows the addresses of states; gradients may move at every step.
        moving = stage.arguments.put(("moving", key), None, lambda: self._moving(units))
        arrays = [unit.arrays[name] for unit, name in moving]
        places = [x.data_ptr() for x in arrays], [x.dtype for x in arrays]
        launches = stage.arguments.put(
            ("launches", key), places, lambda: list(self._launches(stage, units, step_dtype))
        )
        scalars = [stage.scalars[name].contiguous() for name in self._body.scalars]
        starts = [
            functools.partial(
                start,
                launch.kernel,
                launch.places.instances,
                stage.device,
                *(unit.arrays[name] for unit, name in launch.firsts),
                launch.table,
                *launch.places[1:],
                launch.leaves,
                *scalars,
                stage.arguments.numbers(id(self), values(launch.numbers, hyperparameters)),
            )
            for launch in launches
        ]

        def run() -> None:
            for own in starts:
                own()

        return run

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
            places = stage.arguments.places(own, BLOCK)
            if places.instances:
                distances = stage.arguments.distances(table, _units(dtypes, aligned))
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
        working = LANGUAGE[dtype]
        text = text_of(dtype)
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
            small = LANGUAGE[own["p"]]
            # torch adds elements of a small dtype in float32, and rounds the sum.
            rounded = step if step_dtype else f"({step}).to({small}).to({working})"
            return f"(p + ({rounded})).to({small})"

        def computed(mask: str) -> list[str]:
            made = [f"own_{name} = tl.load(to_{name} + at{mask})" for name in read]
            made += [f"{name} = own_{name}.to({working})" for name in read]
            made += lines
            for target, source, _ in body.outputs:
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
        kernel = kernel_of(
            "arrays", arguments, [*place, *pointers(), *loads(text, dtype), *scalars, *branches]
        )
        return kernel, text.numbers


class Kernels:
    """The kernels of a program.

    Raises:
        NoKernelsError: without Triton, or a C compiler for its launcher.
    """

    any_dtype = True

    def __init__(self, program: Program, dtype: torch.dtype) -> None:
        del dtype  # each kernel is made for the dtypes of its leaves
        if not has_triton():
            raise NoKernelsError("there is no Triton, or no C compiler for its launcher")
        phases = program.phases
        kept = kept_names(phases, program.kept)
        self.scalars = [Scalars(phase, kept) for phase in phases]
        self.arrays = [Arrays(phase.body) for phase in phases]

    def scalars_of(self, function: Reduction, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the sum of each leaf."""
        return scalars_of_leaves(function, rows)


def _units(dtypes: Iterable[torch.dtype], aligned: bool) -> list[int]:
    """Return the units of distances in bytes, for arrays of these dtypes."""
    return [_ALIGNED if aligned else dtype.itemsize for dtype in dtypes]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
