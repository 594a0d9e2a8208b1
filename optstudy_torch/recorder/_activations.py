"""The outputs of the layers of a model, from hooks, in steps that record them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from optstudy_core import instruments as core


class Activations:
    """Sums of activations and their gradients, by the names of the modules.

    Only modules without submodules are measured, in training mode.

    Args:
        model: the model.
        chosen: the quantities of steps.
        due: a function that returns the quantities of the current step.
    """

    def __init__(
        self, model: torch.nn.Module, chosen: core.Chosen, due: Callable[[], core.Chosen]
    ) -> None:
        self._due = due
        self._sums: dict[str, list[torch.Tensor]] = {}
        self._grads: dict[str, list[torch.Tensor]] = {}
        self._hooks = []
        for name, module in model.named_modules():
            shown = any(chosen.shows(quantity, name) for quantity in chosen.activations)
            if shown and next(module.children(), None) is None:
                self._hooks.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Callable[..., None]:
        def see(module: torch.nn.Module, inputs: Any, outputs: Any) -> None:
            del inputs
            chosen = self._due()
            wanted = [quantity for quantity in chosen.activations if chosen.shows(quantity, name)]
            first = outputs[0] if isinstance(outputs, tuple | list) and outputs else outputs
            if not (wanted and module.training and isinstance(first, torch.Tensor)):
                return
            if not first.is_floating_point():
                return
            with torch.no_grad():
                self._sums.setdefault(name, []).append(core.activation_sums(first.detach()))
            if first.requires_grad and any("grad" in quantity for quantity in wanted):
                first.register_hook(self._see_gradient(name))

        return see

    def _see_gradient(self, name: str) -> Callable[[torch.Tensor], None]:
        def see(gradient: torch.Tensor) -> None:
            with torch.no_grad():
                sums = core.activation_sums(gradient.detach())
            self._grads.setdefault(name, []).append(sums)

        return see

    def take(self) -> dict[str, Any]:
        """Return the sums since the last call, on the device."""
        found = {"sums": self._sums, "grads": self._grads}
        self._sums, self._grads = {}, {}
        return found

    def close(self) -> None:
        """Remove the hooks from the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
