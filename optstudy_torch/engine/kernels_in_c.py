"""One loop in C for all leaves of a group on the CPU.

A loop gets the addresses of all leaves for each array of the program. So a step is one call for
each thread, for any number and sizes of leaves.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from optstudy_core.arrays.leaves import Reduction

from .c_compiler import function_of, has_threads, library_of, may_use_threads
from .c_source import OVER_LEAVES, head, new_text, over_leaves, read_numbers, type_of, written
from .exact_sums_in_c import scalars_of as scalars_of_leaves
from .kernels import Run
from .phases import Body, Phase
from .program import Program
from .rounding import NUMPY
from .source import Number, arrays_of, kept_names, merged, reads, rows, scalars_of, values
from .stages import Stage
from .threads import BLOCK, in_threads
from .trace import DOUBLE, TRUTH, WORKING, Symbol
from .units import Unit

_SCALARS = """
/* The scalars of all leaves. */
void {name}(const void *const *read, void *const *made, const double *c, int64_t count) {{
    {numbers}
    for (int64_t i = 0; i < count; ++i) {{
        {body}
    }}
}}
"""


class Kernels:
    """The loops of a program for a working dtype, in one library.

    Raises:
        NoKernelsError: if there is no compiler, or the compiler fails.
    """

    any_dtype = False  # only dtypes of C

    def __init__(self, program: Program, dtype: torch.dtype) -> None:
        phases = program.phases
        kept = kept_names(phases, program.kept)
        self.scalars = [Scalars(f"scalars_{i}", phase, kept) for i, phase in enumerate(phases)]
        self.arrays = [_Body(f"arrays_{i}", phase.body) for i, phase in enumerate(phases)]
        functions: list[Scalars | _Arrays] = [*self.scalars]
        functions += [arrays for body in self.arrays for arrays in body.loops.values()]
        text = head(dtype) + "".join(x.text for x in functions)
        library = library_of(text)
        for function in functions:
            function.find(library)

    def scalars_of(self, function: Reduction, rows: Sequence[Sequence[Any]]) -> list[Any] | None:
        """Return the sum of each leaf; ``None`` without loops for the function."""
        return scalars_of_leaves(function, rows)


class Scalars:
    """The scalars of a phase, for all leaves at once."""

    def __init__(self, name: str, phase: Phase, kept: set[str]) -> None:
        self.name = name
        self._read, self._results = scalars_of(phase, kept)
        text = new_text()
        body = [f"{taken(x, 'read', i)}[i];" for i, x in enumerate(self._read)]
        body += written(phase.scalars, text)
        body += [
            f"(({type_of(x)} *)made[{i}])[i] = {text.shown(x)};"
            for i, x in enumerate(self._results)
        ]
        self._numbers = text.numbers
        self.text = _SCALARS.format(
            name=name, numbers=read_numbers(text), body="\n        ".join(body)
        )

    def find(self, library: ctypes.CDLL) -> None:
        """Take the function from what the compiler made."""
        self._function = function_of(library, self.name, [ctypes.c_void_p] * 3 + [ctypes.c_int64])

    def __call__(self, stage: Stage, hyperparameters: dict[str, Any]) -> None:
        """Compute the scalars of a stage."""
        if not self._results:
            return
        made = stage.arguments.put(("made", id(self)), None, lambda: self._room(stage))
        c = stage.arguments.numbers(id(self), values(self._numbers, hyperparameters))
        read = _addresses(stage, ("read", id(self)), _vectors(stage, self._read))
        self._function(read, _addresses(stage, ("to", id(self)), made), c.data_ptr(), stage.count)
        for symbol, x in zip(self._results, made, strict=True):
            stage.scalars[symbol.name] = x

    def _room(self, stage: Stage) -> list[np.ndarray]:
        return [np.empty(stage.count, _numpy(x, stage.dtype)) for x in self._results]


class _Body:
    """A body for units of one leaf each."""

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
    ) -> Run:
        """Return a function that runs the body."""
        del step_dtype  # for parameters in their own dtype
        runs = []
        for in_place, loop in self.loops.items():
            own = [unit for unit in units if unit.in_place == in_place]
            if own:
                runs.append(loop(stage, own, hyperparameters))
        if len(runs) == 1:
            return runs[0]

        def run() -> None:
            for own in runs:
                own()

        return run


class _Arrays:
    """A body for all leaves at once, which adds the step to the parameters in place or not."""

    def __init__(self, name: str, body: Body, in_place: bool) -> None:
        self._name, self._rows = name, rows(body, in_place)
        self._scalars = list(body.scalars.values())
        _, self.text, self._numbers = loop_over(name, body, in_place)

    def find(self, library: ctypes.CDLL) -> None:
        """Take the function from what the compiler made."""
        self._function = function_of(library, self._name, OVER_LEAVES)
        self._has_threads = has_threads(library)

    def __call__(self, stage: Stage, units: list[Unit], hyperparameters: dict[str, Any]) -> Run:
        """Return a function that runs the body on units."""
        key = id(self), units[0].first
        table, places, total = stage.arguments.put(key, None, lambda: self._places(units))
        for row, name in enumerate(self._rows):
            if name not in units[0].states:  # the stage knows the addresses of the states
                table[row] = [unit.arrays[name].data_ptr() for unit in units]
        if not table.all():  # empty leaves have no memory too
            without = [u.size for u, x in zip(units, table.T, strict=True) if not x.all()]
            if any(without):
                raise TypeError("a tensor without memory of its own: allowed are plain tensors")
        scalars = _addresses(stage, ("scalars", id(self)), _vectors(stage, self._scalars))
        c = stage.arguments.numbers(id(self), values(self._numbers, hyperparameters))
        given = *(x.data for x in places), scalars, c.data_ptr(), None, len(units)
        threads = min(1 + total // (2 * BLOCK), torch.get_num_threads())

        def work(part: Sequence[int], threads: int = 1) -> None:
            self._function(*given, part[0], min(part[-1] + BLOCK, total), threads)

        blocks = range(0, total, BLOCK)
        if total and self._has_threads and may_use_threads():
            # threads of torch, which may still be waiting for work
            return functools.partial(work, blocks, threads)
        return functools.partial(in_threads, work, blocks, threads)

    def _places(self, units: Sequence[Unit]) -> tuple[np.ndarray, list[Any], int]:
        """Return addresses, the addresses of three tables, and the number of elements."""
        table = [
            [unit.states[name].data_ptr() if name in unit.states else 0 for unit in units]
            for name in self._rows
        ]
        sizes, columns = [unit.size for unit in units], [unit.first for unit in units]
        own = np.array(table, np.uintp)
        arrays = own, np.array(sizes, np.int64), np.array(columns, np.int64)
        return own, [x.ctypes for x in arrays], sum(sizes)


# Bodies in C.


def loop_over(name: str, body: Body, in_place: bool) -> tuple[list[int], str, list[Number]]:
    """Return the lengths of the axes, the C function of a body, and the scalars that it reads.

    Args:
        name: the name of the function.
        body: the body; for leaves of any shape it has one axis, with the length of the leaf.
        in_place: whether to add the step to the parameters in place.
    """
    text, names, symbols = new_text(), rows(body, in_place), arrays_of(body)
    if body.shape is None:
        lengths, patterns = [0], [(True,) * len(names)]
    else:
        lengths, patterns = merged(body.shape, [symbols[x].shape or () for x in names])
    last, read = len(lengths) - 1, reads(body, in_place)
    leaf = [f"{taken(x, 'scalars', i)}[column];" for i, x in enumerate(body.scalars.values())]
    row, lines = [], []
    if last:
        row = ["int64_t rest = row;"]
        row += [
            f"const int64_t i{axis} = rest % e{axis}; rest /= e{axis};"
            for axis in reversed(range(last))
        ]
    for i, own in enumerate(names):
        kind, offset = type_of(symbols[own]), "0"
        for axis in (axis for axis in range(last) if patterns[axis][i]):
            offset = f"({offset} * e{axis} + i{axis})"
        leaf.append(f"{kind} *const in_{own} = table[{i} * leaves + leaf];")
        if patterns[last][i]:
            row.append(f"{kind} *const to_{own} = in_{own} + {offset} * inner;")
            lines += [f"const {kind} {own} = to_{own}[i];"] * (own in read)
        else:
            row.append(f"const {kind} {own} = in_{own}[{offset}];")
    lines += written(body.lines, text)
    for target, source, _ in body.outputs:
        if target == "step" and in_place:
            lines.append(f"to_p[i] = p + {text.shown(source)};")
        else:
            lines.append(f"to_{target}[i] = {text.shown(source)};")
    function = over_leaves(name, read_numbers(text), leaf, lines, row=row, axes=last + 1)
    return lengths, function, text.numbers


def taken(symbol: Symbol, table: str, number: int) -> str:
    """Return the declaration of a scalar from a table of vectors, without the index."""
    kind = type_of(symbol)
    return f"const {kind} {symbol.name} = (({kind} const *){table}[{number}])"


# Arguments of the loops.


def _numpy(symbol: Symbol, dtype: torch.dtype) -> Any:
    return {WORKING: NUMPY[dtype], DOUBLE: np.float64, TRUTH: np.bool_}[symbol.kind]


def _vectors(stage: Stage, symbols: Sequence[Symbol]) -> list[np.ndarray]:
    dtype = stage.dtype
    return [np.ascontiguousarray(stage.scalars[x.name], _numpy(x, dtype)) for x in symbols]


def _addresses(stage: Stage, key: Any, arrays: list[np.ndarray]) -> int:
    """Return the address of a table of addresses; most are the same at every step."""

    def made() -> tuple[list[np.ndarray], Any]:  # the arrays, to keep their memory
        return arrays, np.array([x.ctypes.data for x in arrays], np.uintp).ctypes

    address: int = stage.arguments.put(key, [id(x) for x in arrays], made)[1].data
    return address
