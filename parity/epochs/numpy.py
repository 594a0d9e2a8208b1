"""The epoch methods in NumPy, the definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from optstudy_core import ALGORITHMS, epoch, geometry
from parity.backends import Run
from parity.structures import working_dtype

from .cases import LR, EpochCase, Tree
from .methods import EpochMethod
from .rows import Rows, distance, undone


class NumPyRun:
    """The definition: functions of the core on plain arrays, with explicit copies."""

    def __init__(self, method: EpochMethod, case: EpochCase) -> None:
        self.method, self.case = method, case
        self.rule = ALGORITHMS[case.algorithm]
        self.theta, self.grads, self.target = case.values()
        self.inner = [self.rule.start(self._work(p), self.rule.defaults()) for p in self.theta]
        self.begin: Tree = list(self.theta)
        self.previous: Tree | None = None

    @staticmethod
    def _work(x: np.ndarray) -> np.ndarray:
        return x.astype(working_dtype(x.dtype))

    def _train(self, grads: list[Tree], rate: float) -> None:
        for row in grads:
            for i, g in enumerate(row):
                p = self.theta[i]
                self.inner[i], step = self.rule.update(
                    self.inner[i],
                    self._work(g),
                    self._work(p),
                    **self.rule.defaults() | {"lr": rate},
                )
                self.theta[i] = np.asarray(p + np.asarray(step).astype(p.dtype))

    @np.errstate(all="ignore")
    def run(self) -> Run:
        rows = Rows()
        getattr(self, f"_{self.method.kind}")(rows)
        return rows.done()

    def _delta(self) -> Tree:
        return [np.asarray(p - s) for p, s in zip(self.theta, self.begin, strict=True)]

    def _measure(self) -> tuple[Tree, float, float]:
        delta = self._delta()
        cosine = math.nan if self.previous is None else geometry.cosine(delta, self.previous)
        return delta, geometry.norm(delta), cosine

    def _control(self, rows: Rows) -> None:
        values = dict(self.case.options)
        bounds = {k: values.pop(k) for k in ("min_lr", "max_lr") if k in values}
        rollback = values.get("rollback", False)
        if self.method.name == "careful":
            values.pop("rollback", None)
        method = self.method.module
        state, kept = method.init(), None
        measures = self.method.name != "careful"
        for grads, loss in zip(self.grads, self.case.losses, strict=True):
            self.begin = list(self.theta)
            if kept is None or not float(getattr(state, "jumps", 0)) > 0:
                kept = (list(self.theta), list(self.inner), self.previous)
            rate = epoch.rate.scaled(LR, np.float64(state.factor), **bounds)
            self._train(grads, float(rate))
            delta, size, cosine = self._measure()
            low, high = epoch.rate.limits(LR, **bounds)
            state, decision = method.update(
                state, epoch.Measured(cosine, loss), low=low, high=high, **values
            )
            self.previous = delta
            if rollback and decision.cut:
                self.theta, self.inner, self.previous = list(kept[0]), list(kept[1]), kept[2]
            measured = {"size": size, "cosine": cosine} if measures else {}
            rows.add(
                list(self.theta),
                factor=state.factor,
                multiplier=decision.multiplier,
                jump=decision.jump,
                cut=decision.cut,
                **{name: np.float32(x) for name, x in measured.items()},
            )

    def _loss(self) -> Callable[[Tree], Any]:
        return lambda theta: distance(np, theta, self.target)

    def _eve(self, rows: Rows) -> None:
        options = dict(self.case.options)
        along, search = options.pop("along"), options.pop("search")
        value = self._loss()
        default = epoch.eve.GRID if along == "epoch" else epoch.eve.STEP_GRID
        grid = epoch.eve.check_grid(options.pop("grid", default))

        def further(base: Tree, delta: Tree, s: float) -> Tree:
            moved = [
                np.asarray(b + np.asarray(s * self._work(d)).astype(d.dtype))
                for b, d in zip(base, delta, strict=True)
            ]
            return base if s == 0 else moved

        for grads in self.grads:
            for part in [grads] if along == "epoch" else [[g] for g in grads]:
                self.begin = list(self.theta)
                self._train(part, LR)
                delta, end = self._delta(), list(self.theta)
                from_start = along == "step" and search == "grid"
                base = self.begin if from_start else end

                def point(
                    s: float,
                    base: Tree = base,
                    delta: Tree = delta,
                    end: Tree = end,
                    after: bool = from_start,
                ) -> Tree:
                    return end if after and s == 1 else further(base, delta, s)

                def loss_at(s: float, point: Any = point) -> float:
                    return float(value(point(s)))

                if search == "grid":
                    choice = epoch.eve.on_grid(loss_at, grid)
                else:
                    choice = epoch.eve.on_march(loss_at, **options)
                self.theta = list(point(float(choice.s)))
                rows.add(list(self.theta), s=choice.s, loss=choice.loss, start=choice.start)

    def _move(self, rows: Rows) -> None:
        options = self.case.options
        averages = [epoch.momentum.init(self._work(p)) for p in self.theta]
        for grads in self.grads:
            self.begin = list(self.theta)
            self._train(grads, LR)
            moved: Tree
            if self.method.name == "extrapolation":
                delta, size, cosine = self._measure()
                c = epoch.extrapolation.coefficient(cosine, **options)
                moved = [
                    epoch.extrapolation.moved(self._work(p), self._work(d), c)
                    for p, d in zip(self.theta, delta, strict=True)
                ]
                self.previous = delta
                noted = {"size": np.float32(size), "cosine": np.float32(cosine)}
            else:
                pairs = [
                    epoch.momentum.update(m, self._work(p), self._work(b), **options)
                    for m, p, b in zip(averages, self.theta, self.begin, strict=True)
                ]
                averages, moved = [m for m, _ in pairs], [p for _, p in pairs]
                noted = {}
            self.theta = [
                np.asarray(m).astype(p.dtype) for m, p in zip(moved, self.theta, strict=True)
            ]
            rows.add(list(self.theta), **noted)

    def _backstep(self, rows: Rows) -> None:
        kept = (list(self.theta), list(self.inner))
        for grads, loss in zip(self.grads, self.case.losses, strict=True):
            self._train(grads, LR)
            if undone(loss):
                self.theta, self.inner = list(kept[0]), list(kept[1])
            kept = (list(self.theta), list(self.inner))
            rows.add(list(self.theta))
