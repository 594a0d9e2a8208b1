"""What a recorder carries from one step to the next, and how it is saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from optstudy_core.arrays.numbers import nearest

from ._copies import Copies
from ._layers import Layers


class State:
    """What a recorder carries from one step to the next.

    Attributes:
        epoch_count: how many epochs have ended.
        step_count: how many steps were made.
        losses: the sum of the epoch's losses, float64; ``None`` before the first.
        loss_count: how many they are.
        rates: of each group, of the last step; ``None`` before the first.
        step_squares: ‖Δ‖² of each layer, of the last step that came to the host.
        start: the parameters at the start of the epoch.
        epoch_step: the step of the last epoch.
        last_step: the step before the present one.
        origin: the parameters when the recorder was made.
    """

    def __init__(self) -> None:
        self.epoch_count = self.step_count = 0
        self.losses: torch.Tensor | float | None = None
        self.loss_count = 0
        self.rates: list[Any] | None = None
        self.step_squares: np.ndarray | None = None
        self.start, self.epoch_step = Copies(), Copies()
        self.last_step, self.origin = Copies(), Copies()

    def add_loss(self, value: torch.Tensor | float) -> None:
        """Add the loss of a step to the epoch's."""
        self.loss_count += 1
        own = self.losses
        if isinstance(own, torch.Tensor) and isinstance(value, torch.Tensor):
            own = own.to(value.device)
        self.losses = value if own is None else own + value

    def mean_loss(self) -> float:
        """Return the mean of the epoch's losses, NaN if there are none."""
        return math.nan if self.losses is None else float(self.losses) / self.loss_count

    def copies(self) -> dict[str, Copies]:
        """Return the copies of parameters by name."""
        return {
            "start": self.start,
            "epoch_step": self.epoch_step,
            "last_step": self.last_step,
            "origin": self.origin,
        }

    def saved(self, layers: Layers) -> dict[str, Any]:
        """Return it as tensors, numbers, lists and dicts: copies, of whole parameters."""
        return {
            "epoch_count": self.epoch_count,
            "step_count": self.step_count,
            "loss_sum": None if self.losses is None else float(self.losses),
            "loss_count": self.loss_count,
            "rates": None if self.rates is None else [float(r) for r in self.rates],
            "step_squares": None if self.step_squares is None else self.step_squares.tolist(),
            "copies": {
                kind: copies.saved(layers.names, layers.params)
                for kind, copies in self.copies().items()
            },
        }

    def load(self, saved: Mapping[str, Any], layers: Layers) -> None:
        """Take what :meth:`saved` returned.

        Raises:
            ValueError: if it is of other parameters.
        """
        sizes = {name: p.numel() for name, p in zip(layers.names, layers.params, strict=True)}
        for copies in saved["copies"].values():
            for name, value in copies.items():
                if name not in sizes:
                    raise ValueError(f"state_dict with {name!r}: {nearest(name, sizes)}")
                if value.numel() != sizes[name]:
                    raise ValueError(
                        f"state_dict with {value.numel()} elements of {name!r}: allowed are "
                        f"{sizes[name]}"
                    )
        for kind, own in self.copies().items():
            own.load(saved["copies"][kind], layers.names, layers.params)
        self.epoch_count = int(saved["epoch_count"])
        self.step_count = int(saved["step_count"])
        total = saved["loss_sum"]
        self.losses = total
        self.loss_count = int(saved["loss_count"])
        self.rates = saved["rates"]
        squares = saved["step_squares"]
        self.step_squares = None if squares is None else np.array(squares)
