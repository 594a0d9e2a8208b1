"""The epoch methods in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from parity import backends
from parity.backends import Run

from .cases import LR, EpochCase, Tree
from .methods import EpochMethod
from .rows import Rows, distance, undone


class TorchRun:
    """Each method with the classes of ``optstudy_torch``."""

    def __init__(
        self, method: EpochMethod, case: EpochCase, backend: backends.TorchBackend
    ) -> None:
        import torch

        import optstudy_torch

        self.method, self.case, self.backend = method, case, backend
        params, self.grads, target = case.values()
        self.params = [torch.nn.Parameter(backend.tensor(p)) for p in params]
        self.target = [backend.tensor(t) for t in target]
        make = optstudy_torch.from_core(case.algorithm)
        self.optimizer = make(self.params, lr=LR, compile=backend.compiled)

    def run(self) -> Run:
        rows = Rows()
        getattr(self, f"_{self.method.kind}")(rows)
        return rows.done()

    def _give(self, row: Tree) -> None:
        for p, g in zip(self.params, row, strict=True):
            p.grad = self.backend.tensor(g)

    def _train(self, grads: list[Tree]) -> None:
        for row in grads:
            self._give(row)
            self.optimizer.step()

    def _now(self) -> Tree:
        return [backends.from_torch(p) for p in self.params]

    _SCHEDULERS: ClassVar[Mapping[str, str]] = {
        "direction": "DirectionLR",
        "careful": "CarefulLR",
        "direction_careful": "DirectionCarefulLR",
    }

    def _control(self, rows: Rows) -> None:
        from optstudy_torch import lr_scheduler

        scheduler = getattr(lr_scheduler, self._SCHEDULERS[self.method.name])(
            self.optimizer, **self.case.options
        )
        for grads, loss in zip(self.grads, self.case.losses, strict=True):
            self._train(grads)
            scheduler.step(loss)
            decision, noted = scheduler.decision, {}
            if self.method.name != "careful":
                noted = {"size": np.float32(scheduler.size), "cosine": np.float32(scheduler.cosine)}
            rows.add(
                self._now(),
                factor=scheduler.factors[0],
                multiplier=decision.multiplier,
                jump=decision.jump,
                cut=decision.cut,
                **noted,
            )

    def _eve(self, rows: Rows) -> None:
        import torch

        from optstudy_torch import EVE

        eve = EVE(self.optimizer, **self.case.options)

        def loss() -> Any:
            return distance(torch, self.params, self.target)

        def search() -> None:
            choice = eve.step(loss)
            rows.add(self._now(), s=choice.s, loss=choice.loss, start=choice.start)

        for grads in self.grads:
            if self.case.options["along"] == "epoch":
                self._train(grads)
                search()
                continue
            for row in grads:
                self._give(row)
                search()

    def _move(self, rows: Rows) -> None:
        from optstudy_torch.epoch import EpochMomentum, ExtrapolatedEpoch

        kind = ExtrapolatedEpoch if self.method.name == "extrapolation" else EpochMomentum
        move: Any = kind(self.optimizer, **self.case.options)
        for grads in self.grads:
            self._train(grads)
            move.step()
            noted = {}
            if kind is ExtrapolatedEpoch:
                noted = {"size": np.float32(move.size), "cosine": np.float32(move.cosine)}
            rows.add(self._now(), **noted)

    def _backstep(self, rows: Rows) -> None:
        from optstudy_torch.epoch import Backstep

        backstep = Backstep(self.optimizer)
        for grads, loss in zip(self.grads, self.case.losses, strict=True):
            self._train(grads)
            if undone(loss):
                backstep.undo()
            backstep.step()
            rows.add(self._now())
