"""AllCNN of PV-finder: a convolutional network that finds collision vertices in a histogram.

PV-finder: Fang et al. 2019, *A hybrid deep learning approach to vertexing* (arXiv:1906.08306).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

BINS: Final = 4000
"""Length of the histogram along the beam."""

CHANNELS: Final = (20, 10, 10, 10, 1)
KERNELS: Final = (25, 15, 15, 15, 5)
DROPOUT: Final = (0.15, 0.15, 0.15, 0.15, 0.35)
LAST_KERNEL: Final = 91


class AllCNN(nn.Sequential):
    """Five convolutions, each with LeakyReLU (0.01) and dropout, and a filter with softplus.

    Input: float, shape (batch, 1, 4000). Output: float, shape (batch, 4000), all positive.

    >>> AllCNN()(torch.zeros(2, 1, BINS)).shape
    torch.Size([2, 4000])
    """

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        before = 1
        for channels, kernel, dropout in zip(CHANNELS, KERNELS, DROPOUT, strict=True):
            layers += [
                nn.Conv1d(before, channels, kernel, padding="same"),
                nn.LeakyReLU(0.01),
                nn.Dropout(dropout),
            ]
            before = channels
        filter_ = nn.Conv1d(before, 1, LAST_KERNEL, padding="same")
        super().__init__(*layers, filter_, nn.Softplus(), nn.Flatten())


def loss(
    prediction: torch.Tensor, target: torch.Tensor, *, c: float = 5.0, eps: float = 1e-5
) -> torch.Tensor:
    """Return the asymmetric ratio loss, the mean over the bins whose target is not NaN.

        r = |(ŷ + ε) / (y + ε)|,    L = −ln(2r / (r² + 1)) · (1 + c·e^(−r))

    A prediction that is too small (r < 1) costs up to 1 + c times as much as one too large.

    Args:
        prediction: ŷ, shape (batch, 4000).
        target: y, of that shape; NaN where it is unknown.
        c: the asymmetry.
        eps: ε, so that empty bins have a ratio.

    Returns:
        0-d tensor; NaN if every target is NaN.

    >>> loss(torch.tensor([[1.0, 7.0]]), torch.tensor([[1.0, torch.nan]])).item()
    0.0
    """
    known = ~torch.isnan(target)
    # What is masked must be finite: 0·NaN in the backward pass is NaN.
    y = torch.where(known, target, torch.ones_like(target))
    r = ((prediction + eps) / (y + eps)).abs()
    cost = -torch.log(2 * r / (r * r + 1)) * (1 + c * torch.exp(-r))
    return torch.where(known, cost, torch.zeros_like(cost)).sum() / known.sum()
