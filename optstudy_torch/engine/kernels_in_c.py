"""One loop in C for all leaves of a group on the CPU.

A loop is handed, for each array of the program, the addresses in all leaves, so that a step is one
call for each thread, however many leaves there are and of whatever sizes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .c_compiler import function_of, has_threads, library_of, may_use_threads
from .c_source import FORMS, declared, head, kind, read_numbers, written
from .program import Body, Phase, Program, Symbol
from .rounding import NUMPY
from .source import Text, kept_names, reads, rows, scalars_of, values
from .stages import Stage
from .threads import BLOCK, in_threads
from .units import Unit

_SCALARS = """
/* The scalars of all leaves. */
void {name}(const void *const *read, void *const *made, const T *c, int64_t count) {{
    {numbers}
    for (int64_t i = 0; i < count; ++i) {{
        {body}
    }}
}}
"""
_ARRAYS = """
/* The numbers from begin to end, of all leaves one after another. */
static void part_of_{name}(T *const *table, const int64_t *sizes, const int64_t *columns,
                           const void *const *scalars, const T *c, int64_t leaves,
                           int64_t begin, int64_t end) {{
    {numbers}
    for (int64_t leaf = 0; leaf < leaves && end > 0; ++leaf) {{
        const int64_t size = sizes[leaf], to = end < size ? end : size;
        if (begin < to) {{
            const int64_t column = columns[leaf];
            {leaf}
            #pragma omp simd
            for (int64_t i = begin; i < to; ++i) {{
                {body}
            }}
        }}
        begin = begin < size ? 0 : begin - size;
        end -= size;
    }}
}}

/* The same, in threads. */
void {name}(T *const *table, const int64_t *sizes, const int64_t *columns,
            const void *const *scalars, const T *c, int64_t leaves,
            int64_t begin, int64_t end, int threads) {{
#define PART(number, from, to) \\
    part_of_{name}(table, sizes, columns, scalars, c, leaves, from, to)
    IN_THREADS(threads, begin, end, 64, PART);
#undef PART
}}
"""


class Kernels:
    """The loops of a program for a working dtype: the parts of one library.

    Raises:
        NoKernelsError: if there is no compiler, or it fails.
    """

    any_dtype = False  # what C itself computes with

    def __init__(self, program: Program, dtype: torch.dtype) -> None:
        phases = program.phases
        kept = kept_names(phases, program.kept)
        self.scalars = [_Scalars(f"scalars_{i}", phase, kept) for i, phase in enumerate(phases)]
        self.arrays = [_Body(f"arrays_{i}", phase.body) for i, phase in enumerate(phases)]
        functions: list[_Scalars | _Arrays] = [*self.scalars]
        functions += [arrays for body in self.arrays for arrays in body.loops.values()]
        text = head(dtype) + "".join(x.text for x in functions)
        library = library_of(text)
        for function in functions:
            function.find(library)


class _Scalars:
    """The scalars of a phase, for all leaves at once."""

    def __init__(self, name: str, phase: Phase, kept: set[str]) -> None:
        self._name = name
        self._read, self._results = scalars_of(phase, kept)
        text = Text(FORMS)
        body = [
            f"{declared(x)} = (({kind(x)} const *)read[{i}])[i];" for i, x in enumerate(self._read)
        ]
        body += written(phase.scalars, text)
        body += [
            f"(({kind(x)} *)made[{i}])[i] = {text.shown(x)};" for i, x in enumerate(self._results)
        ]
        self._numbers = text.numbers
        self.text = _SCALARS.format(
            name=name, numbers=read_numbers(len(text.numbers)), body="\n        ".join(body)
        )

    def find(self, library: ctypes.CDLL) -> None:
        """Take the function from what the compiler made."""
        self._function = function_of(library, self._name, [ctypes.c_void_p] * 3 + [ctypes.c_int64])

    def __call__(self, stage: Stage, hyperparameters: dict[str, Any]) -> None:
        """Compute the scalars of a stage."""
        if not self._results:
            return
        made = stage.put(("made", id(self)), None, lambda: self._room(stage))
        c = stage.numbers(id(self), values(self._numbers, hyperparameters))
        read = _addresses(stage, ("read", id(self)), _vectors(stage, self._read))
        self._function(read, _addresses(stage, ("to", id(self)), made), c.data_ptr(), stage.count)
        for symbol, x in zip(self._results, made, strict=True):
            stage.scalars[symbol.name] = x

    def _room(self, stage: Stage) -> list[np.ndarray]:
        return [np.empty(stage.count, _numpy(x, stage.dtype)) for x in self._results]


class _Body:
    """A body, on units of one leaf each."""

    def __init__(self, name: str, body: Body) -> None:
        self.loops = {
            in_place: _Arrays(f"{name}_{in_place:d}", body, in_place) for in_place in (False, True)
        }

    def __call__(
        self,
        stage: Stage,
        units: Sequence[Unit],
        hyperparameters: dict[str, Any],
        step_dtype: str | None,
    ) -> None:
        """Run the body."""
        del step_dtype  # of parameters that are read in their own dtype
        for in_place, loop in self.loops.items():
            own = [unit for unit in units if unit.in_place == in_place]
            if own:
                loop(stage, own, hyperparameters)


class _Arrays:
    """A body, for all leaves at once, whose parameters take the step where they are or do not."""

    def __init__(self, name: str, body: Body, in_place: bool) -> None:
        self._name, self._rows = name, rows(body, in_place)
        self._scalars = [Symbol(own, False, 0, is_truth) for own, is_truth in body.scalars.items()]
        text = Text(FORMS)
        lines = [f"const T {own} = to_{own}[i];" for own in reads(body, in_place)]
        lines += written(body.lines, text)
        for target, source in body.outputs:
            if target == "step" and in_place:
                lines.append(f"to_p[i] = p + {text.shown(source)};")
            else:
                lines.append(f"to_{target}[i] = {text.shown(source)};")
        leaf = [
            f"T *const to_{own} = table[{i} * leaves + leaf];" for i, own in enumerate(self._rows)
        ]
        leaf += [
            f"{declared(x)} = (({kind(x)} const *)scalars[{i}])[column];"
            for i, x in enumerate(self._scalars)
        ]
        self._numbers = text.numbers
        self.text = _ARRAYS.format(
            name=name,
            numbers=read_numbers(len(text.numbers)),
            leaf="\n            ".join(leaf),
            body="\n                ".join(lines),
        )

    def find(self, library: ctypes.CDLL) -> None:
        """Take the function from what the compiler made."""
        kinds = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 3 + [ctypes.c_int]
        self._function = function_of(library, self._name, kinds)
        self._has_threads = has_threads(library)

    def __call__(self, stage: Stage, units: list[Unit], hyperparameters: dict[str, Any]) -> None:
        """Run the body on units."""
        key = id(self), units[0].first
        table, places, total = stage.put(key, None, lambda: self._places(units))
        for row, name in enumerate(self._rows):
            if name not in units[0].states:  # where the states lie the stage knows
                table[row] = [unit.arrays[name].data_ptr() for unit in units]
        if not table.all():  # empty leaves have no memory either
            without = [u.size for u, x in zip(units, table.T, strict=True) if not x.all()]
            if any(without):
                raise TypeError("a tensor without memory of its own: allowed are plain tensors")
        scalars = _addresses(stage, ("scalars", id(self)), _vectors(stage, self._scalars))
        c = stage.numbers(id(self), values(self._numbers, hyperparameters))
        given = *(x.data for x in places), scalars, c.data_ptr(), len(units)
        threads = min(1 + total // (2 * BLOCK), torch.get_num_threads())

        def work(part: Sequence[int], threads: int = 1) -> None:
            self._function(*given, part[0], min(part[-1] + BLOCK, total), threads)

        blocks = range(0, total, BLOCK)
        if total and self._has_threads and may_use_threads():
            work(blocks, threads)  # torch's own threads, which may still be waiting for work
        else:
            in_threads(work, blocks, threads)

    def _places(self, units: Sequence[Unit]) -> tuple[np.ndarray, list[Any], int]:
        """Return a table of addresses, where it, sizes and columns are, and how many numbers."""
        table = [
            [unit.states[name].data_ptr() if name in unit.states else 0 for unit in units]
            for name in self._rows
        ]
        sizes, columns = [unit.size for unit in units], [unit.first for unit in units]
        own = np.array(table, np.uintp)
        arrays = own, np.array(sizes, np.int64), np.array(columns, np.int64)
        return own, [x.ctypes for x in arrays], sum(sizes)


# What is handed over.


def _numpy(symbol: Symbol, dtype: torch.dtype) -> Any:
    return np.bool_ if symbol.is_truth else NUMPY[dtype]


def _vectors(stage: Stage, symbols: Sequence[Symbol]) -> list[np.ndarray]:
    dtype = stage.dtype
    return [np.ascontiguousarray(stage.scalars[x.name], _numpy(x, dtype)) for x in symbols]


def _addresses(stage: Stage, key: Any, arrays: list[np.ndarray]) -> int:
    """Return where the addresses of arrays are; most are the same at every step."""

    def made() -> tuple[list[np.ndarray], Any]:  # the arrays, so that no other takes their place
        return arrays, np.array([x.ctypes.data for x in arrays], np.uintp).ctypes

    address: int = stage.put(key, [id(x) for x in arrays], made)[1].data
    return address
