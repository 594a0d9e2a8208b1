"""``python -m parity digest``: a short text for the bits of an algorithm in a dialect.

A digest describes a standard run: parameters of eight shapes in four dtypes, 200 steps (20 for
rules that multiply matrices). They are four groups. The first group has the defaults of the
dialect. The second group maximizes, with every term of the formula switched on. The third group
also has the opposite of every boolean default. The fourth group has every other term, and a large
learning rate, so that small terms count. The hyperparameters of the second and the third group
change before every step. Every input comes from SHAKE-256 and is exact in float64, so inputs are
the same on every machine. Equal digests mean the same defaults, and the same parameters and states,
bit for bit.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

from optstudy_core import ALGORITHMS, WRAPPERS, Algorithm
from optstudy_core._extras import extra
from optstudy_core.arrays.numbers import is_number
from optstudy_core.catalogue import digests
from optstudy_core.catalogue.algorithm import INPUTS
from optstudy_core.catalogue.hyperparameters import RANGES

from . import backends
from .backends.backend import Run
from .cases import MOVING, Case
from .structures import DTYPES, STRUCTURES, leaf_dtype
from .suite import find_subject

with extra("digest"):
    from rich.console import Console
    from rich.progress import track

STEPS: Final = 200
STEPS_OF_MATRICES: Final = 20
LENGTH: Final = 12
"""Hexadecimal digits of a digest."""
_STRUCTURE: Final = "standard"
_MEMBERSHIP: Final = (0, 0, 1, 1, 2, 2, 3, 3)  # a matrix and a vector or a scalar each
_MAXIMIZE: Final = "maximize"
_SWITCHED_ON: Final = 0.0137  # for a term that is absent by default, or too small to count
_LARGE_RATE: Final = 0.7  # with which a term of the second order in the rate changes its sum


@dataclass(frozen=True)
class StandardRun(Case):
    """The case of a digest.

    Attributes:
        still: the hyperparameters of the groups without changes.
    """

    still: tuple[dict[str, Any], ...] = ()

    def values(self) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
        """Return the parameters and, for each step, the gradients."""
        columns = [
            drawn(f"leaf {leaf.path}", (self.steps + 1, *leaf.shape)).astype(
                leaf_dtype(leaf, self.dtype)
            )
            for leaf in STRUCTURES[self.structure]
        ]
        steps = range(1, self.steps + 1)
        first = [np.asarray(column[0]) for column in columns]
        return first, [[np.asarray(column[t]) for column in columns] for t in steps]

    def inputs(self, algorithm: Algorithm) -> list[dict[str, Any]]:
        """Return, for each step, the inputs of the algorithm besides the gradients."""
        rows: list[dict[str, Any]] = [{} for _ in range(self.steps)]
        for name in sorted(algorithm.inputs):
            if not INPUTS[name]:
                for row, x in zip(rows, drawn(name, (self.steps,)), strict=True):
                    row[name] = self.array_dtype().type(x)
                continue
            for leaf in STRUCTURES[self.structure]:
                column = drawn(f"{name} {leaf.path}", (self.steps, *leaf.shape))
                for row, x in zip(rows, column, strict=True):
                    own = np.asarray(x).astype(leaf_dtype(leaf, self.dtype))
                    row.setdefault(name, []).append(own)
        return rows

    def moved(self, values: dict[str, Any], step: int) -> dict[str, Any]:
        """Return the changing hyperparameters, between half of their value and the full value.

        For a decay rate β, 1 − β changes. The values are rounded to float32. Those of two groups do
        not change, so every bit of a number in double counts.
        """
        moved: dict[str, Any] = {}
        if values in self.still:
            return moved
        for name in MOVING:
            value: Any = values.get(name)
            if not is_number(value) or value == 0:
                continue
            share = 0.5 + 0.5 * float(_fractions(name, self.steps)[step])
            changed = 1 - (1 - value) * share if RANGES[name].below == 1.0 else value * share
            moved[name] = float(np.float32(changed))
        return moved


@functools.cache
def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float64 numbers of 20 bits, of both signs, from 2⁻²⁰ to 2⁵; every 16th is 0.

    Args:
        name: the name of the stream; different names give different numbers.
        shape: the shape of the array.
    """
    words = _words(name, math.prod(shape))
    mantissa = 1 + (words >> np.uint64(40)).astype(np.float64) / 2**24
    mantissa = np.floor(mantissa * 2**19) / 2**19
    exponent = (words & np.uint64(31)).astype(np.int32) * 25 // 32 - 20
    sign = 1.0 - 2.0 * ((words >> np.uint64(5)) & np.uint64(1)).astype(np.float64)
    kept = ((words >> np.uint64(6)) & np.uint64(15)) > 0
    return np.asarray(np.ldexp(sign * mantissa, exponent) * kept).reshape(shape)


@functools.cache
def _fractions(name: str, number: int) -> np.ndarray:
    """Return multiples of 2⁻¹⁰ in [0, 1)."""
    words = _words(f"hyperparameter {name}", number)
    return np.asarray((words & np.uint64(1023)).astype(np.float64) / 1024)


def _words(name: str, number: int) -> np.ndarray:
    data = hashlib.shake_256(f"optstudy digest 1: {name}".encode()).digest(8 * number)
    return np.frombuffer(data, dtype="<u8")


def case(algorithm: Algorithm, dialect: str | None, dtype: str) -> StandardRun:
    """Return the standard run of an algorithm in a dialect, with parameters of one dtype."""
    few = thinned(algorithm, dialect)
    return StandardRun(
        structure=_STRUCTURE,
        dtype=dtype,
        steps=STEPS_OF_MATRICES if "output_axis" in algorithm.defaults() else STEPS,
        seed=0,
        patterns=(),
        groups=(
            {},
            climbing(algorithm, dialect),
            turned(algorithm, dialect),
            few,
        ),
        membership=_MEMBERSHIP,
        dialect=dialect,
        moving=True,
        still=(algorithm.resolve(dialect, {}), algorithm.resolve(dialect, few)),
    )


def switched_on(algorithm: Algorithm, dialect: str | None) -> dict[str, Any]:
    """Return hyperparameters that switch on as many compatible terms of the formula as possible.

    An ε of 1e-8 is too small to change a sum, so ε is larger here.
    """
    return _fitting(algorithm, dialect, {}, _terms(algorithm, dialect))


def _terms(algorithm: Algorithm, dialect: str | None) -> dict[str, float]:
    defaults = algorithm.defaults(dialect).items()
    numbers = [name for name, x in defaults if is_number(x) and abs(x) < _SWITCHED_ON]
    absent = [name for name in numbers if name != "lr"]
    return {name: _SWITCHED_ON * (1 + k / 4) for k, name in enumerate(absent)}  # no two the same


def climbing(algorithm: Algorithm, dialect: str | None) -> dict[str, Any]:
    """Return hyperparameters of :func:`switched_on` that also maximize the objective."""
    up = {_MAXIMIZE: True} if _MAXIMIZE in algorithm.defaults(dialect) else {}
    return _fitting(algorithm, dialect, switched_on(algorithm, dialect), up)


def turned(algorithm: Algorithm, dialect: str | None) -> dict[str, Any]:
    """Return hyperparameters of :func:`climbing` with the opposite of compatible booleans."""
    defaults = algorithm.defaults(dialect).items()
    choices = {k: not x for k, x in defaults if isinstance(x, bool)}
    return _fitting(algorithm, dialect, climbing(algorithm, dialect), choices)


def thinned(algorithm: Algorithm, dialect: str | None) -> dict[str, Any]:
    """Return hyperparameters that switch on the first, third, … term, with a large rate."""
    terms = dict(list(_terms(algorithm, dialect).items())[::2])
    rate = {"lr": _LARGE_RATE} if "lr" in algorithm.defaults(dialect) else {}
    return _fitting(algorithm, dialect, {}, terms | rate)


def _fitting(
    algorithm: Algorithm, dialect: str | None, chosen: dict[str, Any], more: dict[str, Any]
) -> dict[str, Any]:
    """Return chosen hyperparameters with those of ``more`` that the algorithm accepts."""
    for name, value in more.items():
        try:
            algorithm.resolve(dialect, chosen | {name: value})
        except ValueError:
            continue
        chosen = chosen | {name: value}
    return chosen


def digest(
    algorithm: str | Algorithm, dialect: str | None = None, *, backend: str = "numpy"
) -> str:
    """Return the digest of an algorithm.

    Args:
        algorithm: a name, wrapped (``averaged_adam``) or not, or an algorithm.
        dialect: the dialect; ``None``: the default of the algorithm.
        backend: the backend that computes, one of ``parity.backends.NAMES``.

    Returns:
        the first 12 hexadecimal digits of SHA-256 of the dialect's defaults, all parameters after
        each step and the last state, in float32, float64, bfloat16 and float16.

    Raises:
        ValueError: for an unknown algorithm or dialect.
        parity.backends.NotRunError: if the backend cannot run here.
    """
    rule = find_subject(algorithm)
    if not isinstance(rule, Algorithm):
        raise ValueError(f"algorithm = {algorithm!r}: an epoch method has no digest")
    machine = backends.make(backend)
    total = hashlib.sha256()
    for part in defaults(rule, dialect):
        total.update(part)
    for dtype in DTYPES:
        drawn_case = case(rule, dialect, dtype)
        drawn_case.values()
        with backends.whole_range():
            run = machine.run(rule, drawn_case)
        for part in bits(run):
            total.update(part)
    return total.hexdigest()[:LENGTH]


def defaults(algorithm: Algorithm, dialect: str | None) -> Iterator[bytes]:
    """Yield what a digest is of before anything runs: the hyperparameters of the dialect."""
    for item in sorted(algorithm.defaults(dialect).items()):
        yield repr(item).encode()


def bits(run: Run) -> Iterator[bytes]:
    """Yield what a digest is of: the parameters after each step, and the last state by name."""
    for row in run.trajectory:
        yield from map(_bytes, row)
    for name in sorted(run.state):
        yield name.encode()
        yield _bytes(run.state[name])


def _bytes(x: np.ndarray) -> bytes:
    """Return the bits of an array in little-endian order, with one NaN and one zero."""
    x = np.array(x)  # a copy in the order of its indices
    if x.dtype.kind not in "iub":
        x[np.isnan(x)] = np.nan
        x[x == 0] = 0
    width = x.dtype.itemsize
    return x.view(f"u{width}").astype(f"<u{width}").tobytes()


def names() -> list[tuple[str, str | None]]:
    """Return every algorithm and dialect with a digest; wrappers are around Adam."""
    found: list[tuple[str, str | None]] = []
    for name in (*ALGORITHMS, *(f"{wrapper}_adam" for wrapper in WRAPPERS)):
        rule = find_subject(name)
        assert isinstance(rule, Algorithm)
        found += [(name, dialect) for dialect in rule.dialects]
    return found


def _chosen(text: str) -> Iterator[tuple[str, str | None]]:
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name == "all":
            yield from names()
            continue
        rule = find_subject(name)
        if not isinstance(rule, Algorithm):
            raise ValueError(f"algorithm = {name!r}: an epoch method has no digest")
        yield from ((name, dialect) for dialect in rule.dialects)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parity digest",
        allow_abbrev=False,
        description="Print a digest of the bits of each algorithm and dialect in a standard run. "
        "Exit status: 0 if all agree with the recorded digests of this version of optstudy, 1 if "
        "one differs, 2 for bad arguments.",
    )
    parser.add_argument(
        "--algorithms", default="all", help="names separated by commas, or all (default)"
    )
    parser.add_argument(
        "--backend",
        default="numpy",
        choices=backends.NAMES,
        help="the backend that computes (default: %(default)s)",
    )
    parser.add_argument("--write", action="store_true", help="record the digests in the package")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the command; return 0 if all digests equal the recorded digests, else 1."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        chosen = list(_chosen(arguments.algorithms))
    except ValueError as error:
        parser.error(str(error))
    console = Console()
    recorded, found, others = digests.recorded(), {}, 0
    for name, dialect in track(chosen, "digests", console=Console(stderr=True), transient=True):
        try:
            own = digest(name, dialect, backend=arguments.backend)
        except backends.NotRunError as error:
            parser.error(str(error))
        found[digests.key(name, dialect)] = own
        expected = recorded.get(digests.key(name, dialect))
        verdict = "" if own == expected else f"  recorded is {expected or 'none'}"
        others += own != expected
        console.print(f"{own}  {name} {dialect}{verdict}", highlight=False, soft_wrap=True)
    if arguments.write:
        place = Path(str(files("optstudy_core"))) / "digests.json"
        known = {digests.key(*pair) for pair in names()}
        kept = {k: v for k, v in {**recorded, **found}.items() if k in known}
        place.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    if others:
        console.print(f"{others} of {len(chosen)} digests differ from the recorded digests")
    return int(others > 0)
