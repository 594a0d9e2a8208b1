"""Programs written in C: the head of a file, and the text of lines, scalars and threads.

Scalars are rounded to the dtype of the other operand before use, and the compiler contracts nothing
(:mod:`optstudy_torch.engine.c_compiler`), so C follows IEEE 754.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from .source import INFIX, Text
from .trace import DOUBLE, TRUTH, WORKING, Line, Symbol

FORMS = INFIX | {
    "divide": "{0} / {1}",
    "sqrt": "SQRT({0})",
    "abs": "ABS({0})",
    "sign": "{0} != {0} ? {0} : (__typeof__({0}))(({0} > 0) - ({0} < 0))",
    "double": "(double){0}",
    "working": "(T){0}",
    "maximum": "MAXIMUM({0}, {1})",
    "minimum": "MINIMUM({0}, {1})",
    "where": "{0} ? {1} : {2}",
    "isfinite": "ABS({0}) < INFINITY",
    "logical_not": "!{0}",
    "zeros_like": "0",
    "ones_like": "1",
}
_TYPES = {torch.float32: "float", torch.float64: "double"}
_HEAD = """
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#ifdef _OPENMP
#include <fenv.h>
#include <omp.h>
const bool has_threads = true;
#else
const bool has_threads = false;
#endif

/* Gives each thread a part to do, in grains; each flushes subnormal numbers if the first does. */
#ifdef _OPENMP
#define IN_THREADS(count, begin, end, grain, part) \\
    if (count > 1) { \\
        const int wanted = count; \\
        fenv_t first; \\
        fegetenv(&first); \\
        _Pragma("omp parallel num_threads(wanted)") \\
        { \\
            const int64_t number = omp_get_thread_num(), n = omp_get_num_threads(); \\
            const int64_t length = (end - begin + n * grain - 1) / (n * grain) * grain; \\
            const int64_t from = begin + number * length, to = from + length; \\
            fenv_t own; \\
            fegetenv(&own); \\
            fesetenv(&first); \\
            part(number, from, to < end ? to : end); \\
            fesetenv(&own); \\
        } \\
    } else \\
        part(0, begin, end)
#else
#define IN_THREADS(count, begin, end, grain, part) part(0, begin, end)
#endif

/* In two choices each, not in one of two conditions: GCC computes them several at a time. */
#define LARGER(own, name, compared) \\
    static inline own name(own x, own y) { \\
        const own chosen = x compared y ? x : y; \\
        return x != x ? x : chosen; \\
    }
LARGER(float, maximum_f, >)
LARGER(double, maximum_d, >)
LARGER(float, minimum_f, <)
LARGER(double, minimum_d, <)
#define OF(x, f, d) _Generic((x), float: f, double: d)
#define MAXIMUM(x, y) OF(x, maximum_f, maximum_d)(x, y)
#define MINIMUM(x, y) OF(x, minimum_f, minimum_d)(x, y)
#define SQRT(x) OF(x, sqrtf, sqrt)(x)
#define ABS(x) OF(x, fabsf, fabs)(x)
"""


def head(dtype: torch.dtype) -> str:
    """Return the head of a text, in which ``T`` is the working dtype."""
    return f"typedef {_TYPES[dtype]} T;\n{_HEAD}"


_KINDS = {WORKING: "T", DOUBLE: "double", TRUTH: "bool"}


def type_of(symbol: Symbol) -> str:
    """Return the type of the elements of a value."""
    return _KINDS[symbol.kind]


def written(lines: Sequence[Line], text: Text) -> list[str]:
    """Return lines of a program in C."""
    return [f"const {type_of(line.result)} {text.line(line)};" for line in lines]


def new_text() -> Text:
    """Return a text in C."""
    return Text(lambda operation, kind: FORMS[operation])


def read_numbers(text: Text) -> str:
    """Return code that reads the scalars of a text, called ``h0``, ``h1`` and so on."""
    kinds = [_KINDS[kind] for _, kind in text.numbers]
    return "\n    ".join(f"const {x} h{i} = ({x})c[{i}];" for i, x in enumerate(kinds))


_OVER_LEAVES = """
/* The elements from begin to end, of all leaves one after another. */
static void part_of_{name}(void *const *table, const int64_t *extents, const int64_t *columns,
                           const void *const *scalars, const double *c, int64_t *found,
                           int64_t leaves, int64_t begin, int64_t end) {{
    {numbers}
    for (int64_t leaf = 0; leaf < leaves && end > 0; ++leaf) {{
        const int64_t *const own = extents + leaf * {axes};
        {extents}
        const int64_t size = {size}, inner = e{last}, to = end < size ? end : size;
        if (begin < to) {{
            const int64_t column = columns[leaf];
            {leaf}
            for (int64_t row = begin / inner; row * inner < to; ++row) {{
                const int64_t at = row * inner, from = begin - at, until = to - at;
                const int64_t stop = until < inner ? until : inner;
                {row}
                {simd}
                for (int64_t i = from > 0 ? from : 0; i < stop; ++i) {{
                    {body}
                }}
            }}
            {end}
        }}
        begin = begin < size ? 0 : begin - size;
        end -= size;
    }}
}}

/* The same, in threads. */
void {name}(void *const *table, const int64_t *extents, const int64_t *columns,
            const void *const *scalars, const double *c, int64_t *found,
            int64_t leaves, int64_t begin, int64_t end, int threads) {{
#define PART(number, from, to) \\
    part_of_{name}(table, extents, columns, scalars, c, found + (number) * leaves * {results}, \\
                   leaves, from, to)
    IN_THREADS(threads, begin, end, 64, PART);
#undef PART
}}
"""

OVER_LEAVES: list[Any] = [ctypes.c_void_p] * 6 + [ctypes.c_int64] * 3 + [ctypes.c_int]
"""The argument types of functions from :func:`over_leaves`."""


def over_leaves(
    name: str,
    numbers: str,
    leaf: Sequence[str],
    body: Sequence[str],
    *,
    row: Sequence[str] = (),
    end: Sequence[str] = (),
    axes: int = 1,
    results: int = 0,
) -> str:
    """Return a C function that loops over the elements of leaves, distributed over threads.

    Args:
        name: the name of the function.
        numbers: the code that reads the scalars from ``c``.
        leaf: the code at the start of a leaf, with number ``leaf`` in the table of addresses and
            ``column`` in the vectors of scalars.
        body: the code for an element, with index ``i`` in its row.
        row: the code at the start of row number ``row``, with the first element ``at``.
        end: the code at the end of a leaf.
        axes: the number of axes of the leaves, with lengths ``e0``, ``e1`` and so on.
        results: the number of integer results for each leaf and each thread.
    """
    names = [f"e{axis}" for axis in range(axes)]
    return _OVER_LEAVES.format(
        name=name,
        axes=axes,
        numbers=numbers,
        extents=" ".join(f"const int64_t {x} = own[{i}];" for i, x in enumerate(names)),
        size=" * ".join(names),
        last=axes - 1,
        leaf="\n            ".join(leaf),
        row="\n                ".join(row),
        simd="" if results else "#pragma omp simd",
        body="\n                    ".join(body),
        end=" ".join(end),
        results=results,
    )
