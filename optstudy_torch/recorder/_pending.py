"""Measured steps on the device, and their transfer to the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from optstudy_core import instruments as core

from ._sums import Layout


class Pending(NamedTuple):
    """A measured step on the device.

    Attributes:
        number: the number of the step.
        epoch: the epoch of the step.
        due: the quantities of its row; empty if the step is only needed for the next angle.
        reductions: the measured sums.
        layout: the layout of the sums.
        targets: the measured profiles.
        measured: tensors and numbers, in dictionaries and lists.
    """

    number: int
    epoch: int
    due: core.Chosen
    reductions: tuple[core.Reduction, ...]
    layout: Layout
    targets: tuple[core.Target, ...]
    measured: dict[str, Any]


class Measured(NamedTuple):
    """A step on the host: its description, and its values."""

    made: Pending
    values: dict[str, Any]


def to_host(measured: Sequence[Any]) -> list[Any]:
    """Return trees with flat float64 arrays instead of tensors.

    Each device needs one transfer.
    """
    found: list[torch.Tensor] = []
    _collect(measured, found)
    if not found:
        return list(measured)
    tensors = [t.detach().reshape(-1).to(torch.float64) for t in found]
    parts = {}
    for device in {t.device for t in tensors}:
        own = [t for t in tensors if t.device == device]
        host = torch.cat(own).cpu().numpy()
        parts[device] = iter(np.split(host, np.cumsum([len(t) for t in own])[:-1]))
    replaced: list[Any] = _replaced(measured, (next(parts[t.device]) for t in tensors))
    return replaced


def _collect(tree: Any, found: list[torch.Tensor]) -> None:
    for entry in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(entry, torch.Tensor):
            found.append(entry)
        elif isinstance(entry, dict | list | tuple):
            _collect(entry, found)


def _replaced(tree: Any, arrays: Iterator[np.ndarray]) -> Any:
    if isinstance(tree, torch.Tensor):
        return next(arrays)
    if isinstance(tree, dict):
        return {name: _replaced(entry, arrays) for name, entry in tree.items()}
    if isinstance(tree, list | tuple):
        return [_replaced(entry, arrays) for entry in tree]
    return tree


def number(value: Any) -> float:
    """Return a number from an array with one element, or a number unchanged."""
    return float(value[0]) if isinstance(value, np.ndarray) else float(value)


def fetched(
    pending: Sequence[Pending], mean: Callable[[list[float]], list[float]]
) -> Iterator[Measured]:
    """Transfer steps to the host, all at once, without steps that the optimizer skipped.

    Args:
        pending: the steps.
        mean: a function from the losses of this process to means over all processes; NaN for steps
            without a loss.
    """
    found = to_host([made.measured for made in pending])
    losses = [number(values["numbers"].get("loss", math.nan)) for values in found]
    if any("loss" in values["numbers"] for values in found):
        for values, loss in zip(found, mean(losses), strict=True):
            if "loss" in values["numbers"]:
                values["numbers"]["loss"] = loss
    for made, values in zip(pending, found, strict=True):
        if values["skipped"] is not None and values["skipped"][0] != 0:
            continue  # the optimizer skips the step itself, as requested by GradScaler
        yield Measured(made, values)
