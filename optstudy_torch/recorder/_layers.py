"""The layers: parameters by name, and the vectors to measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch

from optstudy_core import instruments as core
from optstudy_torch._meshes import let_go_of_gathered, whole

from ._copies import Copies, Vectors, are_small, of_all

MOMENTS: Final = {"m": ("m", "exp_avg"), "v": ("v", "exp_avg_sq")}
"""Names of the moments in states of optstudy and of torch."""


class Layers:
    """The parameters of an optimizer, in its order, or of a model.

    Args:
        model: the model, for the names of the parameters.
        optimizer: the optimizer; ``None``: the parameters of the model.

    Attributes:
        names: the names of the parameters.
        params: the parameters.
        groups: for each parameter, the number of its group; −1 without an optimizer.
        sizes: the number of elements of each parameter; the same object while they are the same.
        together: ``sizes`` if the parameters are small enough to copy all together, or ``None``.
        small_as_whole: whether the parameters are small enough to sum all together.
        starts: the index of the first element of each parameter among all elements.

    Raises:
        TypeError: if a parameter has no real floating dtype.
    """

    names: list[str]
    params: list[torch.Tensor]
    groups: list[int]
    sizes: tuple[int, ...] = ()
    starts: np.ndarray = np.zeros(0, int)
    together: tuple[int, ...] | None

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        self._model, self._optimizer = model, optimizer
        self.collect()

    def collect(self) -> None:
        """Look up the parameters, their names and groups."""
        let_go_of_gathered(self._model)
        known = {p: name for name, p in self._model.named_parameters()}
        if self._optimizer is None:
            found = [(name, p, -1) for p, name in known.items()]
        else:
            found = []
            for i, group in enumerate(self._optimizer.param_groups):
                own = group.get("param_names") or [
                    f"group{i}.{j}" for j in range(len(group["params"]))
                ]
                found += [
                    (known.get(p, name), p, i) for name, p in zip(own, group["params"], strict=True)
                ]
        for name, p, _ in found:
            if not p.is_floating_point():
                raise TypeError(f"{name} of dtype {p.dtype}: allowed are real floating dtypes")
        self.names = _told_apart([name for name, _, _ in found])
        self.params = [p for _, p, _ in found]
        self.groups = [i for _, _, i in found]
        self.small_as_whole = are_small(self.params, as_whole=True)
        sizes = tuple(p.numel() for p in self.params)
        if sizes != self.sizes:
            self.sizes = sizes
            self.starts = np.cumsum([0, *sizes[:-1]]) if sizes else np.zeros(0, int)
        self.together = self.sizes if are_small(self.params) else None

    def collect_if_grown(self) -> None:
        """Look up the parameters if those of the optimizer have changed."""
        assert self._optimizer is not None
        if len(self.params) != sum(len(g["params"]) for g in self._optimizer.param_groups):
            self.collect()

    def vectors(
        self, wanted: Iterable[str], start: Copies, previous: Copies, origin: Copies
    ) -> Vectors:
        """Return the requested vectors; Δ is computed when it is read, in ``start``.

        Args:
            wanted: names of vectors.
            start: the parameters before the step.
            previous: the previous step.
            origin: the parameters at the origin of displacements.
        """
        found: Vectors = {}
        for u in wanted:
            if u == "params":
                found[u] = [p.detach() for p in self.params]
            elif u == "step":
                found[u] = start.differences(self.names, self.params, in_place=True)
            elif u == "displacement":
                found[u] = origin.differences(self.names, self.params, in_place=False)
            elif u == "previous":
                kept = [
                    None if (own := previous.tensors.get(name)) is None else of_all(own, p)
                    for name, p in zip(self.names, self.params, strict=True)
                ]
                # An angle is between vectors of the same layers.
                found[u] = [None] * len(kept) if any(t is None for t in kept) else kept
            else:
                found[u] = self.column(u)
        return found

    def column(self, u: str) -> list[torch.Tensor | None]:
        """Return the gradient or a moment of each layer."""
        if u == "grad":
            return [_gradient(p) for p in self.params]
        return [self._moment(p, u) for p in self.params]

    def _moment(self, p: torch.Tensor, u: str) -> torch.Tensor | None:
        state = {} if self._optimizer is None else self._optimizer.state.get(p, {})
        for name in MOMENTS[u]:
            found = in_state(state, name)
            if found is not None:
                return found
        return None

    def shaped(self, column: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Return whole tensors with the shapes of parameters, except values of sparse gradients."""
        pairs = zip(column, self.params, strict=True)
        wide = [(None if x is None else whole(x), p) for x, p in pairs]
        return [x if x is None or x.numel() != p.numel() else x.view(p.shape) for x, p in wide]

    def of_wrappers(self, wanted: frozenset[str]) -> dict[str, torch.Tensor]:
        """Return numbers from the states of wrappers: norms around clipping, skipped steps."""
        if self._optimizer is None or wanted.isdisjoint(core.OF_WRAPPERS):
            return {}
        state: Mapping[str, Any] = next(iter(self._optimizer.state.values()), {})
        found = {}
        for name in sorted(wanted & core.OF_WRAPPERS.keys()):
            mark, *fields = core.OF_WRAPPERS[name]
            prefix = next((key[: -len(mark)] for key in state if key.endswith(mark)), None)
            if prefix is not None:
                found[name] = torch.stack([state[prefix + field] for field in fields]).sum()
        return found


def in_state(state: Mapping[str, Any], name: str) -> torch.Tensor | None:
    """Return a field of the state of an optimizer, also inside wrappers."""
    for key, value in state.items():
        if key.rpartition(".")[2] == name and isinstance(value, torch.Tensor):
            return value.detach()
    return None


def _told_apart(names: list[str]) -> list[str]:
    """Return unique names; two modules may have the same name.

    >>> _told_apart(["weight", "bias", "weight"])
    ['weight', 'bias', 'weight (2)']
    """
    found: dict[str, None] = {}
    for name in names:
        own, number = name, 1
        while own in found:
            number += 1
            own = f"{name} ({number})"
        found[own] = None
    return list(found)


def _gradient(p: torch.Tensor) -> torch.Tensor | None:
    if p.grad is None:
        return None
    grad = p.grad.detach()
    return grad.coalesce().values() if grad.is_sparse else grad
