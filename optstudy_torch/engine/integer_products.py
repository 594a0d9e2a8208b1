"""Products of matrices that keep 20 bits on the integer tensor cores of a GPU."""

from __future__ import annotations

import functools

import torch

from optstudy_core.arrays import digits


def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the result of :func:`optstudy_core.arrays.digits.product`."""
    found: torch.Tensor = digits.product(x, y, lambda a, b: torch._int_mm(a, b.t()))
    return found


def are_faster(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Return whether :func:`product` is faster than the float64 product."""
    return x.device.type == "cuda" and digits.are_faster(x, y) and are_exact(x.device)


@functools.cache
def are_exact(device: torch.device) -> bool:
    """Return whether torch multiplies int8 matrices on a device; tried once."""
    x = torch.arange(-1600.0, 1600.0, dtype=torch.float64, device=device).view(64, 50)
    try:
        return torch.equal(product(x, x.t()), x @ x.t())
    except (AttributeError, RuntimeError):
        return False
