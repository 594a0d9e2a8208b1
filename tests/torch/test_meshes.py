"""Optimizers on meshes of processes: parameters and states have the bits of one process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import meshes
import numpy as np
import pytest
from adapters import LR, RULES, reference
from harness import draw, start

QUICK = ["adamw", "lamb", "dog", "sm3"]
"""Rules of each kind, and one whose state begins with a norm."""


def case(
    name: str, steps: int = 10, dialect: str | None = None, dtype: Any = np.float32
) -> meshes.Case:
    """Return a training of a rule, with what NumPy makes of it."""
    shapes = list(meshes.SHAPES.values())
    begin, grads = start(shapes, dtype=dtype), draw(shapes, steps, dtype=dtype)
    given = {"lr": LR} if "lr" in RULES[name].defaults() else {}
    dialect = dialect or RULES[name].default_dialect
    ends = reference(name, dialect, begin, grads)
    return meshes.Case(name, dialect, given, begin, grads, *ends)


def on_mesh(function: Any, shape: Sequence[int], folder: Path, *args: Any, **given: Any) -> None:
    """Run a function of :mod:`meshes` on as many processes as a mesh of that shape has."""
    meshes.on_processes(meshes.worker(function, *args, **given), math.prod(shape), folder)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (2, 2)], ids=str)
def test_every_rule_with_every_placement(shape: tuple[int, ...], tmp_path: Path) -> None:
    on_mesh(meshes.trainings, shape, tmp_path, list(map(case, RULES)), *shape)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [True, False])
def test_kernels_and_operations(compiled: bool, tmp_path: Path) -> None:
    cases = [case(name, 3, dtype=np.float64) for name in [*QUICK, "prodigy", "novograd", "momo"]]
    on_mesh(meshes.trainings, (2,), tmp_path, cases, 2, compile=compiled)
