"""Training cases: drawn by Hypothesis, written to JSON and read from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from optstudy_core import Algorithm
from optstudy_core.arrays.numbers import is_number
from optstudy_core.catalogue.algorithm import INPUTS
from optstudy_core.catalogue.hyperparameters import RANGES
from optstudy_core.catalogue.table import find
from optstudy_core.schedules import Chained, Constant, Schedule

from .curves import CURVES
from .saved import MOST_STEPS, Saved, hexadecimal, plain, text, whole
from .structures import DRAWN, DTYPES, STRUCTURES, leaf_dtype, working_dtype

PATTERNS = (
    "mixed",
    "constant sign",
    "alternating",
    "sparse",
    "tiny",
    "huge",
    "ordinary",
)
"""Patterns of the values of a leaf over the steps; one is drawn for each leaf."""


MOVING = ("lr", "b1", "b2", "b3", "momentum", "eps", "weight_decay", "alpha", "rho")
"""Hyperparameters that may change at every step."""


@dataclass(frozen=True)
class Special:
    """A value at one place, which the search chooses and shrinks."""

    step: int  # -1: of the parameters, else of that step's gradient
    leaf: int
    index: int
    value: float


@dataclass(frozen=True)
class Case:
    """A short training run: parameters, gradients and hyperparameters.

    Attributes:
        structure: the name of a tree in ``STRUCTURES``.
        dtype: the dtype of the parameters (leaves of the tree may have another).
        steps: the number of steps.
        seed: the seed of the values that are not special.
        patterns: the pattern of the values of each leaf.
        specials: values at single places.
        groups: the hyperparameters of each group of leaves, including booleans. A group may name
            its ``algorithm``; it then has the default dialect of that algorithm.
        membership: for each leaf, the number of its group.
        arrays: whether to pass numeric hyperparameters as arrays (traced, tensors).
        dialect: the dialect.
        moving: whether the hyperparameters in ``MOVING`` change before every step, as numbers in
            NumPy and torch, and as arrays in JAX.
        curve: a name in ``CURVES``, the curve that multiplies the learning rate, or ``None``.
    """

    structure: str
    dtype: str
    steps: int
    seed: int
    patterns: tuple[str, ...]
    specials: tuple[Special, ...] = ()
    groups: tuple[dict[str, Any], ...] = field(default_factory=lambda: ({},))
    membership: tuple[int, ...] = ()
    arrays: bool = False
    dialect: str | None = None
    moving: bool = False
    curve: str | None = None

    def values(self) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
        """Return the parameters and, for each step, the gradients, in the dtypes of the leaves."""
        leaves = STRUCTURES[self.structure]
        rng = np.random.default_rng(self.seed)
        params = []
        grads: list[list[np.ndarray]] = [[] for _ in range(self.steps)]
        for number, (leaf, pattern) in enumerate(zip(leaves, self.patterns, strict=True)):
            dtype = leaf_dtype(leaf, self.dtype)
            columns = draw_leaf(rng, pattern, self.steps, leaf.shape)
            for special in self.specials:
                if special.leaf == number and columns[0].size and special.step < self.steps:
                    flat = columns[special.step + 1].reshape(-1)
                    flat[special.index % flat.size] = special.value
            with np.errstate(over="ignore"):
                cast = [np.asarray(c, dtype=np.float64).astype(dtype) for c in columns]
            params.append(cast[0])
            for row, value in zip(grads, cast[1:], strict=True):
                row.append(value)
        return params, grads

    def inputs(self, algorithm: Algorithm) -> list[dict[str, Any]]:
        """Return for each step the inputs of the algorithms besides the gradients.

        Scalars have the dtype :meth:`array_dtype`. An input like the parameters is a list of
        arrays.

        Args:
            algorithm: the tested algorithm.
        """
        leaves = STRUCTURES[self.structure]
        rows: list[dict[str, Any]] = [{} for _ in range(self.steps)]
        asked = {name for rule, _ in self.rules(algorithm) for name in rule.inputs}
        for number, name in enumerate(sorted(asked), 1):
            rng = np.random.default_rng([self.seed, number])
            if not INPUTS[name]:
                sizes = rng.choice([-1.0, 0.0, *[1.0] * 8], self.steps)
                scalars = sizes * 10.0 ** rng.uniform(-3, 3, self.steps)
                for row, x in zip(rows, scalars, strict=True):
                    row[name] = self.array_dtype().type(x)
                continue
            for leaf, pattern in zip(leaves, self.patterns, strict=True):
                columns = draw_leaf(rng, pattern, self.steps, leaf.shape)
                for row, x in zip(rows, columns[1:], strict=True):
                    with np.errstate(over="ignore"):
                        own = np.asarray(x, np.float64).astype(leaf_dtype(leaf, self.dtype))
                    row.setdefault(name, []).append(own)
        return rows

    def rules(self, algorithm: Algorithm) -> list[tuple[Algorithm, str | None]]:
        """Return the algorithm and the dialect of each group.

        Args:
            algorithm: the tested algorithm, for groups that name no algorithm.
        """
        named = [group.get("algorithm", algorithm.name) for group in self.groups]
        others = {name: find(name) for name in named if name != algorithm.name}
        return [
            (others[name], others[name].default_dialect)
            if name in others
            else (algorithm, self.dialect)
            for name in named
        ]

    def resolved(self, algorithm: Algorithm) -> list[dict[str, Any]]:
        """Return all hyperparameters of each group, checked.

        Args:
            algorithm: the tested algorithm.
        """
        return self._resolved(algorithm, self.groups)

    def _resolved(
        self, algorithm: Algorithm, groups: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        pairs = zip(self.rules(algorithm), groups, strict=True)
        return [
            rule.resolve(dialect, {k: v for k, v in group.items() if k != "algorithm"})
            for (rule, dialect), group in pairs
        ]

    def moved(self, values: dict[str, Any], step: int) -> dict[str, Any]:
        """Return the values of changing hyperparameters of a group at a step.

        Args:
            values: all hyperparameters of the group.
            step: the number of the step, from 0.
        """
        if not self.moving:
            return {}
        kind, moved = self.array_dtype().type, {}
        for number, name in enumerate(MOVING):
            value: Any = values.get(name)
            if not is_number(value) or value == 0:  # a term that is left out stays out
                continue
            rng = np.random.default_rng([self.seed, step, number])
            if RANGES[name].below == 1.0:  # β: 1 − β changes
                drawn = 1 - (1 - float(value)) * float(rng.uniform(0.5, 1.0))
            else:
                drawn = float(value) * float(rng.uniform(0.25, 1.0))
            rounded = float(kind(drawn))
            moved[name] = rounded if rounded and RANGES[name].holds(rounded) else float(kind(value))
        return moved

    def schedules(self, values: dict[str, Any]) -> dict[str, Schedule]:
        """Return the schedules of hyperparameters of a group.

        Args:
            values: all hyperparameters of the group.
        """
        if self.curve is None or not is_number(values.get("lr")):
            return {}
        return {"lr": Chained((Constant(values["lr"]), CURVES[self.curve]))}

    def array_dtype(self) -> np.dtype[Any]:
        """Return the dtype of hyperparameters that are passed as arrays."""
        mixed = any(leaf.dtype is not None for leaf in STRUCTURES[self.structure])
        return DTYPES["float32"] if mixed else working_dtype(DTYPES[self.dtype])

    def to_json(self) -> dict[str, Any]:
        """Return the case as JSON values, floats as hexadecimal strings."""
        return {
            "structure": self.structure,
            "dtype": self.dtype,
            "steps": self.steps,
            "seed": self.seed,
            "patterns": list(self.patterns),
            "specials": [[s.step, s.leaf, s.index, s.value.hex()] for s in self.specials],
            "groups": [{k: _to_json(v) for k, v in g.items()} for g in self.groups],
            "membership": list(self.membership),
            "arrays": self.arrays,
            "dialect": self.dialect,
            "moving": self.moving,
            "curve": self.curve,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Case:
        """Return the case in JSON values.

        Args:
            data: the result of :meth:`to_json`, a dictionary.

        Raises:
            ValueError: if ``data`` is no case.
        """
        saved = Saved(data, "case")
        structure = saved.text("structure", STRUCTURES)
        leaves = len(STRUCTURES[structure])
        steps = saved.whole("steps", 1, MOST_STEPS)
        groups = saved.entries("groups")
        return cls(
            structure=structure,
            dtype=saved.text("dtype", DTYPES),
            steps=steps,
            seed=saved.whole("seed", 0, 2**63 - 1),
            patterns=tuple(
                text(p, "patterns", PATTERNS) for p in saved.entries("patterns", leaves)
            ),
            specials=tuple(Special(*special) for special in saved.special(leaves, steps)),
            groups=tuple(_from_json(group, f"groups[{i}]") for i, group in enumerate(groups)),
            membership=tuple(
                whole(m, "membership", 0, len(groups) - 1)
                for m in saved.entries("membership", leaves)
            ),
            arrays=saved.truth("arrays"),
            dialect=None if data.get("dialect") is None else saved.text("dialect"),
            moving="moving" in data and saved.truth("moving"),
            curve=None if data.get("curve") is None else saved.text("curve", CURVES),
        )

    def check(self, algorithm: Algorithm) -> None:
        """Refuse hyperparameters that the algorithm does not accept.

        Args:
            algorithm: the tested algorithm.

        Raises:
            ValueError, TypeError: if a hyperparameter is unknown or not allowed; the message names
                the hyperparameter and what is allowed.
        """
        self.resolved(algorithm)
        if self.arrays or self.moving:  # arrays are rounded
            kind = self.array_dtype().type
            with np.errstate(over="ignore"):
                rounded = [
                    {k: float(kind(v)) if is_number(v) else v for k, v in group.items()}
                    for group in self.groups
                ]
            self._resolved(algorithm, rounded)


def _to_json(value: Any) -> Any:
    return {"float": value.hex()} if isinstance(value, float) else value


def _from_json(group: Any, name: str) -> dict[str, Any]:
    values = Saved({name: group}, name).mapping(name)
    return {
        key: hexadecimal(Saved(value, key).text("float"), key)
        if isinstance(value, dict)
        else plain(value, key)
        for key, value in values.items()
    }


def draw_leaf(
    rng: np.random.Generator, pattern: str, steps: int, shape: tuple[int, ...]
) -> list[np.ndarray]:
    """Return the parameters and the gradients of a leaf, in float64."""
    size = (steps + 1, *shape)
    sign = rng.choice([-1.0, 1.0], size)
    match pattern:
        case "mixed":
            values = sign * 10.0 ** rng.uniform(-30, 30, size)
        case "constant sign":
            values = 10.0 ** rng.uniform(-3, 3, size)
        case "alternating":
            turn = (-1.0) ** np.arange(steps + 1).reshape(-1, *(1 for _ in shape))
            values = turn * 10.0 ** rng.uniform(-6, 3, size)
        case "sparse":
            values = sign * 10.0 ** rng.uniform(-6, 3, size) * (rng.random(size) < 0.3)
        case "tiny":
            values = sign * 10.0 ** rng.uniform(-30, -15, size)
        case "huge":
            values = sign * 10.0 ** rng.uniform(10, 30, size)
        case _:
            values = sign * 10.0 ** rng.uniform(-6, 3, size)
    return list(np.asarray(values).reshape(size))


# Strategies.

_SCALES = {
    "lr": (1e-6, 10.0),
    "eps": (1e-30, 1.0),
    "eps_root": (1e-30, 1.0),
    "weight_decay": (1e-6, 1.0),
}
_DECAYS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.999999)


def _number(name: str, default: float) -> st.SearchStrategy[float]:
    """Return a strategy for a legal value of a hyperparameter."""
    allowed = RANGES.get(name)
    if name in _SCALES:
        low, high = _SCALES[name]
        exponent = st.floats(math.log10(low), math.log10(high))
        drawn: st.SearchStrategy[float] = exponent.map(lambda e: 10.0**e)
        return drawn if name == "lr" else st.just(0.0) | drawn
    if allowed is None:
        return st.floats(-4, 4).map(lambda e: default * 2.0**e)
    if allowed.below == 1.0:
        drawn = st.sampled_from(_DECAYS) | st.floats(0.0, 0.9999999)
    elif allowed.holds(0.5):
        drawn = st.sampled_from((0.0, 0.1, 0.5, 0.9, 1.0)) | st.floats(0.0, 1.0)
    else:
        drawn = st.floats(-4, 4).map(lambda e: default * 2.0**e)
    return drawn.filter(lambda x: allowed.holds(x) and allowed.holds(_as_array(x)))


def _as_array(x: float) -> float:
    """Return a hyperparameter as an array has it: in float32, and 0 where it would be subnormal."""
    rounded = np.float32(x)
    return float(rounded) if abs(rounded) >= np.finfo(np.float32).smallest_normal else 0.0


def _accepted(algorithm: Algorithm, dialect: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that the algorithm accepts: all, all except booleans, or none."""
    numbers = {k: v for k, v in values.items() if not isinstance(v, bool)}
    for candidate in (values, numbers):
        try:
            algorithm.resolve(dialect, candidate)
        except ValueError:  # a combination that the algorithm refuses
            continue
        return candidate
    return {}


@st.composite
def hyperparameters(
    draw: st.DrawFn, algorithm: Algorithm, dialect: str | None, arrays: bool
) -> dict[str, Any]:
    """Return random hyperparameters in their allowed ranges; booleans only without ``arrays``.

    Args:
        draw: passed by Hypothesis.
        algorithm: the algorithm.
        dialect: the dialect, for the defaults of other hyperparameters.
        arrays: whether the hyperparameters will be passed as arrays.
    """
    drawn: dict[str, Any] = {}
    for name, default in algorithm.defaults(dialect).items():
        if is_number(default):
            drawn[name] = draw(_number(name, float(default)))
        elif isinstance(default, bool) and not arrays:
            drawn[name] = draw(st.booleans())
    return _accepted(algorithm, dialect, drawn)


_CHOICES: dict[str, tuple[Any, ...]] = {
    "adam_lr": (None, 0.003),
    "adjust_lr_fn": (None, "match_rms_adamw"),
    "ns_coefficients": ("quintic", "polar_express", (1.5, -0.5, 0.0)),
    "ns_steps": (None, 3),
    "output_axis": (None, -1, 0, 1),
}
"""Values of hyperparameters that are neither numbers nor booleans."""


def pool(algorithm: Algorithm, seed: int, size: int = 3) -> list[tuple[str | None, dict[str, Any]]]:
    """Return sets of hyperparameters that are numbers: few, because each is compiled.

    These are the defaults of each dialect, and ``size`` sets in the allowed ranges.
    """
    from random import Random

    dialects: list[str | None] = [*algorithm.dialects] or [None]
    sets: list[tuple[str | None, dict[str, Any]]] = [(d, {}) for d in dialects]
    random = Random(seed)
    for i in range(size):
        dialect = dialects[i % len(dialects)]
        values: dict[str, Any] = {}
        for name, default in algorithm.defaults(dialect).items():
            if name in _CHOICES:
                values[name] = random.choice(_CHOICES[name])
            elif isinstance(default, bool):
                values[name] = random.random() < 0.5
            elif is_number(default) and name in _SCALES:
                low, high = map(math.log10, _SCALES[name])
                values[name] = 10.0 ** random.uniform(low, high)
            elif is_number(default) and name in RANGES:
                fitting = [x for x in (0.3, 0.5, 0.9, 0.95, 0.999) if RANGES[name].holds(x)]
                values[name] = random.choice(fitting or [float(default)])
            elif is_number(default):
                values[name] = float(default) * 2.0 ** random.uniform(-3, 3)
        sets.append((dialect, _accepted(algorithm, dialect, values)))
    return sets


def one_curve(algorithm: Algorithm, seed: int) -> str:
    """Return the curve to test an algorithm with: only one, because each is compiled.

    Args:
        algorithm: any algorithm.
        seed: the seed of the choice.
    """
    from random import Random

    return Random(f"{algorithm.name} {seed}").choice(sorted(CURVES))


def _other(algorithm: Algorithm) -> str:
    """Return the algorithm of a second group: only one, because each is compiled."""
    return "adamw" if algorithm.name != "adamw" else "sgd"


@st.composite
def cases(
    draw: st.DrawFn,
    algorithm: str | Algorithm,
    dtype: str = "float32",
    *,
    steps: int = 200,
    seed: int = 0,
) -> Case:
    """Return a random case for an algorithm.

    Args:
        draw: passed by Hypothesis.
        algorithm: a name in ``ALGORITHMS``, or an ``Algorithm``.
        dtype: the dtype of the parameters, a name in ``DTYPES``.
        steps: the largest number of steps; most cases have far fewer.
        seed: the seed of the few sets of hyperparameters that are passed as numbers.
    """
    algorithm = find(algorithm)
    structure = draw(st.sampled_from(DRAWN))
    leaves = STRUCTURES[structure]
    lengths = sorted({min(n, steps) for n in (1, 2, 3, 4, 5, 7, 10, 13, 17, 25, 40, steps)})
    length = draw(st.sampled_from(lengths))
    arrays = draw(st.booleans())
    sets = pool(algorithm, seed)
    if arrays:
        dialect = draw(st.sampled_from([d for d, _ in sets]))
        groups = [draw(hyperparameters(algorithm, dialect, arrays=True))]
    else:
        dialect, values = draw(st.sampled_from(sets))
        groups = [values]
    membership = [0] * len(leaves)
    if len(leaves) > 1 and draw(st.integers(0, 3)) == 0:  # a second group
        name = draw(st.sampled_from([algorithm.name, _other(algorithm)]))
        own = find(name) if name != algorithm.name else algorithm
        own_dialect = dialect if own is algorithm else own.default_dialect
        groups.append(draw(hyperparameters(own, own_dialect, arrays=True)) if arrays else {})
        groups[-1] |= {} if own is algorithm else {"algorithm": name}
        membership[-1] = 1
    numbers = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=False)
    if dtype == "float64":
        numbers |= st.floats(allow_subnormal=False)
    special = st.builds(
        Special,
        step=st.integers(-1, min(length - 1, 5)),
        leaf=st.integers(0, len(leaves) - 1),
        index=st.integers(0, 20),
        value=st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf]) | numbers,
    )
    moving = not arrays and draw(st.booleans())
    curve = None if arrays or moving else draw(st.sampled_from([None, one_curve(algorithm, seed)]))
    return Case(
        structure=structure,
        dtype=dtype,
        steps=length,
        seed=draw(st.integers(0, 2**16)),
        patterns=tuple(draw(st.sampled_from(PATTERNS)) for _ in leaves),
        specials=tuple(draw(st.lists(special, max_size=4))),
        groups=tuple(groups),
        membership=tuple(membership),
        arrays=arrays,
        dialect=dialect,
        moving=moving,
        curve=curve,
    )
