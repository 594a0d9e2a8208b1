"""Loops in C over trees of one shape: any operations, and sums along an axis.

What is computed is handed over as lines, so that a loop is written, and compiled, once for whatever
sizes the leaves have. Every operation is rounded as it would be alone.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .alike import TORCH
from .c_compiler import Loop, loop_of
from .c_source import FORMS, head, read_numbers
from .host_numbers import COMPARISONS, LOGICAL

Lines = tuple[tuple[str, ...], ...]
"""Operations with the names of their arguments: results t0, t1, … of the lines, trees x0, x1, …,
of which each leaf has an array or a number, and numbers h0, h1, …"""

BOOL = np.dtype(bool)
KINDS = {np.dtype(np.float32): "T", np.dtype(np.float64): "T", BOOL: "bool"}
"""Dtypes of trees, by what they are called in C."""

_TEXT = """
/* The numbers from begin to end, of all leaves one after another. */
static void part(const void *const *table, const int64_t *extents, const T *c, int64_t leaves,
                 int64_t begin, int64_t end) {{
    {extents}
    {numbers}
    for (int64_t leaf = begin / size; leaf * size < end; ++leaf) {{
        const int64_t first = begin - leaf * size, last = end - leaf * size;
        const int64_t to = last < size ? last : size;
        {leaf}
        for (int64_t row = first > 0 ? first / inner : 0; row * inner < to; ++row) {{
            const int64_t from = first - row * inner, until = to - row * inner;
            const int64_t stop = until < inner ? until : inner;
            {row}
            #pragma omp simd
            for (int64_t i = from > 0 ? from : 0; i < stop; ++i) {{
                {body}
            }}
        }}
    }}
}}

void loop(const void *const *table, const int64_t *extents, const T *c, int64_t leaves,
          int64_t end, int threads) {{
#define PART(number, from, to) part(table, extents, c, leaves, from, to)
    IN_THREADS(threads, 0, end, 64, PART);
}}
"""

_ALONG = """
#define AT(i) ({{ {body} {result}; }})

/* Sums of columns, some columns of one matrix at a time: the lower half of the rows is added to the
   upper one until one row is left, as if there were rows of zeros up to a power of two. */
static void part(const void *const *table, const T *c, int64_t leaves, int64_t blocks, int64_t rows,
                 int64_t columns, int64_t wide, double *made, double *room,
                 int64_t begin, int64_t end) {{
    {numbers}
    const int64_t pieces = (columns + wide - 1) / wide;
    int64_t half = 1;
    while (2 * half < rows)
        half *= 2;
    for (int64_t item = begin; item < end; ++item) {{
        const int64_t block = item / pieces, column = item % pieces * wide;
        const int64_t leaf = block / blocks, left = columns - column;
        const int64_t width = left < wide ? left : wide;
        const int64_t start = block % blocks * rows * columns + column;
        {leaf}
        double *const result = made + block * columns + column;
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

void along(const void *const *table, const T *c, int64_t leaves, int64_t blocks, int64_t rows,
           int64_t columns, int64_t wide, double *made, double *room, int64_t size,
           int64_t end, int threads) {{
#define PART(number, from, to) \\
    part(table, c, leaves, blocks, rows, columns, wide, made, room + (number) * size, from, to)
    IN_THREADS(threads, 0, end, 1, PART);
}}
"""


def merged(
    shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]]
) -> tuple[list[int], tuple[tuple[bool, ...], ...]]:
    """Return the lengths of axes, neighbours that are alike as one, and who is long along each.

    >>> merged((2, 3, 1, 4), [(2, 3, 1, 4), (1, 1, 1, 4), ()])
    ([6, 4], ((True, False, False), (True, True, False)))
    """
    lengths: list[int] = []
    patterns: list[tuple[bool, ...]] = []
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        pattern = tuple(bool(x) and x[axis] > 1 for x in shapes)
        if patterns and patterns[-1] == pattern:
            lengths[-1] *= length
        else:
            lengths.append(length)
            patterns.append(pattern)
    if not lengths:  # all have length 1
        return [1], (tuple(map(bool, shapes)),)
    return lengths, tuple(patterns)


def _lines(lines: Sequence[tuple[str, ...]]) -> Iterator[str]:
    for i, (operation, *args) in enumerate(lines):
        truth = operation in COMPARISONS or operation in LOGICAL
        yield f"const {'bool' if truth else 'T'} t{i} = {FORMS[operation].format(*args)};"


@functools.lru_cache(512)
def loop(
    lines: Lines,
    numbers: int,
    patterns: tuple[tuple[bool, ...], ...],
    dtypes: tuple[np.dtype, ...],
    made: np.dtype,
    dtype: np.dtype,
) -> Loop | None:
    """Return a loop, or None if it cannot be made.

    Args:
        lines: what is computed; the last one is the result.
        numbers: how many there are.
        patterns: for each axis, which trees are long along it.
        dtypes: of the trees.
        made: dtype of the result.
        dtype: of numbers.
    """
    axes = len(patterns)
    names = [f"e{axis}" for axis in range(axes)]
    extents = [f"const int64_t {x} = extents[{i}];" for i, x in enumerate(names)]
    extents.append(f"const int64_t size = {' * '.join(names)}, inner = e{axes - 1};")
    leaf, row, body = [], [], []
    if axes > 1:
        row.append("int64_t rest = row;")
        row += [
            f"const int64_t i{axis} = rest % e{axis}; rest /= e{axis};"
            for axis in reversed(range(axes - 1))
        ]
    for number, kind in enumerate(KINDS[x] for x in dtypes):
        longs = [axis for axis in range(axes) if patterns[axis][number]]
        own = f"(const {kind} *)table[{number} * leaves + leaf]"
        if not longs:
            leaf.append(f"const {kind} x{number} = *{own};")
            continue
        leaf.append(f"const {kind} *const own_{number} = {own};")
        offset = "0"
        for axis in longs:
            if axis < axes - 1:
                offset = f"({offset} * e{axis} + i{axis})"
            else:
                offset = f"{offset} * inner"
        row.append(f"const {kind} *const row_{number} = own_{number} + {offset};")
        if axes - 1 in longs:
            body.append(f"const {kind} x{number} = row_{number}[i];")
        else:
            row.append(f"const {kind} x{number} = *row_{number};")
    kind = KINDS[made]
    leaf.append(f"{kind} *const out = ({kind} *)table[{len(dtypes)} * leaves + leaf];")
    row.append("const int64_t at = row * inner;")
    body += [*_lines(lines), f"out[at + i] = t{len(lines) - 1};"]
    text = _TEXT.format(
        extents="\n    ".join(extents),
        numbers=read_numbers(numbers),
        leaf="\n        ".join(leaf),
        row="\n            ".join(row),
        body="\n                ".join(body),
    )
    kinds: list[Any] = [*[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2, ctypes.c_int]
    return loop_of(head(TORCH[dtype]) + text, "loop", kinds)


@functools.lru_cache(512)
def sum_along(
    lines: Lines,
    numbers: int,
    dtypes: tuple[tuple[np.dtype, bool], ...],
    result: str,
    dtype: np.dtype,
) -> Loop | None:
    """Return what sums along an axis, or None if it cannot be made.

    Args:
        lines: what is computed first.
        numbers: how many there are.
        dtypes: of the trees, and whether each has one number for each leaf.
        result: the name of what is added.
        dtype: of numbers.
    """
    leaf, body = [], []
    for number, (own, is_scalar) in enumerate(dtypes):
        kind = KINDS[own]
        place = f"(const {kind} *)table[{number} * leaves + leaf]"
        if is_scalar:
            leaf.append(f"const {kind} x{number} = *{place};")
        else:
            leaf.append(f"const {kind} *const own_{number} = {place};")
            body.append(f"const {kind} x{number} = own_{number}[i];")
    body += _lines(lines)
    text = _ALONG.format(
        numbers=read_numbers(numbers),
        body=" ".join(body),
        result=f"(double){result}",
        leaf="\n        ".join(leaf),
    )
    kinds: list[Any] = [*[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 5, *[ctypes.c_void_p] * 2]
    return loop_of(
        head(TORCH[dtype]) + text, "along", [*kinds, *[ctypes.c_int64] * 2, ctypes.c_int]
    )
