"""The state of a recorder, and how it is saved."""

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
    """The state of a recorder.

    Attributes:
        epoch_count: the number of finished epochs.
        step_count: the number of steps.
        losses: the sum of the losses of the epoch, float64; ``None`` before the first loss.
        loss_count: the number of these losses.
        rates: the rate of each group in the last step; ``None`` before the first step.
        step_squares: ‖Δ‖² of each layer, for the last step on the host.
        start: the parameters at the start of the epoch.
        epoch_step: the step of the last epoch.
        last_step: the previous step.
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
        """Add the loss of a step to the sum of the epoch."""
        self.loss_count += 1
        own = self.losses
        if isinstance(own, torch.Tensor) and isinstance(value, torch.Tensor):
            own = own.to(value.device)
        self.losses = value if own is None else own + value

    def mean_loss(self) -> float:
        """Return the mean loss of the epoch, NaN without losses."""
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
        """Return the state as tensors, numbers, lists and dicts, with whole copies."""
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
        """Load the result of :meth:`saved`.

        Raises:
            ValueError: if the result belongs to other parameters.
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
