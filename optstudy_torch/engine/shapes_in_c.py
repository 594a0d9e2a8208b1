"""Programs of one shape as loops in C: bodies with arrays of several shapes, sums along an axis."""

from __future__ import annotations

import ctypes
import functools
import math
import re
from typing import Any

import numpy as np
import torch

from .alike import Alike, address
from .c_compiler import function_of, has_threads, library_of, threads_for
from .c_source import OVER_LEAVES, head, new_text, read_numbers, type_of, written
from .exact_sums_in_c import each_sum
from .kernels import Run
from .kernels_in_c import Scalars, loop_over, taken
from .kernels_of_shape import OfShape
from .memory import OnHost
from .phases import Added, Body, Phase
from .program import Program
from .source import Number, rows, values
from .trace import Sum

CPU = torch.device("cpu")

_SCRATCH = 1 << 14
"""float64 elements that fit the second cache of a core, for a sum along an axis."""

_ALONG = """
#define AT(i) ({{ {body} (double){result}; }})

/* Sums of columns, some columns of one matrix at a time: the lower half of the rows is added to the
   upper one until one row is left, as if there were rows of zeros up to a power of two. */
static void part_of_{name}(void *const *table, const void *const *scalars, const double *c,
                           int64_t leaves, int64_t blocks, int64_t rows, int64_t columns,
                           int64_t wide, double *made, double *room,
                           int64_t begin, int64_t end) {{
    {numbers}
    const int64_t pieces = (columns + wide - 1) / wide;
    int64_t half = 1;
    while (2 * half < rows)
        half *= 2;
    for (int64_t item = begin; item < end; ++item) {{
        const int64_t block = item / pieces, first = item % pieces * wide;
        const int64_t leaf = block / blocks, column = leaf, left = columns - first;
        const int64_t width = left < wide ? left : wide;
        const int64_t start = block % blocks * rows * columns + first;
        {leaf}
        double *const result = made + block * columns + first;
        if (rows < 2) {{
            for (int64_t i = 0; i < width; ++i)
                result[i] = AT(start + i);
            continue;
        }}
        /* Rows that lie one behind the other are one long row. */
        const int64_t joined = width == columns ? half : 1, length = width * joined;
        const int64_t both = width == columns ? (rows - half) * width : width;
        for (int64_t row = 0; row < half; row += joined) {{
            const int64_t low = start + row * columns, high = low + half * columns;
            const int64_t added = width == columns || row < rows - half ? both : 0;
            double *const sums = room + row * width;
            #pragma omp simd
            for (int64_t i = 0; i < added; ++i)
                sums[i] = AT(low + i) + AT(high + i);
            #pragma omp simd
            for (int64_t i = added; i < length; ++i)
                sums[i] = AT(low + i) + 0.0;
        }}
        for (int64_t n = half / 2; n > 0; n /= 2)
            #pragma omp simd
            for (int64_t i = 0; i < n * width; ++i)
                room[i] += room[i + n * width];
        for (int64_t i = 0; i < width; ++i)
            result[i] = room[i];
    }}
}}
#undef AT

void {name}(void *const *table, const void *const *scalars, const double *c, int64_t leaves,
            int64_t blocks, int64_t rows, int64_t columns, int64_t wide, double *made,
            double *room, int64_t size, int64_t end, int threads) {{
#define PART(number, from, to) \\
    part_of_{name}(table, scalars, c, leaves, blocks, rows, columns, wide, made, \\
                   room + (number) * size, from, to)
    IN_THREADS(threads, 0, end, 1, PART);
#undef PART
}}
"""
_ALONG_ARGUMENTS: list[Any] = [
    *[ctypes.c_void_p] * 3,
    *[ctypes.c_int64] * 5,
    *[ctypes.c_void_p] * 2,
    *[ctypes.c_int64] * 2,
    ctypes.c_int,
]


class Kernels(OfShape):
    """The loops of a program of one shape, in one library.

    Raises:
        NoKernelsError: if there is no compiler, or the compiler fails.
    """

    def __init__(self, program: Program, device: torch.device = CPU) -> None:
        del device
        assert program.dtype is not None
        self.memory = OnHost(program.dtype)
        self._texts: dict[str, str] = {}  # names of functions
        self._functions: list[Any] = []
        super().__init__(program)
        text = "".join(own.replace(_NAME, name) for own, name in self._texts.items())
        library = library_of(head(program.dtype) + text)
        for function in self._functions:
            function.find(library)

    def _scalars(self, phase: Phase, kept: set[str]) -> Any:
        return self._add(Scalars, phase, kept)

    def _body(self, body: Body) -> Any:
        return self._add(_Loop, body)

    def _added(self, barrier: Added) -> Any:
        return self._add(_Along, barrier)

    def _add(self, kind: Any, *args: Any) -> Any:
        made = kind(_NAME, *args)
        self._functions.append(made)
        # Equal texts share a function, such as the iterations of a formula.
        made.name = self._texts.setdefault(_renumbered(made.text), f"f{len(self._texts)}")
        return made

    def sums(self, execution: Any, node: Sum) -> np.ndarray:
        """Return the float64 sums of each leaf."""
        return each_sum(node.function, [execution.value(x) for x in node.args])


_NAME = "function_name"


def _renumbered(text: str) -> str:
    """Return a text with values numbered in the order of appearance."""
    numbers: dict[str, int] = {}

    def own(found: re.Match[str]) -> str:
        return f"{found[1]}t{numbers.setdefault(found[2], len(numbers))}"

    return re.sub(r"(?<![A-Za-z0-9])(to_|in_|_|)t(\d+)\b", own, text)


class _Loop:
    """A body for all leaves at once."""

    def __init__(self, name: str, body: Body) -> None:
        self.name, self._body = name, body
        self._in_place = any(o.target == "step" for o in body.outputs)
        assert body.shape is not None
        lengths, text, self._numbers = loop_over(name, body, False)
        self._lengths = np.array(lengths, np.int64)
        self.text = text
        if self._in_place:
            _, added, self._added = loop_over(f"{name}_in_place", body, True)
            self.text += added

    def find(self, library: ctypes.CDLL) -> None:
        """Take the functions from what the compiler made."""
        self._threaded = has_threads(library)
        self._function = function_of(library, self.name, OVER_LEAVES)
        if self._in_place:
            self._adding = function_of(library, f"{self.name}_in_place", OVER_LEAVES)

    def __call__(self, execution: Any) -> Run:
        """Return a function that runs the body."""
        body, count = self._body, execution.count
        in_place = self._in_place and execution.adds
        function, numbers = self._function, self._numbers
        if in_place:
            function, numbers = self._adding, self._added
        for target, source, shape in body.outputs:
            if not (target == "step" and in_place):
                execution.make(target, source, shape)
        arrays = [execution.value(name) for name in rows(body, in_place)]
        table = np.array([x.addresses for x in arrays])
        extents, columns = np.tile(self._lengths, (count, 1)), np.arange(count)
        vectors = [execution.vector(x) for x in body.scalars.values()]
        where = np.array([address(x) for x in vectors], np.uintp)
        c = np.array(values(numbers, execution.hyperparameters), np.float64)
        total = count * math.prod(body.shape or ())
        given = table, extents, columns, where, c
        threads = threads_for(total, self._threaded)

        def run(*_: Any) -> None:
            function(*map(address, given), None, count, 0, total, threads)

        return functools.partial(run, arrays, vectors)  # keep arrays with their addresses


class _Along:
    """A sum along an axis, with the lines that compute the terms."""

    def __init__(self, name: str, barrier: Added) -> None:
        self.name, (self._node, self._body) = name, barrier
        text, body = new_text(), self._body
        leaf = [f"{taken(x, 'scalars', i)}[column];" for i, x in enumerate(body.scalars.values())]
        lines = []
        for i, x in enumerate(body.arrays.values()):
            leaf.append(f"const {type_of(x)} *const in_{x.name} = table[{i} * leaves + leaf];")
            lines.append(f"const {type_of(x)} {x.name} = in_{x.name}[i];")
        lines += written(body.lines, text)
        result = text.shown(self._node.args[0])
        self._numbers: list[Number] = text.numbers
        self.text = _ALONG.format(
            name=name,
            numbers=read_numbers(text),
            leaf="\n        ".join(leaf),
            body=" ".join(lines),
            result=result,
        )

    def find(self, library: ctypes.CDLL) -> None:
        """Take the function from what the compiler made."""
        self._threaded = has_threads(library)
        self._function = function_of(library, self.name, _ALONG_ARGUMENTS)

    def __call__(self, execution: Any) -> Alike:
        """Return the sums."""
        body, count = self._body, execution.count
        shape, axis = self._node.args[0].shape, self._node.axis
        assert shape is not None
        blocks, length = math.prod(shape[:axis]), shape[axis]
        columns = math.prod(shape[axis + 1 :])
        half = 1 << max((length - 1).bit_length() - 1, 0)
        wide = min(columns, max(_SCRATCH // half, 32))
        items = count * blocks * -(-columns // wide)
        threads = min(threads_for(count * math.prod(shape), self._threaded), items)
        made = np.empty((count, *shape[:axis], 1, *shape[axis + 1 :]))
        room = np.empty((threads, half * wide))
        table = np.array([execution.value(x).addresses for x in body.arrays.values()], np.uintp)
        vectors = [execution.vector(x) for x in body.scalars.values()]
        where = np.array([address(x) for x in vectors], np.uintp)
        c = np.array(values(self._numbers, execution.hyperparameters), np.float64)
        self._function(
            *(address(x) for x in (table, where, c)),
            *(count, blocks, length, columns, wide, address(made), address(room)),
            *(half * wide, items, threads),
        )
        return Alike.of_rows(made)
