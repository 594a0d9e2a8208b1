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
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ._array import NUMPY
from ._language import INFIX, Text, rows, values
from ._program import Body, Program
from ._stages import BLOCK, Stage, Unit
from ._threads import in_threads

_FLAGS = (
    *("-O3", "-std=c11", "-shared", "-fPIC"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"),
)
_MACHINE = {
    "AVX2": ("-mavx2",),
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw"),
}
"""Flags for what torch itself found the processor to have."""

_FORMS = INFIX | {
    "divide": "{0} / {1}",
    "sqrt": "SQRT({0})",
    "abs": "ABS({0})",
    "sign": "{0} != {0} ? {0} : (T)(({0} > 0) - ({0} < 0))",
    "maximum": "{0} > {1} || {0} != {0} ? {0} : {1}",
    "minimum": "{0} < {1} || {0} != {0} ? {0} : {1}",
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

typedef {0} T;
#define SQRT {1}
#define ABS {2}
"""
_LOOP = """
/* Compute the numbers from begin to end, of all leaves one after another. */
void arrays(T *const *table, const int64_t *sizes, const int64_t *columns, const T *const *scalars,
            const T *c, int64_t leaves, int64_t begin, int64_t end) {{
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
"""


class Kernels:
    """The loops of a program."""

    any_dtype = False  # what C itself computes with

    def __init__(self, program: Program) -> None:
        self._program = program
        self._bodies = [_Arrays(phase.body) for phase in program.phases]
        self._missing: dict[torch.dtype, str | None] = {}

    def missing(self, dtype: torch.dtype) -> str | None:
        """Return what is missing for loops of a working dtype, or ``None``: they are made."""
        if dtype not in self._missing:
            try:
                for arrays in self._bodies:
                    arrays.loop(True, dtype)
                self._missing[dtype] = None
            except NoLoopError as error:
                self._missing[dtype] = str(error)
        return self._missing[dtype]

    def compute(self, number: int, stage: Stage, hyperparameters: dict[str, Any]) -> None:
        """Compute the scalars of a phase, a few vectors: NumPy does."""
        stage.compute(self._program.phases[number].scalars, hyperparameters)

    def run(
        self,
        number: int,
        stage: Stage,
        units: Sequence[Unit],
        hyperparameters: dict[str, Any],
        step_dtype: str | None,
    ) -> None:
        """Run the body of a phase on units of one leaf each."""
        del step_dtype  # of parameters that are read in their own dtype
        for in_place in (True, False):
            own = [unit for unit in units if unit.in_place == in_place and unit.size]
            if own:
                self._bodies[number](stage, own, hyperparameters)


class _Arrays:
    """A body, for all leaves at once."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._loops: dict[tuple[bool, torch.dtype], _Loop] = {}

    def loop(self, in_place: bool, dtype: torch.dtype) -> _Loop:
        """Return the loop for parameters whose steps are added, or not, made once."""
        key = in_place, dtype
        if key not in self._loops:
            self._loops[key] = _made(self._body, *key)
        return self._loops[key]

    def __call__(self, stage: Stage, units: list[Unit], hyperparameters: dict[str, Any]) -> None:
        """Run the body on units that are all in place, or all not."""
        in_place, dtype = units[0].in_place, stage.dtype
        loop = self.loop(in_place, dtype)
        key = id(self), in_place, units[0].first
        table, sizes, columns = stage.put(key, None, lambda: _places(loop, units))
        for row, name in enumerate(loop.rows):
            if name not in units[0].states:  # where the states lie the stage knows
                table[row] = [unit.arrays[name].data_ptr() for unit in units]
        scalars = [np.ascontiguousarray(stage.scalars[n], NUMPY[dtype]) for n in self._body.scalars]
        with np.errstate(all="ignore"):
            numbers = np.array(values(loop.numbers, hyperparameters), NUMPY[dtype])
        addresses = np.array([x.ctypes.data for x in scalars], np.uintp)
        given = [x.ctypes.data for x in (table, sizes, columns, addresses, numbers)]
        total = int(sizes.sum())

        def work(part: Sequence[int]) -> None:
            loop.function(*given, len(units), part[0], min(part[-1] + BLOCK, total))

        in_threads(work, range(0, total, BLOCK), threads=1 + total // (2 * BLOCK))


class _Loop(NamedTuple):
    """What the compiler made, with the names of the arrays and the numbers that it is handed."""

    function: Any
    rows: list[str]
    numbers: list[Any]


def _places(loop: _Loop, units: Sequence[Unit]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the addresses of arrays, by name and leaf, and the sizes and numbers of the leaves."""
    table = [
        [unit.states[name].data_ptr() if name in unit.states else 0 for unit in units]
        for name in loop.rows
    ]
    sizes, columns = [unit.size for unit in units], [unit.first for unit in units]
    return np.array(table, np.uintp), np.array(sizes, np.int64), np.array(columns, np.int64)


def _made(body: Body, in_place: bool, dtype: torch.dtype) -> _Loop:
    text, names = Text(_FORMS), rows(body, in_place)
    steps = any(o.target == "step" for o in body.outputs)
    read = dict.fromkeys([*body.arrays, *["p"] * (in_place and steps)])
    lines = [f"const T {name} = to_{name}[i];" for name in read]
    lines += [f"const {_kind(line.result.is_truth)} {text.line(line)};" for line in body.lines]
    for target, source in body.outputs:
        if target == "step" and in_place:
            lines.append(f"to_p[i] = p + {text.shown(source)};")
        else:
            lines.append(f"to_{target}[i] = {text.shown(source)};")
    pointers = [f"T *const to_{name} = table[{i} * leaves + leaf];" for i, name in enumerate(names)]
    scalars = [
        f"const {_kind(is_truth)} {name} = scalars[{i}][column];"
        for i, (name, is_truth) in enumerate(body.scalars.items())
    ]
    numbers = [f"const T h{i} = c[{i}];" for i in range(len(text.numbers))]
    loop = _LOOP.format(
        numbers="\n    ".join(numbers),
        leaf="\n            ".join([*pointers, *scalars]),
        body="\n                ".join(lines),
    )
    function = _library(_HEAD.format(*_TYPES[dtype]) + loop).arrays
    function.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 3
    function.restype = None
    return _Loop(function, names, text.numbers)


def _kind(is_truth: bool) -> str:
    return "bool" if is_truth else "T"


# The compiler.


class NoLoopError(RuntimeError):
    """The compiler made no loop; the message says why."""


def compiler() -> list[str] | None:
    """Return the command of the C compiler: ``$CC``, or the first of ``cc``, ``gcc``, ``clang``."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return [found] if found else None


def _library(text: str) -> ctypes.CDLL:
    """Return what the compiler makes of a text, or made of it once."""
    flags = [*_FLAGS, *_MACHINE.get(torch.backends.cpu.get_cpu_capability(), ())]
    name = hashlib.sha256("\n".join([*flags, text]).encode()).hexdigest()[:32] + ".so"
    for folder in _folders():
        made = folder / name
        try:
            if not made.exists():
                _compile(text, flags, made)
            return ctypes.CDLL(str(made))
        except OSError as error:  # not to be written to, or programs may not run from there
            failed = error
    raise NoLoopError(str(failed))


def _compile(text: str, flags: Sequence[str], made: Path) -> None:
    command = compiler()
    if command is None:
        raise NoLoopError("there is no C compiler: cc, gcc or clang, or what $CC names")
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as own:
        source, library = Path(own, "loop.c"), Path(own, made.name)
        source.write_text(text)
        arguments = [*command, *flags, str(source), "-o", str(library), "-lm"]
        result = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if result.returncode:
            raise NoLoopError(f"{shlex.join(arguments)}\n{result.stderr}")
        library.replace(made)  # at once: another process may look for it


def _folders() -> Iterator[Path]:
    """Yield where libraries are kept: the user's cache, or else a folder of this process."""
    home, cache = (os.environ.get(name) for name in ("HOME", "XDG_CACHE_HOME"))
    if cache or home:
        yield Path(cache or f"{home}/.cache", "optstudy")
    yield Path(_own_folder().name)


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="optstudy")
