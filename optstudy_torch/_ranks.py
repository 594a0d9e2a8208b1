"""Numbers that several processes measure separately, and their averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from optstudy_core.arrays.numbers import is_number

from ._meshes import local, whole


def several() -> bool:
    """Return whether several processes train together."""
    distributed = torch.distributed
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def average(value: float, params: Sequence[torch.Tensor]) -> float:
    """Return the mean of one number over the processes, as :func:`averages`."""
    return averages([value], params)[0]


def averages(values: Sequence[float], params: Sequence[torch.Tensor]) -> list[float]:
    """Return means over all processes, with the same bits on each; all processes must call.

    Args:
        values: the numbers of this process; all processes pass equally many.
        params: tensors; the first gives the device of the message if the CPU cannot send it.
    """
    if not several():
        return list(values)
    distributed = torch.distributed
    on_host = "cpu:" in distributed.get_backend_config()
    device = torch.device("cpu") if on_host or not params else local(params[0]).device
    own = torch.tensor(values, dtype=torch.float64, device=device)
    every = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)  # a sum by the library would have an unknown order
    columns = zip(*(x.tolist() for x in every), strict=True)
    return [sum(column) / len(every) for column in columns]


def scalar(name: str, value: Any) -> torch.Tensor:
    """Return a value as a new 0-d float64 tensor, on the device of the value.

    Raises:
        TypeError: if the value is no number and no tensor.
        ValueError: if a tensor has not exactly one element.
    """
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value))
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"{name} of shape {tuple(value.shape)}: allowed are numbers and tensors with one "
                "element"
            )
        return whole(value.detach()).reshape(()).to(torch.float64, copy=True)
    if not is_number(value):
        raise TypeError(f"{name} = {value!r}: allowed are numbers and tensors with one element")
    return torch.tensor(float(value), dtype=torch.float64)
