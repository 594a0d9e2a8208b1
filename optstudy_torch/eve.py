"""EVE: evaluate the loss along the step of an epoch or of an optimizer; go to the lowest loss.

See :mod:`optstudy_core.epoch.eve`. The parameters are set to θ + s·Δ: s·Δ is computed in the
working dtype, rounded to the dtype of the parameter, and then added.

>>> import torch
>>> model = torch.nn.Linear(1, 1)
>>> x, y = torch.ones(8, 1), 3 * torch.ones(8, 1)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
>>> eve = EVE(optimizer, model)
>>> for _ in range(3):  # one epoch of training
...     optimizer.zero_grad()
...     loss = torch.nn.functional.mse_loss(model(x), y)
...     loss.backward()
...     _ = optimizer.step()
>>> choice = eve.step(lambda: torch.nn.functional.mse_loss(model(x), y))
>>> float(choice.s)  # the parameters moved by 8 more steps like that of the epoch
8.0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from optstudy_core.epoch import eve as core
from optstudy_core.epoch.eve import Choice

from . import _snapshot
from ._meshes import let_go_of_gathered
from ._ranks import average as average_of
from ._ranks import scalar
from ._states import WORKING_DTYPE

__all__ = ["EVE", "Choice"]

_ALONG = ("epoch", "step")
_SEARCHES = ("grid", "march")


class EVE:
    """Search along the step of an epoch, or along the step of the optimizer.

    Args:
        optimizer: any ``torch.optim.Optimizer``; the search moves its parameters.
        model: the model; a search restores its mode (train or eval) and its buffers. FSDP2 needs
            the model, because the search frees the parameters that an evaluation has gathered.
        along: ``"epoch"``: call :meth:`step` at the end of an epoch. ``"step"``: call it instead of
            ``optimizer.step()``, after the gradients are computed.
        search: ``"grid"`` or ``"march"``.
        grid: values of s ≥ 0; default {0, ½, 1, 2, 4, 8}, along a step {0, 1, 3, 10, 100}.
        h: the length of a march in units of Δ, > 0.
        marches: the largest number of marches, ≥ 1.
        include_extension: include the move by EVE in :attr:`delta`.
        average: minimize the mean of the losses of all processes (``torch.distributed``). Each
            evaluation sends a message of eight bytes, so all processes must call :meth:`step`.
            ``False``: the loss is already the same on all processes.

    Attributes:
        delta: Δ of the last epoch (or step), a list of tensors; ``None`` before the first.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a value is not allowed.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module | None = None,
        *,
        along: str = "epoch",
        search: str = "grid",
        grid: Sequence[float] | None = None,
        h: float = 0.1,
        marches: int = 100,
        include_extension: bool = False,
        average: bool = True,
    ) -> None:
        _snapshot.check_model(optimizer, model)
        if along not in _ALONG:
            raise ValueError(f"along = {along!r}: allowed are 'epoch' and 'step'")
        if search not in _SEARCHES:
            raise ValueError(f"search = {search!r}: allowed are 'grid' and 'march'")
        for name, flag in (("include_extension", include_extension), ("average", average)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} = {flag!r}: allowed are True and False")
        core.check_march(h, marches)
        default = core.GRID if along == "epoch" else core.STEP_GRID
        self._grid = core.check_grid(default if grid is None else grid)
        self._optimizer, self._model = optimizer, model
        self._along, self._search = along, search
        self._h, self._marches = h, marches
        self._include_extension, self._average = include_extension, average
        self._start: list[torch.Tensor] | None = None
        self.delta: list[torch.Tensor] | None = None
        if along == "epoch":
            self.begin_epoch()

    def begin_epoch(self) -> None:
        """Begin the epoch now: measure Δ from here. ``step`` calls this method."""
        self._start = _snapshot.clones(_snapshot.parameters(self._optimizer))

    def step(self, closure: Callable[[], Any]) -> Choice:
        """Search, and move the parameters to the lowest loss.

        The search does not change the state of the optimizer.

        Args:
            closure: a function that returns the loss, on any data, without gradients
                (``torch.no_grad`` is on). It may put the model in eval mode. Each call starts with
                the same buffers and random state.

        Returns:
            s, the loss at s, the loss at s = 0, and the number of evaluations.

        Raises:
            TypeError: if ``closure`` is no function.
        """
        if not callable(closure):
            raise TypeError(f"closure = {closure!r}: allowed are functions that return the loss")
        if self._along == "step":
            self._start = _snapshot.clones(_snapshot.parameters(self._optimizer))
            self._optimizer.step()
        choice = self._search_along(closure)
        if self._along == "epoch":
            self.begin_epoch()
        return choice

    @torch.no_grad()
    def _search_along(self, closure: Callable[[], Any]) -> Choice:
        params = _snapshot.parameters(self._optimizer)
        start = self._start
        assert start is not None
        _snapshot.check_start(params, start)
        end = _snapshot.clones(params)
        delta = [e - s for e, s in zip(end, start, strict=True)]
        from_start = self._along == "step" and self._search == "grid"
        base = start if from_start else end

        model = self._model

        def go_to(s: float) -> None:
            for p, b, e, d in zip(params, base, end, delta, strict=True):
                if from_start and s == 1:
                    p.copy_(e)
                elif s == 0:
                    p.copy_(b)
                else:
                    p.copy_(b + (s * d.to(WORKING_DTYPE.get(d.dtype, d.dtype))).to(d.dtype))
            let_go_of_gathered(model)

        modes, buffers = _snapshot.modes(model), _snapshot.buffers(model)
        random = _snapshot.random_state(params)

        def back() -> None:
            _snapshot.restore_modes(modes)
            _snapshot.restore_buffers(model, buffers)
            _snapshot.restore_random_state(random)

        def loss_at(s: float) -> float:
            go_to(s)
            try:
                loss = float(scalar("loss", closure()))
            finally:
                back()
            return average_of(loss, params) if self._average else loss

        try:
            if self._search == "grid":
                choice = core.on_grid(loss_at, self._grid)
            else:
                choice = core.on_march(loss_at, h=self._h, marches=self._marches)
        except BaseException:
            _snapshot.assign(params, end)
            let_go_of_gathered(model)
            raise
        go_to(float(choice.s))
        if self._include_extension:
            delta = [p - s for p, s in zip(params, start, strict=True)]
        self.delta = delta
        return choice
