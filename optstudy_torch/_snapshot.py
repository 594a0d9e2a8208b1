"""Copies of the state of a training run, restored to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch

from ._meshes import let_go_of_gathered, placed
from ._tensors import is_shared


def parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the parameters of every group, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def clones(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return copies that share no memory."""
    return [t.detach().clone() for t in tensors]


@torch.no_grad()
def assign(tensors: Iterable[torch.Tensor], values: Iterable[torch.Tensor]) -> None:
    """Write values into tensors."""
    for t, value in zip(tensors, values, strict=True):
        t.copy_(value)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[int, Any]:
    """Return a copy of the optimizer's state, by the number of the parameter."""
    # In one call: small parameters' states are parts of one array, which is copied once.
    return copy.deepcopy(
        {i: optimizer.state[p] for i, p in enumerate(parameters(optimizer)) if p in optimizer.state}
    )


def restore_optimizer_state(optimizer: torch.optim.Optimizer, kept: dict[int, Any]) -> None:
    """Restore a state, also if entries were added or removed since."""
    kept = copy.deepcopy(kept)
    for i, p in enumerate(parameters(optimizer)):
        if i in kept:
            optimizer.state[p] = kept[i]
        else:
            optimizer.state.pop(p, None)


def buffers(model: torch.nn.Module | None) -> dict[str, torch.Tensor]:
    """Return copies of a model's buffers (statistics of BatchNorm) by name."""
    if model is None:
        return {}
    return {name: b.detach().clone() for name, b in model.named_buffers()}


@torch.no_grad()
def restore_buffers(model: torch.nn.Module | None, kept: dict[str, torch.Tensor]) -> None:
    """Write buffers back; one that was replaced by another tensor is replaced again."""
    if model is None:
        return
    for name, value in kept.items():
        owner, _, last = name.rpartition(".")
        module = model.get_submodule(owner)
        now = module._buffers.get(last)
        same = now is not None and now.shape == value.shape and now.dtype == value.dtype
        if same and now is not None:
            now.copy_(value)
        else:
            module._buffers[last] = value.clone()


def take(
    optimizer: torch.optim.Optimizer,
    model: torch.nn.Module | None,
    params: list[torch.Tensor] | None = None,
) -> dict[str, Any]:
    """Return copies of all state that an undone epoch restores; ``params`` may be copies."""
    own = parameters(optimizer)
    return {
        "params": clones(own) if params is None else params,
        "optimizer": optimizer_state(optimizer),
        "buffers": buffers(model),
        "random": random_state(own),
    }


def restore(
    kept: dict[str, Any], optimizer: torch.optim.Optimizer, model: torch.nn.Module | None
) -> None:
    """Restore the result of :func:`take`; parameters added since do not change."""
    assign(parameters(optimizer)[: len(kept["params"])], kept["params"])
    let_go_of_gathered(model)
    restore_optimizer_state(optimizer, kept["optimizer"])
    restore_buffers(model, kept["buffers"])
    restore_random_state(kept["random"])


def loaded(
    name: str, tensors: list[torch.Tensor] | None, params: list[torch.Tensor]
) -> list[torch.Tensor] | None:
    """Return copies of saved tensors, one for each parameter, on the parameters' devices.

    Raises:
        ValueError: if their shapes are not those of the parameters.
    """
    if tensors is None:
        return None
    shapes, wanted = [tuple(t.shape) for t in tensors], [tuple(p.shape) for p in params]
    if shapes != wanted:
        raise ValueError(f"state_dict with {name} of shapes {shapes}: allowed are {wanted}")
    copies = [t.detach().to(p.device, copy=True) for t, p in zip(tensors, params, strict=True)]
    return [placed(t, p) for t, p in zip(copies, params, strict=True)]


def loaded_all(kept: dict[str, Any], params: list[torch.Tensor]) -> dict[str, Any]:
    """Return a saved result of :func:`take`, placed like the parameters; errors as :func:`loaded`.

    States from another number of processes are whole tensors.
    """
    states = {
        i: {n: placed(x, params[i]) if isinstance(x, torch.Tensor) else x for n, x in own.items()}
        for i, own in kept["optimizer"].items()
    }
    return kept | {"params": loaded("params", kept["params"], params), "optimizer": states}


def check_saved(state_dict: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse a saved state of another method than ``own``.

    Raises:
        ValueError: if the methods or the entries differ.
    """
    if set(state_dict) != set(own) or state_dict["method"] != own["method"]:
        raise ValueError(
            f"state_dict of {state_dict.get('method')!r} with {sorted(map(str, state_dict))}: "
            f"allowed is {own['method']!r} with {sorted(own)}"
        )


def check_model(optimizer: Any, model: Any, moves: bool = True) -> None:
    """Refuse arguments that are no optimizer, or neither a model nor ``None``.

    Args:
        optimizer: an optimizer of any class of torch.
        model: the model of the parameters.
        moves: whether parameters are moved between the steps of the optimizer.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if ``DTensor``s are moved without a model: FSDP2 would use the parameters that
            it has gathered before, and every loss would be the same.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer of type {type(optimizer).__name__}: allowed are torch.optim.Optimizer"
        )
    if model is not None and not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model of type {type(model).__name__}: allowed are None and torch.nn.Module"
        )
    if moves and model is None and any(map(is_shared, parameters(optimizer))):
        raise ValueError(
            "model = None for parameters that are DTensors: pass the model, because FSDP2 would "
            "use the parameters that it has gathered before the move"
        )


def check_start(params: list[torch.Tensor], start: list[torch.Tensor]) -> None:
    """Refuse parameters that are not those at the start of the epoch.

    Raises:
        ValueError: if the shapes differ.
    """
    if [p.shape for p in params] != [s.shape for s in start]:
        raise ValueError(
            f"parameters of shapes {[tuple(p.shape) for p in params]}: at the start of the epoch "
            f"they had {[tuple(s.shape) for s in start]} (see begin_epoch)"
        )


def modes(model: torch.nn.Module | None) -> list[tuple[torch.nn.Module, bool]]:
    """Return which modules of a model are in training mode."""
    return [] if model is None else [(m, m.training) for m in model.modules()]


def restore_modes(kept: list[tuple[torch.nn.Module, bool]]) -> None:
    """Restore the modes of the modules."""
    for module, training in kept:
        module.training = training


def random_state(tensors: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state of torch's generators, of the CPU and of the tensors' CUDA devices."""
    kept = {"cpu": torch.get_rng_state()}
    for device in sorted({str(t.device) for t in tensors if t.device.type == "cuda"}):
        kept[device] = torch.cuda.get_rng_state(device)
    return kept


def restore_random_state(kept: dict[str, torch.Tensor]) -> None:
    """Restore the generators of torch."""
    for device, state in kept.items():
        if device == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)
