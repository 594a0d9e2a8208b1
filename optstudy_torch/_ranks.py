"""What several processes measure, each by itself, and have to agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from optstudy_core.arrays.numbers import is_number

from ._meshes import local, whole


def several() -> bool:
    """Tell whether several processes train together."""
    distributed = torch.distributed
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def average(value: float, params: Sequence[torch.Tensor]) -> float:
    """Return what :func:`averages` does of one number."""
    return averages([value], params)[0]


def averages(values: Sequence[float], params: Sequence[torch.Tensor]) -> list[float]:
    """Return the means of what the processes have, the same numbers on all of them; all must call.

    Args:
        values: what this process has, as many on all of them.
        params: one of them says on which device a message is sent where the CPU sends none.
    """
    if not several():
        return list(values)
    distributed = torch.distributed
    on_host = "cpu:" in distributed.get_backend_config()
    device = torch.device("cpu") if on_host or not params else local(params[0]).device
    own = torch.tensor(values, dtype=torch.float64, device=device)
    every = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)  # no sum of the library, whose order nobody knows
    columns = zip(*(x.tolist() for x in every), strict=True)
    return [sum(column) / len(every) for column in columns]


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
