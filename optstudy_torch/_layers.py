"""The layers of a PyTorch model, for :mod:`optstudy_core.travel`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from optstudy_core.travel.layers import BUFFER, DROPOUT, PARAMETER, Layer, Outline, Place

from ._tensors import ALLOWED, is_memory

_CONVOLUTIONS = {nn.Conv1d: "conv1", nn.Conv2d: "conv2", nn.Conv3d: "conv3"}
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
_LAYERS_OWN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
"""Names of the tensors of a known layer; other tensors are separate parameters."""
_ROLES = {"running_mean": "mean", "running_var": "var", "num_batches_tracked": "count"}


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and the persistent buffers of a model, each once, by name."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, x in model.state_dict(keep_vars=True).items():
        found.setdefault(id(x), (name, x))
    return dict(found.values())


def outline(model: nn.Module) -> Outline:
    """Return the outline of a model.

    Raises:
        TypeError: if a tensor is not dense and real.
    """
    tensors = tensors_of(model)
    for name, x in tensors.items():
        if not isinstance(x, torch.Tensor) or x.layout != torch.strided or x.is_complex():
            raise TypeError(f"{name}: allowed are dense tensors of real numbers")
        if not is_memory(type(x)):
            raise TypeError(f"{name} of type {type(x).__name__}: {ALLOWED}")
    names = {id(x): name for name, x in tensors.items()}
    layers = [x for name, m in model.named_modules() for x in _layers(name, m, names)]
    return Outline(
        tuple(layers),
        {name: tuple(x.shape) for name, x in tensors.items()},
        {name: str(x.dtype).removeprefix("torch.") for name, x in tensors.items()},
        tuple(name for name, x in tensors.items() if isinstance(x, nn.Parameter)),
    )


def _layers(name: str, module: nn.Module, names: dict[int, str]) -> Iterator[Layer]:
    """Yield the layers of a module, without its submodules."""
    own = {k: x for k, x in [*module._parameters.items(), *module._buffers.items()]
           if x is not None and id(x) in names}  # fmt: skip
    if isinstance(module, nn.modules.dropout._DropoutNd):
        yield Layer(name, DROPOUT, {}, {"rate": module.p})
        return
    if isinstance(module, nn.MultiheadAttention):
        yield from _attention(name, module, own, names)
        return
    kind, conventions = _kind(module)
    if kind is not None:
        roles = {k: _ROLES.get(k, k) for k in own if k in _LAYERS_OWN}
        places = {role: Place(names[id(own.pop(k))]) for k, role in roles.items()}
        if places:
            yield Layer(name, kind, places, conventions)
    known = kind is not None or not type(module).__module__.startswith("torch.nn.")
    for k, x in own.items():
        plain = PARAMETER if isinstance(x, nn.Parameter) else BUFFER
        own_kind = plain if known or x.ndim < 2 else type(module).__name__
        yield Layer(f"{name}.{k}" if name else k, own_kind, {"value": Place(names[id(x)])})


def _kind(module: nn.Module) -> tuple[str | None, dict[str, Any]]:
    if isinstance(module, nn.Linear):
        return "linear", {}
    if isinstance(module, nn.Embedding):
        told = {"largest norm": module.max_norm, "padding": module.padding_idx}
        return "embedding", {k: v for k, v in told.items() if v is not None}
    if isinstance(module, _NORMS):
        return "norm", _norm(module)
    return next((k for c, k in _CONVOLUTIONS.items() if isinstance(module, c)), None), {}


def _norm(module: Any) -> dict[str, Any]:
    running = isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
    title = re.sub(r"\dd$", "", type(module).__name__).removeprefix("Sync")
    eps = module.eps
    if eps is None:  # in RMSNorm: that of the dtype
        eps = torch.finfo(getattr(module.weight, "dtype", torch.float32)).eps
    told = {
        "type": title,
        "epsilon": eps,
    }
    if running:
        told |= {
            "momentum of running statistics": module.momentum,
            "running variance over": "n − 1",
        }
    return told


def _attention(
    name: str, module: nn.MultiheadAttention, own: dict[str, Any], names: dict[int, str]
) -> Iterator[Layer]:
    """Yield the three projections, which may be rows of one parameter."""
    own = dict(own)
    told = {"heads": module.num_heads, "dropout of attention": float(module.dropout)}
    packed, biases = own.pop("in_proj_weight", None), own.pop("in_proj_bias", None)
    n = module.embed_dim
    for i, part in enumerate(("query", "key", "value")):
        weight = packed if packed is not None else own.pop(f"{part[0]}_proj_weight")
        rows = (i * n, (i + 1) * n)
        places = {"weight": Place(names[id(weight)], *(rows if packed is not None else ()))}
        if biases is not None:
            places["bias"] = Place(names[id(biases)], *rows)
        yield Layer(f"{name}.{part}" if name else part, "linear", places, told if not i else {})
    for k, x in own.items():  # bias_k, bias_v
        yield Layer(f"{name}.{k}" if name else k, PARAMETER, {"value": Place(names[id(x)])})
