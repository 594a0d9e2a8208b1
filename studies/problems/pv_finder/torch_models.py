"""The networks of PV-finder in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.functional import conv2d, leaky_relu, softplus

from .event import BINS, FEATURES
from .networks import (
    ASYMMETRY,
    CHANNELS,
    INTERVAL_BINS,
    INTERVALS,
    LEAK,
    MIXING,
    OF_TRACKS,
    SCALE,
    TRACKS_TO_KERNEL,
    allcnn,
    ratio_cost,
    square_cost,
)


class Convolution(nn.Conv1d):
    """A ``Conv1d`` that uses channels last on a CPU, which takes half the time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the result of ``Conv1d`` for an input of shape (batch, channels, length)."""
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
        features: 1 for the kernel, 3 for the kernel with its x and y.

    >>> AllCNN()(torch.zeros(2, 1, 4000)).shape
    torch.Size([2, 4000])
    """

    def __init__(self, features: int = 1) -> None:
        super().__init__()
        _add(self, allcnn(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the histograms."""
        return _find(self, x)


class TracksToKernel(nn.Module):
    """A network for each track, summed over the tracks of an interval, convolutions, and a layer.

    Input: float, shape (batch, rows, 11): nine features of a track, the number of the interval, and
    1; other rows are zero. Output: the kernel, float, shape (batch, 4000), positive.

    >>> TracksToKernel()(torch.zeros(1, 3, 11)).shape
    torch.Size([1, 4000])
    """

    def __init__(self) -> None:
        super().__init__()
        _add(self, TRACKS_TO_KERNEL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the kernels."""
        is_track = x[..., -1] > 0
        interval = x[..., -2].long() + INTERVALS * torch.arange(len(x), device=x.device)[:, None]
        rows = x[is_track][:, :FEATURES]
        for name in OF_TRACKS:
            rows = leaky_relu(getattr(self, name)(rows), LEAK)
        sums = rows.new_zeros(len(x) * INTERVALS, rows.shape[1])
        y = sums.index_add(0, interval[is_track], rows).reshape(-1, CHANNELS, INTERVAL_BINS)
        for name in MIXING:
            y = leaky_relu(getattr(self, name)(y), LEAK)
        y = self.get_submodule("dense")(y[:, 0])
        return SCALE * softplus(y).reshape(len(x), BINS)


class DDplus(TracksToKernel):
    """The network of tracks, followed by AllCNN on the predicted kernel.

    >>> DDplus()(torch.zeros(1, 3, 11)).shape
    torch.Size([1, 4000])
    """

    def __init__(self) -> None:
        super().__init__()
        _add(self, allcnn())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the histograms."""
        return _find(self, super().forward(x)[:, None])


def _add(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, (outputs, inputs, *width) in shapes.items():
        made: nn.Module
        if width:
            made = Convolution(inputs, outputs, width[0], padding="same")
        else:
            made = nn.Linear(inputs, outputs)
        module.add_module(name, made)


def _find(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the histograms of vertices from the layers of AllCNN."""
    *layers, last = allcnn()
    for name in layers:
        x = leaky_relu(module.get_submodule(name)(x), LEAK)
    result: torch.Tensor = softplus(module.get_submodule(last)(x))[:, 0]
    return result


def ratio_loss(
    prediction: torch.Tensor, target: torch.Tensor, *, c: float = ASYMMETRY, eps: float = 1e-5
) -> torch.Tensor:
    """Return the asymmetric ratio loss; see :func:`.networks.ratio_cost`."""
    return _mean_of_known(lambda y: ratio_cost(torch, prediction, y, c, eps), target)


def square_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean of ((ŷ − y)/0.01)² over the bins with a target that is not NaN."""
    return _mean_of_known(lambda y: square_cost(prediction, y), target)


def _mean_of_known(
    cost: Callable[[torch.Tensor], torch.Tensor], target: torch.Tensor
) -> torch.Tensor:
    known = ~torch.isnan(target)
    # Masked values must be finite, because 0·NaN in the backward pass is NaN.
    costs = cost(torch.where(known, target, 1.0))
    result: torch.Tensor = torch.where(known, costs, 0.0).sum() / known.sum()
    return result
