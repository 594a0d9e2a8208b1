"""PV-finder's networks in Flax nnx; see :mod:`studies.problems.pv_finder.torch_models`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .event import BINS
from .networks import (
    DDPLUS_CONVOLUTIONS,
    DDPLUS_DENSE,
    DDPLUS_TRACKS,
    LEAK,
    SCALE,
    allcnn,
    ratio_cost,
    square_cost,
)


def _convolution(outputs: int, inputs: int, width: int) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (width,), padding="SAME", rngs=nnx.Rngs(0))


class AllCNN(nnx.Module):
    """See the PyTorch model of this name; arrays cross in PyTorch's order."""

    def __init__(self, features: int = 1) -> None:
        self.names = tuple(allcnn(features))
        for name, shape in allcnn(features).items():
            setattr(self, name, _convolution(*shape))

    def __call__(self, x: Any) -> Any:
        """Return the histograms."""
        *layers, last = self.names
        x = jnp.swapaxes(x, 1, 2)  # nnx has the channels last
        for name in layers:
            x = nnx.leaky_relu(getattr(self, name)(x), LEAK)
        return nnx.softplus(getattr(self, last)(x))[:, :, 0]


class DDplus(nnx.Module):
    """See the PyTorch model of this name; arrays cross in PyTorch's order."""

    dense: nnx.Linear

    def __init__(self) -> None:
        for name, (outputs, inputs) in (DDPLUS_TRACKS | DDPLUS_DENSE).items():
            setattr(self, name, nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0)))
        for name, shape in DDPLUS_CONVOLUTIONS.items():
            setattr(self, name, _convolution(*shape))

    def __call__(self, x: Any, *masks: Any) -> Any:
        """Return the histograms."""
        x = jax.lax.map(self._of_tracks, x)  # one event at a time, as in PyTorch
        x = jnp.swapaxes(x.reshape(len(x), -1, BINS), 1, 2)
        for i, name in enumerate(DDPLUS_CONVOLUTIONS):
            x = nnx.leaky_relu(getattr(self, name)(x), LEAK)
            x = x * jnp.swapaxes(masks[i], 1, 2) if masks else x
        return nnx.softplus(self.dense(x[:, :, 0])) * SCALE

    def _of_tracks(self, event: Any) -> Any:
        x, present = event[:, :-1], event[:, -1]
        for name in DDPLUS_TRACKS:
            x = nnx.leaky_relu(getattr(self, name)(x), LEAK)
        return present @ x


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
