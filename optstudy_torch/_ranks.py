"""What several processes measure, each by itself, and have to agree on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from optstudy_core.arrays.numbers import is_number

from ._meshes import whole


def scalar(name: str, value: Any) -> torch.Tensor:
    """Return a 0-d float64 tensor of its own, where the value is.

    Raises:
        TypeError, ValueError: for what is no number and no tensor of one.
    """
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value))
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"{name} of shape {tuple(value.shape)}: allowed are numbers and tensors of one"
            )
        return whole(value.detach()).reshape(()).to(torch.float64, copy=True)
    if not is_number(value):
        raise TypeError(f"{name} = {value!r}: allowed are numbers and tensors of one")
    return torch.tensor(float(value), dtype=torch.float64)
