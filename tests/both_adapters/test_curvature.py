"""Trace and largest eigenvalue of a Hessian that is known, in both frameworks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import optstudy_jax as in_jax
import optstudy_torch as in_torch
from optstudy_core import instruments

pytestmark = pytest.mark.usefixtures("compiled_quickly")

RNG = np.random.default_rng(0)
EIGENVALUES = np.array([-8.0, 5.0, 3.0, 2.0, 1.0, 0.5])
BASIS = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
HESSIAN = (BASIS * EIGENVALUES @ BASIS.T).astype(np.float32)
POINT = RNG.normal(size=6).astype(np.float32)


def of_torch(**options: Any) -> dict[str, float]:
    a = torch.tensor(POINT[:4]).reshape(2, 2).requires_grad_()
    b = torch.tensor(POINT[4:], requires_grad=True)
    unused = torch.ones(3, requires_grad=True)
    x = torch.cat([a.reshape(-1), b])
    loss = x @ torch.tensor(HESSIAN) @ x / 2 + x.sum()
    before = torch.get_rng_state()
    found = in_torch.curvature(loss, [a, b, unused], **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert a.grad is None
    return found


def of_jax(**options: Any) -> dict[str, float]:
    params = {"a": jnp.asarray(POINT[:4]).reshape(2, 2), "b": jnp.asarray(POINT[4:])}

    def loss(params: Any) -> Any:
        x = jnp.concatenate([params["a"].reshape(-1), params["b"]])
        return x @ jnp.asarray(HESSIAN) @ x / 2 + x.sum()

    measure = jax.jit(lambda params: in_jax.curvature(loss, params, **options))
    return {name: float(value) for name, value in measure(params).items()}


@pytest.mark.parametrize("measure", [of_torch, of_jax])
def test_a_hessian_that_is_known(measure: Any) -> None:
    found = measure(samples=8, iterations=15)
    assert found["hessian_largest"] == pytest.approx(-8.0, rel=1e-3)  # the largest in size
    spread = np.sqrt(2 * ((HESSIAN**2).sum() - (np.diag(HESSIAN) ** 2).sum()) / 8)
    assert found["hessian_trace"] == pytest.approx(3.5, abs=float(3 * spread))
    assert measure(samples=8, iterations=15) == found
    with pytest.raises(ValueError, match="iterations = 0: allowed are whole numbers from 1"):
        measure(iterations=0)


def test_a_loss_without_curvature() -> None:
    x = torch.ones(3, requires_grad=True)
    assert in_torch.curvature(x.sum(), [x]) == {"hessian_trace": 0.0, "hessian_largest": 0.0}


@pytest.mark.parametrize(("length", "alpha"), [(0.25, -0.75), (1.0, 0.0), (2.0, 1.0), (3.0, 2.0)])
def test_where_a_step_ends_on_a_parabola(length: float, alpha: float) -> None:
    """L = ½·(1 − t)² along the step; the minimum is at a length of 1."""
    step, before, after = (np.array([x]) for x in (length, -1.0, length - 1.0))
    assert float(instruments.step_alpha([step], [before], [after])) == pytest.approx(alpha)
