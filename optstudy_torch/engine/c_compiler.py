"""Find and call the C compiler of the machine, and load its libraries.

Compiling a library takes less than a second, loading a stored library some milliseconds.

``-ffp-contract=off`` keeps the compiler from contracting products and sums. The other flags change
no value: they let roots and comparisons be vectorized (``-fno-math-errno``,
``-fno-trapping-math``).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from . import cache
from .errors import NoKernelsError
from .threads import BLOCK

_FLAGS = (
    *("-O3", "-funroll-loops", "-std=gnu11", "-shared", "-fPIC"),
    *("-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)
_THREADED = "-fopenmp", "-fopenmp-simd"
"""The second set is for compilers without OpenMP; loops then run in Python threads."""

_MACHINE = {
    "AVX2": ("-mavx2",),
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw"),
}
"""Flags for the instructions of the processor, as found by torch."""

_PROCESS = os.getpid()

Loop = tuple[Any, bool]
"""A function of a library, and whether the function uses threads."""


def function_of(library: ctypes.CDLL, name: str, arguments: list[Any]) -> Any:
    """Return a function of a library, with no return value."""
    function = library[name]
    function.argtypes, function.restype = arguments, None
    return function


def has_threads(library: ctypes.CDLL) -> bool:
    """Return whether a library uses OpenMP threads."""
    return ctypes.c_bool.in_dll(library, "has_threads").value


def loop_of(text: str, name: str, arguments: list[Any]) -> Loop | None:
    """Compile a text and return one of its functions, or ``None`` if that fails."""
    try:
        library = library_of(text)
    except NoKernelsError:
        return None
    return function_of(library, name, arguments), has_threads(library)


def threads_for(numbers: int, threaded: bool) -> int:
    """Return the number of threads for a loop, with or without thread support."""
    if not (threaded and may_use_threads()):
        return 1
    return min(1 + numbers // (2 * BLOCK), torch.get_num_threads())


def may_use_threads() -> bool:
    """Return whether threads are safe; a forked process would wait for missing threads."""
    return os.getpid() == _PROCESS


# Libraries.


def compiler() -> str | None:
    """Return the command of the C compiler.

    The command is ``$CC``, or the first of ``cc``, ``gcc`` and ``clang``, or that of ziglang.
    """
    if os.environ.get("CC"):
        return os.environ["CC"]
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if found:
        return shlex.quote(found)
    packaged = find_spec("ziglang") is not None
    return f"{shlex.quote(sys.executable)} -m ziglang cc" if packaged else None


def library_of(text: str) -> ctypes.CDLL:
    """Return the library compiled from a text, now or earlier.

    Raises:
        NoKernelsError: if there is no compiler, or the compiler fails.
    """
    flags = [*_FLAGS, *_MACHINE.get(torch.backends.cpu.get_cpu_capability(), ())]
    known = "\n".join([platform.machine(), *flags, text])
    name = hashlib.sha256(known.encode()).hexdigest()[:32]
    failed, places = OSError(), []
    for folder in (cache.folder, cache.own_folder):
        try:
            places.append(folder())
            for file in cache.whole(places[0], name):
                return ctypes.CDLL(str(file))
        except OSError as error:  # no folder, or programs may not run from there
            failed = error
    content = _compiled(text, flags, places)
    for place in places:
        try:
            return _kept(place, name, content)
        except OSError as error:  # read-only, full, or programs may not run from there
            failed = error
    raise NoKernelsError(str(failed))


def _kept(place: Path, name: str, content: bytes) -> ctypes.CDLL:
    file = cache.keep(place, name, content)
    try:
        return ctypes.CDLL(str(file))
    except OSError:  # do not store a library that cannot be loaded
        file.unlink()
        raise


def _compiled(text: str, flags: Sequence[str], places: Sequence[Path]) -> bytes:
    """Compile a text to a library, in one of these folders; return the content of the file."""
    found = compiler()
    if found is None:
        raise NoKernelsError(
            "there is no C compiler: cc, gcc, clang, the command in $CC, or the package ziglang "
            "(pip install 'optstudy[compiler]')"
        )
    try:
        command = shlex.split(found)
    except ValueError as error:
        raise NoKernelsError(f"$CC: {error}") from error
    failed = Exception("there is no folder for temporary files")
    for place in reversed(places):  # another folder may have room
        try:
            return _compiled_in(place, text, [*command, *flags])
        except (OSError, NoKernelsError) as error:
            failed = error
    raise NoKernelsError(str(failed)) from failed


def _compiled_in(place: Path, text: str, command: Sequence[str]) -> bytes:
    with tempfile.TemporaryDirectory(dir=place) as own:
        source, library = Path(own, "loop.c"), Path(own, "loop.so")
        source.write_text(text)
        environment = os.environ | {"TMPDIR": own}  # for temporary files of the compiler
        for threaded in _THREADED:
            arguments = [*command, threaded, str(source), "-o", str(library), "-lm"]
            result = subprocess.run(arguments, capture_output=True, check=False, env=environment)
            if result.returncode == 0:
                return library.read_bytes()
    raise NoKernelsError(f"{shlex.join(arguments)}\n{result.stderr.decode(errors='replace')}")
