"""One loop in C for all leaves of a group on the CPU, made by the machine's C compiler.

A loop is handed, for each array of the program, the addresses in all leaves, so that a step is one
call for each thread, however many leaves there are and of whatever sizes. What a compiler made is
kept on disk: making it takes less than a second, finding it again some milliseconds.

C keeps to IEEE 754 where it is told to: no product and sum are contracted
(``-ffp-contract=off``), and numbers are read from an array of the working dtype, so none is
computed in double. The other flags change no value: they let roots and comparisons be computed
several at a time (``-fno-math-errno``, ``-fno-trapping-math``).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ._array import NUMPY
from ._language import INFIX, Text, compiler, kept_names, reads, rows, scalars_of, values
from ._program import Body, Line, Phase, Program, Symbol
from ._stages import BLOCK, NoKernelsError, Stage, Unit
from ._threads import in_threads

_FLAGS = (
    *("-O3", "-funroll-loops", "-std=gnu11", "-shared", "-fPIC"),
    *("-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)
_THREADED = "-fopenmp", "-fopenmp-simd"
"""The second one where a compiler has no OpenMP: with it loops run in threads of Python."""

_MACHINE = {
    "AVX2": ("-mavx2",),
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw"),
}
"""Flags for what torch itself found the processor to have."""

_PROCESS = os.getpid()
"""A forked process has no threads of OpenMP, and would wait for them."""

_FORMS = INFIX | {
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
_HEAD = """#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#ifdef _OPENMP
#include <fenv.h>
#include <omp.h>
const bool has_threads = true;
#else
const bool has_threads = false;
#endif

typedef {0} T;
#define SQRT {1}
#define ABS {2}

/* In two choices each, not in one of two conditions: GCC computes them several at a time. */
static inline T maximum(T x, T y) {{
    const T larger = x > y ? x : y;
    return x != x ? x : larger;
}}

static inline T minimum(T x, T y) {{
    const T smaller = x < y ? x : y;
    return x != x ? x : smaller;
}}
"""
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

/* The same, in threads; each flushes subnormal numbers if the first one does. */
void {name}(T *const *table, const int64_t *sizes, const int64_t *columns,
            const void *const *scalars, const T *c, int64_t leaves,
            int64_t begin, int64_t end, int threads) {{
#ifdef _OPENMP
    if (threads > 1) {{
        fenv_t first;
        fegetenv(&first);
        #pragma omp parallel num_threads(threads)
        {{
            const int64_t i = omp_get_thread_num(), n = omp_get_num_threads();
            const int64_t length = (end - begin + n * 64 - 1) / (n * 64) * 64;
            const int64_t from = begin + i * length, to = from + length;
            fenv_t own;
            fegetenv(&own);
            fesetenv(&first);
            part_of_{name}(table, sizes, columns, scalars, c, leaves, from, to < end ? to : end);
            fesetenv(&own);
        }}
        return;
    }}
#endif
    part_of_{name}(table, sizes, columns, scalars, c, leaves, begin, end);
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
        kept = kept_names(phases, program.new_scalars.values())
        self.scalars = [_Scalars(f"scalars_{i}", phase, kept) for i, phase in enumerate(phases)]
        self.arrays = [_Body(f"arrays_{i}", phase.body) for i, phase in enumerate(phases)]
        functions: list[_Scalars | _Arrays] = [*self.scalars]
        functions += [arrays for body in self.arrays for arrays in body.loops.values()]
        text = _HEAD.format(*_TYPES[dtype]) + "".join(x.text for x in functions)
        library = _library(text)
        for function in functions:
            function.find(library)


class _Scalars:
    """The scalars of a phase, for all leaves at once."""

    def __init__(self, name: str, phase: Phase, kept: set[str]) -> None:
        self._name = name
        self._read, self._results = scalars_of(phase, kept)
        text = Text(_FORMS)
        body = [
            f"{_declared(x)} = (({_kind(x)} const *)read[{i}])[i];"
            for i, x in enumerate(self._read)
        ]
        body += _written(phase.scalars, text)
        body += [
            f"(({_kind(x)} *)made[{i}])[i] = {text.shown(x)};" for i, x in enumerate(self._results)
        ]
        self._numbers = text.numbers
        self.text = _SCALARS.format(
            name=name, numbers=_read_numbers(text), body="\n        ".join(body)
        )

    def find(self, library: ctypes.CDLL) -> None:
        """Take the function from what the compiler made."""
        self._function = _function(library, self._name, [ctypes.c_void_p] * 3 + [ctypes.c_int64])

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
        text = Text(_FORMS)
        lines = [f"const T {own} = to_{own}[i];" for own in reads(body, in_place)]
        lines += _written(body.lines, text)
        for target, source in body.outputs:
            if target == "step" and in_place:
                lines.append(f"to_p[i] = p + {text.shown(source)};")
            else:
                lines.append(f"to_{target}[i] = {text.shown(source)};")
        leaf = [
            f"T *const to_{own} = table[{i} * leaves + leaf];" for i, own in enumerate(self._rows)
        ]
        leaf += [
            f"{_declared(x)} = (({_kind(x)} const *)scalars[{i}])[column];"
            for i, x in enumerate(self._scalars)
        ]
        self._numbers = text.numbers
        self.text = _ARRAYS.format(
            name=name,
            numbers=_read_numbers(text),
            leaf="\n            ".join(leaf),
            body="\n                ".join(lines),
        )

    def find(self, library: ctypes.CDLL) -> None:
        """Take the function from what the compiler made."""
        kinds = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 3 + [ctypes.c_int]
        self._function = _function(library, self._name, kinds)
        self._has_threads = ctypes.c_bool.in_dll(library, "has_threads").value

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
        if self._has_threads and total and os.getpid() == _PROCESS:
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


# C.


def _kind(symbol: Symbol) -> str:
    return "bool" if symbol.is_truth else "T"


def _declared(symbol: Symbol) -> str:
    return f"const {_kind(symbol)} {symbol.name}"


def _written(lines: Sequence[Line], text: Text) -> list[str]:
    return [f"const {_kind(line.result)} {text.line(line)};" for line in lines]


def _read_numbers(text: Text) -> str:
    return "\n    ".join(f"const T h{i} = c[{i}];" for i in range(len(text.numbers)))


# What is handed over.


def _function(library: ctypes.CDLL, name: str, arguments: list[Any]) -> Any:
    function = library[name]
    function.argtypes, function.restype = arguments, None
    return function


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


# The compiler.


def _library(text: str) -> ctypes.CDLL:
    """Return what the compiler makes of a text, or made of it once."""
    flags = [*_FLAGS, *_MACHINE.get(torch.backends.cpu.get_cpu_capability(), ())]
    known = "\n".join([platform.machine(), *flags, text])
    name = hashlib.sha256(known.encode()).hexdigest()[:32] + ".so"
    failed = None
    for folder in (_cache, _own_folder):
        try:
            made = Path(folder(), name)
            return ctypes.CDLL(str(made)) if made.exists() else _compiled(text, flags, made)
        except OSError as error:  # not to be written to, or programs may not run from there
            failed = error
    raise NoKernelsError(str(failed))


def _compiled(text: str, flags: Sequence[str], made: Path) -> ctypes.CDLL:
    found = compiler()
    if found is None:
        raise NoKernelsError("there is no C compiler: cc, gcc or clang, or what $CC names")
    try:
        command = shlex.split(found)
    except ValueError as error:
        raise NoKernelsError(f"$CC: {error}") from error
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as own:
        source, library = Path(own, "loop.c"), Path(own, made.name)
        source.write_text(text)
        for threaded in _THREADED:
            arguments = [*command, *flags, threaded, str(source), "-o", str(library), "-lm"]
            result = subprocess.run(arguments, capture_output=True, check=False)
            if result.returncode == 0:
                loaded = ctypes.CDLL(str(library))  # only what can be loaded is kept
                library.replace(made)  # at once: another process may look for it
                return loaded
    raise NoKernelsError(f"{shlex.join(arguments)}\n{result.stderr.decode(errors='replace')}")


def _cache() -> Path:
    """Return where libraries are kept."""
    home, cache = (os.environ.get(name) for name in ("HOME", "XDG_CACHE_HOME"))
    if not (cache or home):
        raise FileNotFoundError("no $XDG_CACHE_HOME and no $HOME")
    return Path(cache or f"{home}/.cache", "optstudy")


def _own_folder() -> str:
    """Return a folder of this process, for libraries that cannot be kept."""
    return _temporary().name


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="optstudy")
