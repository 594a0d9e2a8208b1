"""Golden bits: a short NumPy trajectory of every algorithm and dialect, committed as hex floats.

NumPy's result is the definition, so a bit that changes here is a breaking change. Everything is
made from ``optstudy_core.ALGORITHMS``: a new algorithm needs its files written, and no test code.
Wrappers are run around Lion.

    python tests/support/golden_bits.py            adds what is missing: files, settings, defaults
    python tests/support/golden_bits.py --rewrite  writes all files again, and removes stale ones

A file holds the defaults of the dialect, combinations of hyperparameters that are refused, and
trajectories for the settings of :func:`settings`: the parameters are a vector and a scalar, whose
gradients rise, fall, alternate, come late and are exactly zero (:data:`EXPONENTS`). The learning
rate falls after some steps; in some settings decays change and terms come later. Zeros are
written without their sign, and NaN without its payload.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from optstudy_core import ALGORITHMS, WRAPPERS, Algorithm
from optstudy_core.arrays.doubles import Doubles
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numbers import ANY, is_number
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.arrays.quiet import Quiet
from optstudy_core.catalogue.hyperparameters import RANGES
from parity.ordinary import ordinary, terms_of

WRAPPED = ALGORITHMS["lion"]  # which reads the parameters
RULES = dict(ALGORITHMS) | {name: wrapper(WRAPPED) for name, wrapper in WRAPPERS.items()}

FOLDER = Path(__file__).parents[1] / "golden"
STEPS = 8
DTYPES = {"float32": np.float32, "float64": np.float64}

# Binary exponents of the gradients: a row for each element, a column for each step. None is an
# exact zero: one step is zero everywhere. The last row is the scalar.
_ = None  # written so that the columns stand out
EXPONENTS = (
    (-20, -16, -9, _, -3, 2, 7, 10),  # rises
    (10, 6, 1, _, -5, -11, -17, -20),  # falls
    (-1, 3, -6, _, 4, -12, 0, 1),  # mixed
    (2, 5, -2, _, -8, 6, -4, 8),  # rises above its maximum and falls again
    (_, _, _, _, 3, 0, -7, _),  # comes late
    (_, _, _, _, _, _, _, _),  # never comes
    (-4, 3, -2, _, -10, 5, -1, 2),
)
SIGNS = ("++++++++", "+-+-+-+-", "-++-+--+", "--------", "++++-+-+", "++++++++", "-+++--++")
PARAMETER_EXPONENTS = (0, -2, 1, _, -1, 2, 0)  # one parameter starts at zero
LR_FACTORS = (1.0, 1.0, 1.0, 1.0, 1.0, 0.7, 0.7, 0.45)
DECAY_FACTORS = (1.0, 0.95, 0.98, 0.94, 0.06, 0.87, 0.91, 0.03)  # where they change
LATE = 3  # the step from which terms are there, where they come late


class Setting(NamedTuple):
    """Hyperparameters that differ from the dialect's defaults.

    Attributes:
        given: by name.
        mode: ``"numbers"``; ``"arrays"``, the numbers as 0-d arrays and the decays changing; or
            ``"late"``, the decays changing and the terms left out in the first steps.
        dtype: of the parameters.
    """

    given: dict[str, Any]
    mode: str
    dtype: str


class Trajectory(NamedTuple):
    """What a setting gives.

    Attributes:
        reads_params: whether a step without parameters is refused.
        steps: a row for each step: the elements of all leaves.
        initial: the fields of the first state by name, elements of all leaves; ``None`` if absent.
        state: the fields of the last state.
    """

    reads_params: bool
    steps: np.ndarray
    initial: dict[str, np.ndarray | None]
    state: dict[str, np.ndarray | None]


class Golden(NamedTuple):
    """What a file holds."""

    defaults: dict[str, Any]
    refused: list[dict[str, Any]]
    cases: list[tuple[Setting, Trajectory]]


# The values: exact, and independent of any library's random numbers.


def _fractions() -> Iterator[float]:
    """Yield numbers from 1 to below 2 with 53 significant bits (a congruential generator)."""
    state = 20210831
    while True:
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        yield 1.0 + (state >> 12) * 2.0**-52


@functools.cache
def inputs(dtype: str, leafwise: bool = False) -> tuple[Leaves, tuple[Leaves, ...]]:
    """Return the parameters and the gradients of each step, as read-only leaves.

    For rules that depend on the shape, half of the vector is a matrix.
    """
    fractions = _fractions()

    def value(exponent: int | None, sign: str = "+") -> float:
        if exponent is None:
            return 0.0
        return (1.0 if sign == "+" else -1.0) * next(fractions) * 2.0**exponent

    def leaves(column: list[float]) -> Leaves:
        parts: list[Any] = [column[:-1], column[-1]]
        if leafwise:
            parts = [[column[:2], column[2:4]], column[4:6], column[6]]
        values = [np.array(x, dtype=DTYPES[dtype]) for x in parts]
        for x in values:
            x.flags.writeable = False
        return Leaves(values, NumPy())

    params = [value(e) for e in PARAMETER_EXPONENTS]
    grads = [
        [value(row[t], sign[t]) for row, sign in zip(EXPONENTS, SIGNS, strict=True)]
        for t in range(STEPS)
    ]
    return leaves(params), tuple(map(leaves, grads))


VALUE_EXPONENTS = (3, 2, _, -1, 1, 0, -2, -7)  # of the loss, which is negative once
VALUE_SIGNS = "+++-++++"


def more_inputs(algorithm: Algorithm, grads: Sequence[Leaves]) -> list[dict[str, Leaves]]:
    """Return what an algorithm is given besides the gradient, at each step.

    A Hessian is the gradient of a step later, and positive two times in three.
    """
    fractions = _fractions()
    rows: list[dict[str, Leaves]] = []
    for t, grad in enumerate(grads):
        exponent = VALUE_EXPONENTS[t]
        x = 0.0 if exponent is None else next(fractions) * 2.0**exponent
        x = -x if VALUE_SIGNS[t] == "-" else x
        later = grads[(t + 1) % STEPS].values
        every = {
            "value": [np.asarray(g).dtype.type(x) for g in grad.values],
            "hessian": [np.where(t % 3, abs(g), g) for g in later],
        }
        rows.append({name: Leaves(every[name], NumPy()) for name in algorithm.inputs})
    return rows


# The settings, from the signature of the update.


def settings(
    algorithm: Algorithm, dialect: str | None
) -> tuple[list[Setting], list[dict[str, Any]]]:
    """Return the settings of a file, and the combinations that the algorithm refuses.

    The dialect's defaults; every term switched on; from there each truth value turned, and each
    term left out; numbers as arrays; terms that come late. For the default dialect also each pair
    of truth values, and each one with the defaults, with arrays and with late terms. A refused
    combination is tried again with one term left out after the other.
    """
    defaults = algorithm.defaults(dialect)
    on = ordinary(algorithm, dialect)
    terms = terms_of(algorithm, dialect)
    turned = [{k: not default} for k, default in defaults.items() if isinstance(default, bool)]
    refused: list[dict[str, Any]] = []
    found: list[Setting] = []

    def accepted(given: dict[str, Any], mode: str) -> bool:
        try:
            _start(algorithm, dialect, Setting(given, mode, "float32"))
        except ValueError:
            if mode == "numbers" and given not in refused:
                refused.append(given)
            return False
        return True

    def add(given: dict[str, Any], mode: str = "numbers", dtypes: Any = ("float32",)) -> None:
        candidates = [given, *(given | {name: 0.0} for name in terms)]
        given = next((x for x in candidates if accepted(x, mode)), {})
        new = [Setting(given, mode, dtype) for dtype in dtypes]
        found.extend(s for s in new if s not in found)

    add({}, dtypes=DTYPES)
    add(on, dtypes=DTYPES)
    for change in turned:
        add(on | change)
    add(on, "arrays")
    add(on, "late")
    main = dialect == algorithm.default_dialect
    for name in terms:
        add(on | {name: 0.0}, "late" if main else "numbers")
    if main:
        for one, other in combinations(turned, 2):
            add(on | one | other)
        for change in turned:
            add(change)
            add(on | change, "arrays")
            add(on | change, "late")
        add(on | dict.fromkeys(terms, 0.0), "arrays")
    return found, refused


# The trajectories.


def _start(algorithm: Algorithm, dialect: str | None, setting: Setting) -> dict[str, Any]:
    """Return all hyperparameters of a setting, as they are when no step is special.

    Raises:
        ValueError: if the algorithm refuses them.
    """
    values = algorithm.defaults(dialect) | setting.given
    if setting.mode == "arrays":
        values = {k: _array(v, setting) if is_number(v) else v for k, v in values.items()}
    return algorithm.resolve(dialect, values)


def _array(x: Any, setting: Setting) -> Doubles:
    """Return what an adapter makes of an array of the working dtype."""
    return Doubles(np.float64(DTYPES[setting.dtype](x)), NumPy())


def _at(step: int, values: dict[str, Any], setting: Setting, terms: list[str]) -> dict[str, Any]:
    """Return the hyperparameters of a step."""
    changed = dict(values)
    for name, x in values.items():
        if isinstance(x, bool) or not (is_number(x) or isinstance(x, Doubles)):
            continue
        factor = 1.0
        if name == "lr":
            factor = LR_FACTORS[step]
        elif setting.mode != "numbers" and RANGES.get(name, ANY).below == 1.0:
            factor = DECAY_FACTORS[step]
        elif setting.mode == "late" and step < LATE and name in terms:
            factor = 0.0
        if factor != 1.0:
            new = (x.value if isinstance(x, Doubles) else x) * factor
            changed[name] = _array(new, setting) if setting.mode == "arrays" else new
    return changed


@np.errstate(all="ignore")
def trajectory(
    algorithm: Algorithm,
    dialect: str | None,
    setting: Setting,
    values: tuple[Leaves, Sequence[Leaves]] | None = None,
) -> Trajectory:
    """Run an algorithm.

    Args:
        algorithm: what is run.
        dialect: whose defaults.
        setting: what differs from them.
        values: parameters and the gradients of each step; those of this module by default.

    Raises:
        AssertionError: if a step that does not need the parameters depends on them, or the state
            changes its type.
    """
    with Quiet():
        return _trajectory(algorithm, dialect, setting, values)


def _trajectory(
    algorithm: Algorithm,
    dialect: str | None,
    setting: Setting,
    values: tuple[Leaves, Sequence[Leaves]] | None,
) -> Trajectory:
    given = _start(algorithm, dialect, setting)
    terms = terms_of(algorithm, dialect)
    theta, grads = values or inputs(setting.dtype, algorithm.leafwise)
    more = more_inputs(algorithm, grads)
    state = initial = algorithm.start(theta, _at(0, given, setting, terms))
    reads_params = False
    rows = []
    for t, grad in enumerate(grads):
        now = _at(t, given, setting, terms) | more[t]
        state, step = algorithm.update(before := state, grad, theta, **now)
        if type(state) is not type(before):
            raise AssertionError(f"the state became {type(state).__name__}")
        try:
            _, without = algorithm.update(before, grad, None, **now)
        except ValueError:
            reads_params = True
        else:
            if not same(_flat(without), _flat(step)):
                raise AssertionError("a step without parameters differs")
        theta = theta + step
        rows.append(_flat(step))
    return Trajectory(reads_params, np.stack(rows), dict(_fields(initial)), dict(_fields(state)))


def _flat(leaves: Leaves) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in leaves.values if x is not None])


def _fields(state: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray | None]]:
    if state is None or isinstance(state, Leaves):
        there = state is not None and any(x is not None for x in state.values)
        yield prefix, _flat(state) if there else None
        return
    for name, field in zip(state._fields, state, strict=True):
        yield from _fields(field, f"{prefix}.{name}" if prefix else name)


def same(x: np.ndarray | None, y: np.ndarray | None) -> bool:
    """Tell whether two arrays have the same dtype and bits: NaN is NaN, zeros have no sign."""
    if x is None or y is None:
        return x is y
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return bool(np.all((x == y) | ((x != x) & (y != y))))


# The files.


def golden_files() -> dict[Path, tuple[str, str | None]]:
    """Return the algorithm and dialect of every file that has to exist."""
    found: dict[Path, tuple[str, str | None]] = {}
    for name, algorithm in RULES.items():
        for dialect in algorithm.dialects or [None]:
            found[FOLDER / (f"{name}-{dialect}.json" if dialect else f"{name}.json")] = (
                name,
                dialect,
            )
    return found


@functools.cache
def read(path: Path) -> Golden:
    """Return what a file holds."""
    data = json.loads(path.read_text(encoding="utf-8"))
    cases = []
    for row in data["cases"]:
        setting = Setting(row["given"], row["mode"], row["dtype"])
        initial, state = (
            {k: _from_hex(v, setting.dtype) for k, v in row[name].items()}
            for name in ("initial", "state")
        )
        steps = np.stack([_from_hex(x, setting.dtype) for x in row["steps"]])
        cases.append((setting, Trajectory(row["reads_params"], steps, initial, state)))
    return Golden(data["defaults"], data["refused"], cases)


def write(path: Path, algorithm: Algorithm, dialect: str | None, rewrite: bool = False) -> bool:
    """Write what is missing in a file, or all of it; tell whether anything changed."""
    old = None if rewrite or not path.exists() else read(path)
    wanted, refused = settings(algorithm, dialect)
    cases = [] if old is None else list(old.cases)
    known = [setting for setting, _ in cases]
    for setting in wanted:
        if setting not in known:
            cases.append((setting, _without_subnormals(trajectory(algorithm, dialect, setting))))
    data = {
        "algorithm": algorithm.name,
        "dialect": dialect,
        "defaults": algorithm.defaults(dialect) | ({} if old is None else old.defaults),
        "refused": refused
        if old is None
        else old.refused + [x for x in refused if x not in old.refused],
        "cases": [
            {
                "given": setting.given,
                "mode": setting.mode,
                "dtype": setting.dtype,
                "reads_params": found.reads_params,
                "steps": [_to_hex(row) for row in found.steps],
                "initial": {k: _to_hex(v) for k, v in found.initial.items()},
                "state": {k: _to_hex(v) for k, v in found.state.items()},
            }
            for setting, found in cases
        ],
    }
    text = _layout(data) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    read.cache_clear()
    return True


def _layout(value: Any, indent: str = "") -> str:
    """Return JSON in which what fits on a line stands on one."""
    line = json.dumps(value)
    if len(indent + line) < 100 or not isinstance(value, dict | list) or not value:
        return line
    inner = indent + " "
    if isinstance(value, list):
        return "[\n" + ",\n".join(inner + _layout(x, inner) for x in value) + f"\n{indent}]"
    rows = (f"{inner}{json.dumps(k)}: {_layout(v, inner)}" for k, v in value.items())
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


def _without_subnormals(found: Trajectory) -> Trajectory:
    for x in (found.steps, *found.state.values()):
        if x is None or x.dtype == np.int32:
            continue
        if np.any((x != 0) & (np.abs(x) < np.finfo(x.dtype).smallest_normal)):
            raise ValueError("a subnormal number in a trajectory: change the inputs")
    return found


def _to_hex(values: np.ndarray | None) -> str | list[int] | None:
    if values is None or values.dtype == np.int32:  # counts of steps
        return None if values is None else values.tolist()
    return " ".join(map(_hex, values.tolist()))


def _hex(x: float) -> str:
    """Return a float in hexadecimal, without trailing zeros.

    >>> _hex(0.75), _hex(-0.0), _hex(float("nan"))
    ('0x1.8p-1', '0', 'nan')
    """
    if x == 0:
        return "0"
    mantissa, p, exponent = float(x).hex().partition("p")
    return mantissa.rstrip("0").rstrip(".") + p + exponent if p else mantissa


def _from_hex(text: str | list[int] | None, dtype: str) -> np.ndarray | None:
    if text is None or isinstance(text, list):
        return None if text is None else np.array(text, np.int32)
    return np.array([float.fromhex(x) for x in text.split()], DTYPES[dtype])


# The comparison, which the tests and the mutation tests share.


def difference(
    algorithm: Algorithm,
    dialect: str | None,
    golden: Golden,
    before: Callable[[str], None] = lambda dtype: None,
) -> tuple[str, str] | None:
    """Return how an algorithm first departs from its golden file: which check, and a message.

    Args:
        algorithm: what is checked.
        dialect: whose defaults.
        golden: what its file holds.
        before: called with the dtype before each trajectory.
    """
    message = other_defaults(algorithm, dialect, golden)
    if message:
        return "defaults", message
    for setting, wanted in golden.cases:
        before(setting.dtype)
        try:
            found = trajectory(algorithm, dialect, setting)
        except Exception as error:  # whatever a changed formula may raise
            return "raises", f"{show(setting)}: {error!r}"
        where = departure(wanted, found)
        if where:
            return "bits", f"{show(setting)}: {where}"
    for given in golden.refused:
        try:
            _start(algorithm, dialect, Setting(given, "numbers", "float32"))
        except ValueError:
            continue
        return "refusals", f"{given} is no longer refused"
    return None


def other_defaults(algorithm: Algorithm, dialect: str | None, golden: Golden) -> str | None:
    """Return which default is not that of a golden file, or ``None``."""
    defaults = json.loads(json.dumps(algorithm.defaults(dialect)))  # a tuple is a list there
    for name, wanted in golden.defaults.items():
        value = defaults.get(name, "nothing")
        if value != wanted or type(value) is not type(wanted):
            return f"{name} is {value!r} by default; it was {wanted!r}"
    return None


def departure(wanted: Trajectory, found: Trajectory) -> str | None:
    """Return where two trajectories first differ, or ``None``."""
    if found.reads_params != wanted.reads_params:
        return "the parameters are read" if found.reads_params else "the parameters are not read"
    for t, (x, y) in enumerate(zip(wanted.steps, found.steps, strict=True)):
        if not same(x, y):
            return f"step {t + 1} is {_to_hex(y)}; it was {_to_hex(x)}"
    for which in ("initial", "state"):
        old, new = getattr(wanted, which), getattr(found, which)
        if old.keys() != new.keys():
            return f"the {which} has {list(new)}; it had {list(old)}"
        for name, x in old.items():
            if not same(x, new[name]):
                return f"{name} ({which}) is {_to_hex(new[name])}; it was {_to_hex(x)}"
    return None


def show(setting: Setting) -> str:
    """Return a setting for a message."""
    given = ", ".join(f"{k}={v}" for k, v in setting.given.items()) or "defaults"
    return f"{given} ({setting.mode}) in {setting.dtype}"


def missing(algorithm: Algorithm, dialect: str | None, golden: Golden) -> list[str]:
    """Return what :func:`settings` asks for and a file does not hold."""
    wanted, refused = settings(algorithm, dialect)
    known = algorithm.defaults(dialect)
    return [
        *(show(s) for s in wanted if s not in [setting for setting, _ in golden.cases]),
        *(f"the refused {x}" for x in refused if x not in golden.refused),
        *(f"the default of {name}" for name in known if name not in golden.defaults),
    ]


def stale() -> list[Path]:
    """Return the files of algorithms and dialects that do not exist."""
    return sorted(set(FOLDER.glob("*.json")) - set(golden_files()))


def main(arguments: list[str]) -> None:
    """Write golden files."""
    parser = argparse.ArgumentParser(description="Write the golden bits of every algorithm.")
    parser.add_argument("--rewrite", action="store_true", help="write everything again")
    rewrite = parser.parse_args(arguments).rewrite
    for path, (name, dialect) in golden_files().items():
        if write(path, RULES[name], dialect, rewrite):
            print(f"wrote {path.name}, {path.stat().st_size} bytes")
    for path in stale() if rewrite else ():
        path.unlink()
        print(f"removed {path.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
