"""Inputs of the standard runs of a digest: the same on every machine.

Every input comes from SHAKE-256 and is exact in float64.
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Any, Self

import numpy as np

from optstudy_core import Algorithm
from optstudy_core.catalogue.algorithm import INPUTS

from .case import Case
from .structures import STRUCTURES, leaf_dtype


class StandardRun(Case):
    """A case with inputs from :func:`drawn`."""

    @classmethod
    def with_setting(
        cls,
        algorithm: Algorithm,
        dialect: str | None,
        given: dict[str, Any],
        structure: str,
        **more: Any,
    ) -> Self | None:
        """Return a run with one setting for all leaves; ``None`` if the algorithm refuses it.

        Args:
            algorithm: the algorithm.
            dialect: the dialect.
            given: the hyperparameters that are not the defaults.
            structure: the name of a tree.
            more: other attributes, such as ``steps``.
        """
        try:
            algorithm.resolve(dialect, given)
        except ValueError:  # a combination that the algorithm refuses
            return None
        return cls(
            structure=structure,
            seed=0,
            patterns=(),
            groups=(given,),
            membership=(0,) * len(STRUCTURES[structure]),
            dialect=dialect,
            **more,
        )

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


@functools.cache
def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float64 numbers of 20 bits, of both signs, from 2⁻²⁰ to 2⁵; every 16th is 0.

    Args:
        name: the name of the stream; different names give different numbers.
        shape: the shape of the array.
    """
    bits = words(name, math.prod(shape))
    mantissa = 1 + (bits >> np.uint64(40)).astype(np.float64) / 2**24
    mantissa = np.floor(mantissa * 2**19) / 2**19
    exponent = (bits & np.uint64(31)).astype(np.int32) * 25 // 32 - 20
    sign = 1.0 - 2.0 * ((bits >> np.uint64(5)) & np.uint64(1)).astype(np.float64)
    kept = ((bits >> np.uint64(6)) & np.uint64(15)) > 0
    return np.asarray(np.ldexp(sign * mantissa, exponent) * kept).reshape(shape)


def words(name: str, number: int) -> np.ndarray:
    """Return integers of 64 bits from a stream."""
    data = hashlib.shake_256(f"optstudy digest 1: {name}".encode()).digest(8 * number)
    return np.frombuffer(data, dtype="<u8")
