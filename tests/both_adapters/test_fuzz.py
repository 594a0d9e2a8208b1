"""Random update rules: no compiler and no library rounds differently from NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import optstudy_jax
import optstudy_torch
from optstudy_core import random_formulas as formulas
from optstudy_jax._selfcheck import run_jitted
from optstudy_torch._selfcheck import run
from parity.backends import compiler

needs_compiler = pytest.mark.skipif(compiler() is None, reason="not run: no compiler")


def test_torch_eager() -> None:
    assert optstudy_torch.selfcheck(300, seed=1) == []


@pytest.mark.usefixtures("torch_operations")
def test_torch_operations() -> None:
    assert optstudy_torch.selfcheck(300, seed=5) == []


@needs_compiler
def test_torch_compiled() -> None:
    assert optstudy_torch.selfcheck(30, seed=2, compiled=True) == []


def test_jax_jitted() -> None:
    assert optstudy_jax.selfcheck(10, seed=3) == []


@pytest.mark.slow
def test_jax_eager() -> None:
    assert formulas.search(optstudy_jax._selfcheck.run_eager, 10, seed=4, batch=10) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_five_thousand_formulas(part: int) -> None:
    assert optstudy_torch.selfcheck(500, seed=100 + part) == []
    assert optstudy_jax.selfcheck(500, seed=100 + part) == []


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("part", range(10))
def test_five_thousand_formulas_compiled(part: int) -> None:
    assert optstudy_torch.selfcheck(250, seed=200 + part, compiled=True) == []


# The fuzzer can find something.


def test_a_contraction_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    from optstudy_jax import _rounding

    monkeypatch.setitem(_rounding._ISOLATED, "add", frozenset())
    monkeypatch.setitem(_rounding._ISOLATED, "subtract", frozenset())
    formula = ("sqrt", ("abs", ("add", ("multiply", "g", ("subtract", "p", 3.0)), "previous")))
    assert formulas.failing(run_jitted, [formula], np.float32, 0) == [formula]
    small = formulas.show(formulas.shrink(run_jitted, formula, np.float32, 0))
    assert len(small) <= len("((g * (p - 3.0)) + previous)")
    assert "*" in small


@pytest.mark.usefixtures("torch_operations")
def test_an_inexact_root_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from optstudy_torch.engine import rounding

    original = rounding.apply
    monkeypatch.setattr(
        rounding, "apply", lambda o, *a: torch.sqrt(a[0]) if o == "sqrt" else original(o, *a)
    )
    assert formulas.failing(run, [("sqrt", ("abs", "g"))], np.float32, 0)
