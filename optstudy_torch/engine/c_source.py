"""Programs written in C: what a file begins with, and how lines, numbers and threads are written.

C keeps to IEEE 754: numbers are read from an array of the working dtype, so none is computed in
double, and the compiler is told to contract nothing (:mod:`optstudy_torch.engine.c_compiler`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .program import Line, Symbol
from .source import INFIX, Text

FORMS = INFIX | {
    "divide": "{0} / {1}",
    "sqrt": "SQRT({0})",
    "abs": "ABS({0})",
    "sign": "{0} != {0} ? {0} : (T)(({0} > 0) - ({0} < 0))",
    "maximum": "maximum({0}, {1})",
    "minimum": "minimum({0}, {1})",
    "where": "{0} ? {1} : {2}",
    "isfinite": "ABS({0}) < INFINITY",
    "logical_not": "!{0}",
    "zeros_like": "0",
    "ones_like": "1",
}
_TYPES = {
    torch.float32: ("float", "sqrtf", "fabsf"),
    torch.float64: ("double", "sqrt", "fabs"),
}
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
static inline T maximum(T x, T y) {
    const T larger = x > y ? x : y;
    return x != x ? x : larger;
}

static inline T minimum(T x, T y) {
    const T smaller = x < y ? x : y;
    return x != x ? x : smaller;
}
"""


def head(dtype: torch.dtype) -> str:
    """Return what a text begins with: ``T`` is the working dtype."""
    kind, root, magnitude = _TYPES[dtype]
    return f"typedef {kind} T;\n#define SQRT {root}\n#define ABS {magnitude}\n{_HEAD}"


def kind(symbol: Symbol) -> str:
    """Return the type of a value of a program."""
    return "bool" if symbol.is_truth else "T"


def declared(symbol: Symbol) -> str:
    """Return how a value begins that a loop reads."""
    return f"const {kind(symbol)} {symbol.name}"


def written(lines: Sequence[Line], text: Text) -> list[str]:
    """Return lines of a program."""
    return [f"const {kind(line.result)} {text.line(line)};" for line in lines]


def read_numbers(count: int) -> str:
    """Return what reads numbers, called ``h0``, ``h1`` and so on."""
    return "\n    ".join(f"const T h{i} = c[{i}];" for i in range(count))
