"""Training cases: their values, written to JSON and read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optstudy_core import Algorithm
from optstudy_core.arrays.numbers import is_number
from optstudy_core.catalogue.algorithm import INPUTS
from optstudy_core.catalogue.hyperparameters import RANGES
from optstudy_core.catalogue.table import find
from optstudy_core.schedules import Chained, Constant, Schedule

from .curves import CURVES
from .saved import MOST_STEPS, Saved, hexadecimal, plain, text, whole
from .structures import DTYPES, STRUCTURES, leaf_dtype, working_dtype

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
