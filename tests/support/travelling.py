"""A model in both frameworks whose tensors have axes of one length, and gradients for both."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

N = 3


class InTorch(nn.Module):
    """A convolution, a norm with running statistics, dropout, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(N, N, N, padding=1)
        self.norm = nn.BatchNorm2d(N)
        self.drop = nn.Dropout(0.2)
        self.first = nn.Linear(N, N)
        self.second = nn.Linear(N, N)

    def forward(self, x: Any) -> Any:
        x = self.norm(self.conv(x)).mean((2, 3))
        return self.second(torch.relu(self.first(self.drop(x))))


class InFlax(nnx.Module):
    """The same, of other names."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.kernels = nnx.Conv(N, N, (N, N), rngs=rngs)
        self.norm = nnx.BatchNorm(N, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.z = nnx.Linear(N, N, rngs=rngs)
        self.a = nnx.Linear(N, N, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.norm(self.kernels(x)).mean((1, 2))
        return self.a(nnx.relu(self.z(self.drop(x))))


NAMES: dict[str, tuple[tuple[str, ...], tuple[int, ...] | None]] = {
    "conv.weight": (("kernels", "kernel"), (2, 3, 1, 0)),
    "conv.bias": (("kernels", "bias"), None),
    "norm.weight": (("norm", "scale"), None),
    "norm.bias": (("norm", "bias"), None),
    "first.weight": (("z", "kernel"), (1, 0)),
    "first.bias": (("z", "bias"), None),
    "second.weight": (("a", "kernel"), (1, 0)),
    "second.bias": (("a", "bias"), None),
}
"""Where each parameter is in Flax, and the order of PyTorch's axes there: written by hand."""

Arrays = dict[str, np.ndarray]


def torch_run(make: Any, steps: int = 2, **given: Any) -> tuple[InTorch, Any]:
    """Return a model and its optimizer after some steps."""
    torch.manual_seed(0)
    model = InTorch()
    optimizer = make(model.parameters(), **given)
    for i in range(steps):
        feed_torch(model, optimizer, gradients(i))
    model.norm.running_mean += torch.randn(N)
    return model, optimizer


def gradients(seed: int) -> Arrays:
    """Return gradients by the names in PyTorch."""
    random = np.random.default_rng(seed)
    shapes = {name: p.shape for name, p in InTorch().named_parameters()}
    return {name: random.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def feed_torch(model: Any, optimizer: Any, grads: Arrays) -> None:
    """Make a step of PyTorch's optimizer."""
    for name, p in model.named_parameters():
        p.grad = torch.from_numpy(grads[name].copy()).to(p.dtype)
    optimizer.step()


@nnx.jit
def _update(model: Any, optimizer: Any, grads: Any) -> None:
    optimizer.update(model, grads)


def feed_flax(model: Any, optimizer: Any, grads: Arrays) -> None:
    """Make a step of Flax's optimizer with the same gradients."""
    flat = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    for name, (path, axes) in NAMES.items():
        g = grads[name] if axes is None else grads[name].transpose(axes)
        flat[path] = flat[path].replace(jnp.asarray(g, flat[path].dtype))
    _update(model, optimizer, nnx.from_flat_state(list(flat.items())))


def of_torch(model: Any) -> Arrays:
    """Return a copy of the parameters of PyTorch."""
    return {name: p.detach().float().numpy().copy() for name, p in model.named_parameters()}


def of_flax(model: Any) -> Arrays:
    """Return the parameters of Flax as PyTorch has them."""
    flat = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    found = {}
    for name, (path, axes) in NAMES.items():
        value = np.asarray(flat[path][...], np.float32)
        found[name] = value if axes is None else value.transpose(np.argsort(axes))
    return found


def same(x: Arrays, y: Arrays) -> bool:
    """Tell whether parameters have the same bits."""
    return x.keys() == y.keys() and all(np.array_equal(v, y[k]) for k, v in x.items())


def to_channels_last(model: Any, x: Any) -> Any:
    """Call a model of Flax with an input of PyTorch."""
    return model(x.transpose(0, 2, 3, 1))


def to_channels_first(model: Any, x: Any) -> Any:
    """Call a model of PyTorch with an input of Flax."""
    return model(x.permute(0, 3, 1, 2))
