"""A check that torch on this machine keeps the numerics contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from optstudy_core import Algorithm
from optstudy_core import random_formulas as formulas

from .classes import from_core


def run(
    rule: Algorithm,
    params: list[np.ndarray],
    grads: list[list[np.ndarray]],
    hyperparameters: dict[str, Any],
    *,
    compiled: bool = False,
    device: str = "cpu",
) -> list[list[list[np.ndarray]]]:
    """Run a rule with its optimizer (a ``formulas.Run``)."""
    own = {
        name: value if isinstance(value, float) else torch.tensor(value, device=device)
        for name, value in hyperparameters.items()
    }
    theta = [torch.nn.Parameter(torch.tensor(p, device=device)) for p in params]
    optimizer = from_core(rule)(theta, compile=compiled, **own)
    rows = []
    for gradients in grads:
        for p, g in zip(theta, gradients, strict=True):
            p.grad = torch.tensor(g, device=device)
        optimizer.step()
        fields = [
            [optimizer.state[p][name].cpu().numpy().copy() for p in theta]
            for name in optimizer.state[theta[0]]
        ]
        rows.append([*fields, [p.detach().cpu().numpy().copy() for p in theta]])
    return rows


def run_compiled(
    rule: Algorithm,
    params: list[np.ndarray],
    grads: list[list[np.ndarray]],
    hyperparameters: dict[str, Any],
) -> list[list[list[np.ndarray]]]:
    """Run a rule with its compiled optimizer (a ``formulas.Run``)."""
    return run(rule, params, grads, hyperparameters, compiled=True)


def selfcheck(count: int = 200, seed: int = 0, *, compiled: bool = False) -> list[str]:
    """Search for operations that torch rounds differently on this machine, with random rules.

    Args:
        count: the number of formulas to try in float32 and in float64.
        seed: the seed of the formulas and values.
        compiled: run the formulas with ``compile=True``. This needs a C compiler, and compiles a
            library for each formula.

    Returns:
        the formulas with other bits than in NumPy, simplified; an empty list if there are none.
    """
    return formulas.search(run_compiled if compiled else run, count, seed=seed)
