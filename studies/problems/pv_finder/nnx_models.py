"""The networks of PV-finder in Flax nnx; see :mod:`studies.problems.pv_finder.torch_models`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .event import BINS, FEATURES
from .networks import (
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


class AllCNN(nnx.Module):
    """See the PyTorch model of this name; arrays cross in PyTorch's order."""

    def __init__(self, features: int = 1) -> None:
        _add(self, allcnn(features))

    def __call__(self, x: Any) -> Any:
        """Return the histograms."""
        return _find(self, jnp.swapaxes(x, 1, 2))  # nnx has the channels last


class TracksToKernel(nnx.Module):
    """See the PyTorch model of this name; arrays cross in PyTorch's order."""

    dense: nnx.Linear

    def __init__(self) -> None:
        _add(self, TRACKS_TO_KERNEL)

    def __call__(self, x: Any) -> Any:
        """Return the kernels."""
        interval = x[..., -2].astype(int) + INTERVALS * jnp.arange(len(x))[:, None]
        rows = x[..., :FEATURES].reshape(-1, FEATURES)
        for name in OF_TRACKS:
            rows = nnx.leaky_relu(getattr(self, name)(rows), LEAK)
        rows = rows * x[..., -1].reshape(-1, 1)
        sums = jax.ops.segment_sum(rows, interval.reshape(-1), len(x) * INTERVALS)
        y = jnp.swapaxes(sums.reshape(-1, CHANNELS, INTERVAL_BINS), 1, 2)
        for name in MIXING:
            y = nnx.leaky_relu(getattr(self, name)(y), LEAK)
        return SCALE * nnx.softplus(self.dense(y[:, :, 0])).reshape(len(x), BINS)


class DDplus(TracksToKernel):
    """See the PyTorch model of this name; arrays cross in PyTorch's order."""

    def __init__(self) -> None:
        super().__init__()
        _add(self, allcnn())

    def __call__(self, x: Any) -> Any:
        """Return the histograms."""
        return _find(self, super().__call__(x)[:, :, None])


def _add(module: nnx.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    rngs = nnx.Rngs(0)
    for name, (outputs, inputs, *width) in shapes.items():
        made: nnx.Module
        if width:
            made = nnx.Conv(inputs, outputs, tuple(width), padding="SAME", rngs=rngs)
        else:
            made = nnx.Linear(inputs, outputs, rngs=rngs)
        setattr(module, name, made)


def _find(module: nnx.Module, x: Any) -> Any:
    """Return the histograms of vertices, by the layers of AllCNN."""
    *layers, last = allcnn()
    for name in layers:
        x = nnx.leaky_relu(getattr(module, name)(x), LEAK)
    return nnx.softplus(getattr(module, last)(x))[:, :, 0]


def ratio_loss(prediction: Any, target: Any) -> Any:
    """Return the asymmetric ratio loss; see :func:`.networks.ratio_cost`."""
    return _mean_of_known(lambda y: ratio_cost(jnp, prediction, y), target)


def square_loss(prediction: Any, target: Any) -> Any:
    """Return the mean of ((ŷ − y)/0.01)² over the bins whose target is not NaN."""
    return _mean_of_known(lambda y: square_cost(prediction, y), target)


def _mean_of_known(cost: Any, target: Any) -> Any:
    known = ~jnp.isnan(target)
    costs = cost(jnp.where(known, target, 1.0))
    return jnp.where(known, costs, 0.0).sum() / known.sum()
