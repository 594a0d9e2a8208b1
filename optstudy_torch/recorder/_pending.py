"""Steps that were measured and are still on the device, and how they come to the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from optstudy_core import instruments as core

from ._sums import Layout


class Pending(NamedTuple):
    """A step that was measured and is still on the device.

    Attributes:
        number: of the step.
        epoch: that it is in.
        due: what its row has; nothing where it was measured for the next one's angle.
        reductions: the sums that were measured.
        layout: what they are sums of.
        targets: the profiles that were measured.
        measured: tensors and numbers, in dictionaries and lists.
    """

    number: int
    epoch: int
    due: core.Chosen
    reductions: tuple[core.Reduction, ...]
    layout: Layout
    targets: tuple[core.Target, ...]
    measured: dict[str, Any]


def to_host(measured: Sequence[Any]) -> list[Any]:
    """Return trees of tensors with arrays in their place, float64 and flat.

    The tensors of a device come in one transfer.
    """
    tensors = [t.detach().reshape(-1).to(torch.float64) for t in _tensors(measured)]
    parts = {}
    for device in {t.device for t in tensors}:
        own = [t for t in tensors if t.device == device]
        host = torch.cat(own).cpu().numpy()
        parts[device] = iter(np.split(host, np.cumsum([len(t) for t in own])[:-1]))
    found: list[Any] = _replaced(measured, (next(parts[t.device]) for t in tensors))
    return found


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for entry in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(entry)


def _replaced(tree: Any, arrays: Iterator[np.ndarray]) -> Any:
    if isinstance(tree, torch.Tensor):
        return next(arrays)
    if isinstance(tree, dict):
        return {name: _replaced(entry, arrays) for name, entry in tree.items()}
    if isinstance(tree, list | tuple):
        return [_replaced(entry, arrays) for entry in tree]
    return tree


def number(value: Any) -> float:
    """Return what came to the host as an array of one element, or is a number."""
    return float(value[0]) if isinstance(value, np.ndarray) else float(value)


def fetched(
    pending: Sequence[Pending], mean: Callable[[list[float]], list[float]]
) -> Iterator[tuple[Pending, dict[str, Any]]]:
    """Bring steps to the host, all at once, and leave out those that the optimizer skipped.

    Args:
        pending: the steps.
        mean: returns for losses of this process those of all, NaN for steps without one.
    """
    found = to_host([made.measured for made in pending])
    losses = [number(values["numbers"].get("loss", math.nan)) for values in found]
    if any("loss" in values["numbers"] for values in found):
        for values, loss in zip(found, mean(losses), strict=True):
            if "loss" in values["numbers"]:
                values["numbers"]["loss"] = loss
    for made, values in zip(pending, found, strict=True):
        if values["skipped"] is not None and values["skipped"][0] != 0:
            continue  # an optimizer that skips the step itself, as GradScaler tells it
        yield made, values
