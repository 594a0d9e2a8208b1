"""PV-finder's networks in PyTorch; dropout is a product with masks from outside."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import conv2d, leaky_relu, softplus

from .event import BINS
from .networks import (
    ASYMMETRY,
    DDPLUS_CONVOLUTIONS,
    DDPLUS_DENSE,
    DDPLUS_TRACKS,
    LEAK,
    SCALE,
    allcnn,
    ratio_cost,
    square_cost,
)


class Convolution(nn.Conv1d):
    """A ``Conv1d`` that a CPU computes with the channels last: in half the time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what ``Conv1d`` returns, for an input of shape (batch, channels, length)."""
        x, weight = (
            values.unsqueeze(2).contiguous(memory_format=torch.channels_last)
            for values in (x, self.weight)
        )
        padding = (0, self.kernel_size[0] // 2)
        return conv2d(x, weight, self.bias, padding=padding).squeeze(2)


class AllCNN(nn.Module):
    """Five convolutions, each with LeakyReLU (0.01), then a filter and softplus.

    Input: float, shape (batch, features, 4000). Output: float, shape (batch, 4000), all positive.

    Args:
        features: 1 for the kernel, 3 for the kernel and where in x and y it is.

    >>> AllCNN()(torch.zeros(2, 1, 4000)).shape
    torch.Size([2, 4000])
    """

    def __init__(self, features: int = 1) -> None:
        super().__init__()
        for name, shape in allcnn(features).items():
            self.add_module(name, _convolution(*shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the histograms."""
        *layers, last = self.children()
        for layer in layers:
            x = leaky_relu(layer(x), LEAK)
        return softplus(last(x))[:, 0]


def _convolution(outputs: int, inputs: int, width: int) -> Convolution:
    return Convolution(inputs, outputs, width, padding="same")


class DDplus(nn.Module):
    """A network of tracks, summed over them, convolutions, and a layer of all bins.

    Input: float, shape (batch, tracks, 10): nine features and 1 where there is a track, 0 where
    the row is filled up; and two masks of shape (batch, channels, 4000) or none. Output: float,
    shape (batch, 4000), all positive.

    >>> DDplus()(torch.zeros(1, 3, 10)).shape
    torch.Size([1, 4000])
    """

    def __init__(self) -> None:
        super().__init__()
        for name, (outputs, inputs) in (DDPLUS_TRACKS | DDPLUS_DENSE).items():
            self.add_module(name, nn.Linear(inputs, outputs))
        for name, shape in DDPLUS_CONVOLUTIONS.items():
            self.add_module(name, _convolution(*shape))

    def forward(self, x: torch.Tensor, *masks: torch.Tensor) -> torch.Tensor:
        """Return the histograms."""
        # Event by event: the channels of all tracks of a batch would not fit into a cache.
        x = torch.stack([self._of_tracks(event) for event in x])
        x = x.reshape(len(x), -1, BINS)
        for i, name in enumerate(DDPLUS_CONVOLUTIONS):
            x = leaky_relu(getattr(self, name)(x), LEAK)
            x = x * masks[i] if masks else x
        return softplus(self.get_submodule("dense")(x[:, 0])) * SCALE

    def _of_tracks(self, event: torch.Tensor) -> torch.Tensor:
        x, present = event[:, :-1], event[:, -1]
        for name in DDPLUS_TRACKS:
            x = leaky_relu(getattr(self, name)(x), LEAK)
        return present @ x


def ratio_loss(
    prediction: torch.Tensor, target: torch.Tensor, *, c: float = ASYMMETRY, eps: float = 1e-5
) -> torch.Tensor:
    """Return the asymmetric ratio loss; see :func:`.networks.ratio_cost`."""
    return _mean_of_known(lambda y: ratio_cost(torch, prediction, y, c, eps), target)


def square_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean of ((ŷ − y)/0.01)² over the bins whose target is not NaN."""
    return _mean_of_known(lambda y: square_cost(prediction, y), target)


def _mean_of_known(
    cost: Callable[[torch.Tensor], torch.Tensor], target: torch.Tensor
) -> torch.Tensor:
    known = ~torch.isnan(target)
    # What is masked must be finite: 0·NaN in the backward pass is NaN.
    costs = cost(torch.where(known, target, 1.0))
    result: torch.Tensor = torch.where(known, costs, 0.0).sum() / known.sum()
    return result
