"""The epoch methods on every backend: the same decisions, measurements and parameters.

A case is an open loop: the gradients of every step and the mean loss of every epoch are drawn, the
optimizer and the method do the rest. Where a method evaluates a loss (EVE), it is the distance of
one element to a target, |θ − θ*|, which every library computes alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, ClassVar, Final

import numpy as np
from hypothesis import strategies as st

from optstudy_core import ALGORITHMS, epoch, geometry

from . import backends
from .backends import Run
from .cases import Special, draw_leaf
from .structures import STRUCTURES, at, leaf_dtype, nest, working_dtype

STEPS: Final = 2  # of an epoch
EPOCHS: Final = 8
LR: Final = 0.05

Tree = list[np.ndarray]


@dataclass(frozen=True)
class EpochCase:
    """Some epochs of training with one method.

    Attributes:
        structure: name of a tree in ``STRUCTURES``.
        dtype: of the parameters.
        algorithm: the optimizer.
        options: arguments of the method.
        seed: of parameters and gradients.
        losses: the mean loss of each epoch.
        specials: values of gradients put by hand (``step`` counts over all epochs).
    """

    structure: str
    dtype: str
    algorithm: str
    options: Mapping[str, Any]
    seed: int
    losses: tuple[float, ...]
    specials: tuple[Special, ...] = ()

    @property
    def steps(self) -> int:
        """The number of epochs."""
        return len(self.losses)

    def values(self) -> tuple[Tree, list[list[Tree]], Tree]:
        """Return the parameters, for each epoch and step the gradients, and EVE's target."""
        leaves = STRUCTURES[self.structure]
        rng = np.random.default_rng(self.seed)
        total = self.steps * STEPS
        columns, target = [], []
        for number, leaf in enumerate(leaves):
            drift = rng.normal(size=leaf.shape)
            kind = leaf_dtype(leaf, self.dtype)
            column = draw_leaf(rng, "ordinary", total, leaf.shape)
            for t in range(total):  # mostly one way, so that angles are of every kind
                sign = -1.0 if t // STEPS % 4 == 3 else 1.0
                column[t + 1] = column[t + 1] + sign * drift
            for special in self.specials:
                if special.leaf == number and column[0].size and special.step < total:
                    flat = column[special.step + 1].reshape(-1)
                    flat[special.index % flat.size] = special.value
            with np.errstate(over="ignore"):
                columns.append([np.asarray(x, np.float64).astype(kind) for x in column])
                # On the way of most of the gradients, so that some steps lead to it.
                target.append(np.asarray(column[0] - 0.9 * np.sign(drift)).astype(kind))
        grads = [
            [[c[1 + k * STEPS + i] for c in columns] for i in range(STEPS)]
            for k in range(self.steps)
        ]
        return [c[0] for c in columns], grads, target

    def to_json(self) -> dict[str, Any]:
        """Return the case as JSON values, floats as hexadecimal strings."""
        return {
            "structure": self.structure,
            "dtype": self.dtype,
            "algorithm": self.algorithm,
            "options": {k: list(v) if isinstance(v, tuple) else v for k, v in self.options.items()},
            "seed": self.seed,
            "losses": [x.hex() for x in self.losses],
            "specials": [[s.step, s.leaf, s.index, s.value.hex()] for s in self.specials],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EpochCase:
        """Return the case that was written.

        Raises:
            ValueError: if it is not a case.
        """
        try:
            case = cls(
                structure=data["structure"],
                dtype=data["dtype"],
                algorithm=data["algorithm"],
                options={
                    k: tuple(v) if isinstance(v, list) else v for k, v in data["options"].items()
                },
                seed=data["seed"],
                losses=tuple(float.fromhex(x) for x in data["losses"]),
                specials=tuple(
                    Special(step, leaf, index, float.fromhex(value))
                    for step, leaf, index, value in data["specials"]
                ),
            )
            case.values()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"expected a case of an epoch method, found {error!r}") from error
        return case


@dataclass(frozen=True)
class EpochMethod:
    """A method of ``optstudy_core.epoch`` with the options that it is tried with.

    Attributes:
        name: of the method.
        kind: of the runs below that know how it is used.
        options: some sets of arguments; a compiled function is made for each.
    """

    name: str
    kind: str
    options: tuple[Mapping[str, Any], ...]

    def strategy(self, dtype: str, steps: int, seed: int) -> st.SearchStrategy[EpochCase]:
        """Return a strategy that draws cases of at most ``steps`` epochs (and at most 8)."""
        del seed  # there is no pool that depends on it
        length = max(2, min(steps, EPOCHS))
        finite = st.floats(-4, 4, width=32, allow_subnormal=False)
        loss = finite | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0])
        special = st.builds(
            Special,
            step=st.integers(0, length * STEPS - 1),
            leaf=st.integers(0, 3),
            index=st.integers(0, 20),
            value=st.sampled_from([0.0, 1.0, 1e30, math.nan, math.inf]),
        )
        return st.builds(
            EpochCase,
            structure=st.sampled_from(["nested", "vectors"]),
            dtype=st.just(dtype),
            algorithm=st.sampled_from(["sgd", "adam"]),
            options=st.sampled_from(self.options),
            seed=st.integers(0, 2**16),
            # As long as can be: a compiled function is made for each length.
            losses=st.tuples(*[loss] * length) | st.tuples(*[finite] * length),
            specials=st.lists(special, max_size=1).map(tuple),
        )

    def run(self, backend: backends.Backend, case: EpochCase) -> Run:
        """Train a case on a backend."""
        if isinstance(backend, backends.TorchBackend):
            return _Torch(self, case, backend).run()
        if isinstance(backend, backends.JAXBackend):
            return _in_jax(self, case, backend)
        return _NumPy(self, case).run()

    @property
    def module(self) -> ModuleType:
        """The module of the core, of a method that has a factor on the learning rate."""
        module: ModuleType = getattr(epoch, self.name)
        return module


METHODS: Final[Mapping[str, EpochMethod]] = {
    method.name: method
    for method in (
        EpochMethod(
            "direction",
            "control",
            (
                {"r": 0.3},
                {"r": 0.2, "centred": True},
                {"r": 0.15, "min_lr": 0.03, "max_lr": 0.07},
            ),
        ),
        EpochMethod(
            "careful",
            "control",
            (
                {},
                {"tau": 0.05, "gamma": 0.7, "growth": 1.05, "patience": 2},
                {"reference": "accepted", "rollback": True},
                {"patience": 2, "rollback": True},
            ),
        ),
        EpochMethod(
            "direction_careful",
            "control",
            (
                {"r": 0.3},
                {"r": 0.3, "rollback": True},
                {"r": 0.3, "rollback": True, "patience": 2, "reference": "accepted"},
            ),
        ),
        EpochMethod(
            "eve",
            "eve",
            (
                {"along": "epoch", "search": "grid"},
                {"along": "epoch", "search": "march", "h": 0.25, "marches": 20},
                {"along": "step", "search": "grid", "grid": (0.0, 0.5, 1.0, 3.0)},
                {"along": "step", "search": "march"},
            ),
        ),
        EpochMethod("extrapolation", "move", ({}, {"lr": 0.7})),
        EpochMethod("momentum", "move", ({}, {"lr": 0.5, "beta": 0.8})),
        EpochMethod("backstep", "backstep", ({},)),
    )
}
"""The epoch methods by name."""


def _undone(loss: float) -> bool:
    """Tell whether a case of backstep undoes an epoch."""
    return not loss <= 1.0  # also where it is NaN


class _Rows:
    """What is noted of every epoch."""

    def __init__(self) -> None:
        self.run = Run()
        self._columns: dict[str, list[Any]] = {}

    def add(self, params: Tree, **noted: Any) -> None:
        self.run.trajectory.append(params)
        for name, value in noted.items():
            self._columns.setdefault(name, []).append(value)

    def done(self) -> Run:
        for name, column in self._columns.items():
            values = np.asarray(column).astype(np.float64)
            if name == "size":
                self.run.norms[name] = values
            elif name == "cosine":
                self.run.angles[name] = values
            else:
                self.run.state[name] = values
        return self.run


class _NumPy:
    """The definition: functions of the core, bare arrays, copies kept by hand."""

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
        rows = _Rows()
        getattr(self, f"_{self.method.kind}")(rows)
        return rows.done()

    def _delta(self) -> Tree:
        return [np.asarray(p - s) for p, s in zip(self.theta, self.begin, strict=True)]

    def _measure(self) -> tuple[Tree, float, float]:
        delta = self._delta()
        cosine = math.nan if self.previous is None else geometry.cosine(delta, self.previous)
        return delta, geometry.norm(delta), cosine

    def _control(self, rows: _Rows) -> None:
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
        return lambda theta: _distance(np, theta, self.target)

    def _eve(self, rows: _Rows) -> None:
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

    def _move(self, rows: _Rows) -> None:
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

    def _backstep(self, rows: _Rows) -> None:
        kept = (list(self.theta), list(self.inner))
        for grads, loss in zip(self.grads, self.case.losses, strict=True):
            self._train(grads, LR)
            if _undone(loss):
                self.theta, self.inner = list(kept[0]), list(kept[1])
            kept = (list(self.theta), list(self.inner))
            rows.add(list(self.theta))


def _distance(xp: Any, theta: Any, target: Any) -> Any:
    """Return |θ − θ*| of one element, in the parameters' dtype: one rounding."""
    return xp.abs(theta[-1].reshape(-1)[0] - target[-1].reshape(-1)[0])


class _Torch:
    """What ``optstudy_torch`` has for each method."""

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
        rows = _Rows()
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

    def _control(self, rows: _Rows) -> None:
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

    def _eve(self, rows: _Rows) -> None:
        import torch

        from optstudy_torch import EVE

        eve = EVE(self.optimizer, **self.case.options)

        def loss() -> Any:
            return _distance(torch, self.params, self.target)

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

    def _move(self, rows: _Rows) -> None:
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

    def _backstep(self, rows: _Rows) -> None:
        from optstudy_torch.epoch import Backstep

        backstep = Backstep(self.optimizer)
        for grads, loss in zip(self.grads, self.case.losses, strict=True):
            self._train(grads)
            if _undone(loss):
                backstep.undo()
            backstep.step()
            rows.add(self._now())


def _in_jax(method: EpochMethod, case: EpochCase, backend: backends.JAXBackend) -> Run:
    """Train a case with ``optstudy_jax.epoch``; jitted: every epoch in one ``scan``."""
    import jax
    import jax.numpy as jnp

    paths = [leaf.path for leaf in STRUCTURES[case.structure]]
    with backend.here():
        params, grads, target = case.values()
        options = tuple(sorted(case.options.items()))
        start, one_epoch, jitted = _jax_functions(
            method.name, case.algorithm, options, case.structure, backend.jitted
        )
        fixed = nest(paths, [jnp.asarray(t) for t in target])
        carry = start(nest(paths, [jnp.asarray(p) for p in params]))
        losses = np.asarray(case.losses, np.float32)
        columns = [
            jnp.asarray(np.stack([np.stack([row[i] for row in steps]) for steps in grads]))
            for i in range(len(paths))
        ]
        stacked = nest(paths, columns)
        if jitted is not None:
            _, noted = jitted(carry, stacked, losses, fixed)
        else:
            every = []
            for k in range(case.steps):
                mine = jax.tree.map(lambda x, k=k: x[k], stacked)
                carry, row = one_epoch(carry, mine, losses[k], fixed)
                every.append(row)
            noted = jax.tree.map(lambda *x: np.stack([np.asarray(v) for v in x]), *every)
        trajectory, named = noted
        rows, counts = _Rows(), {}
        if method.kind == "eve" and case.options["along"] == "step":  # a row for each step
            trajectory, named = jax.tree.map(
                lambda x: np.asarray(x).reshape(-1, *np.shape(x)[2:]), (trajectory, named)
            )
        leaves = [np.asarray(at(trajectory, path)) for path in paths]
        counts = {name: np.asarray(column) for name, column in named.items()}
        for k in range(len(leaves[0])):
            rows.add([x[k] for x in leaves], **{name: c[k] for name, c in counts.items()})
    return rows.done()


@cache
def _jax_functions(
    name: str,
    algorithm: str,
    options: tuple[tuple[str, Any], ...],
    structure: str,
    jitted: bool,
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any] | None]:
    """Return the start, one epoch and, jitted, all of them; cached, as each compiles anew."""
    import jax
    import jax.numpy as jnp
    import optax

    import optstudy_jax
    from optstudy_core.epoch import backstep
    from optstudy_jax import epoch as methods
    from optstudy_jax.epoch._trees import to_float32

    make = optstudy_jax.from_core(algorithm)
    given = dict(options)

    def train(tx: Any, carry: Any, grads: Any) -> Any:
        def step(carry: Any, g: Any) -> Any:
            params, state = carry
            updates, state = tx.update(g, state, params)
            return (optax.apply_updates(params, updates), state), None

        if jitted:
            return jax.lax.scan(step, carry, grads)[0]
        for i in range(STEPS):
            carry, _ = step(carry, jax.tree.map(lambda x, i=i: x[i], grads))
        return carry

    if METHODS[name].kind == "control":
        control = getattr(methods, name)(**given)
        controlled = methods.with_control(make, control, LR)

        def start(params: Any) -> Any:
            return params, controlled.init(params)

        def one_epoch(carry: Any, grads: Any, loss: Any, target: Any) -> Any:
            params, state = train(controlled, carry, grads)
            params, state = methods.end_epoch(control, params, state, value=loss)
            metrics = state.control.metrics
            noted = {"factor": state.control.decided.factor}
            noted |= {n: getattr(metrics, n) for n in ("multiplier", "jump", "cut")}
            if name != "careful":
                noted |= {"size": metrics.size, "cosine": metrics.cosine}
            return (params, state), (params, noted)

    elif name == "eve":
        tx = make(LR)
        along, search = given.pop("along"), given.pop("search")

        def start(params: Any) -> Any:
            return params, tx.init(params)

        def one_epoch(carry: Any, grads: Any, loss: Any, target: Any) -> Any:
            def value(theta: Any) -> Any:
                return _distance(jnp, jax.tree.leaves(theta), jax.tree.leaves(target))

            def noted(params: Any, choice: Any) -> Any:
                return params, {"s": choice.s, "loss": choice.loss, "start": choice.start}

            if along == "epoch":
                begin = carry[0]
                params, state = train(tx, carry, grads)
                function = methods.eve if search == "grid" else methods.eve_march
                params, choice = function(params, begin, value, **given)
                return (params, state), noted(params, choice)
            every = []
            for i in range(STEPS):
                params, state = carry
                updates, state = tx.update(jax.tree.map(lambda x, i=i: x[i], grads), state, params)
                if search == "grid":
                    updates, choice = methods.eve_step(updates, params, value, **given)
                    params = optax.apply_updates(params, updates)
                else:
                    after = optax.apply_updates(params, updates)
                    params, choice = methods.eve_march(after, params, value, **given)
                carry = (params, state)
                every.append(noted(params, choice))
            return carry, jax.tree.map(lambda *x: jnp.stack(x), *every)

    elif METHODS[name].kind == "move":
        tx = make(LR)

        def start(params: Any) -> Any:
            zeros = jax.tree.map(jnp.zeros_like, params)
            return (params, tx.init(params)), zeros, methods.epoch_momentum_init(params)

        def one_epoch(carry: Any, grads: Any, loss: Any, target: Any) -> Any:
            run, previous, average = carry
            begin = run[0]
            params, state = train(tx, run, grads)
            if name == "extrapolation":
                step = jax.tree.map(jnp.subtract, params, begin)
                noted = {
                    "size": optstudy_jax.geometry.norm(step),
                    "cosine": optstudy_jax.geometry.cosine(step, previous),
                }
                noted = {k: to_float32(v) for k, v in noted.items()}
                params, previous = methods.extrapolate(params, begin, previous, **given)
            else:
                noted = {}
                average, params = methods.epoch_momentum(average, params, begin, **given)
            return ((params, state), previous, average), (params, noted)

    else:
        tx = make(LR)

        def start(params: Any) -> Any:
            run = (params, tx.init(params))
            return run, backstep.init(run)

        def one_epoch(carry: Any, grads: Any, loss: Any, target: Any) -> Any:
            run, kept = carry
            run = train(tx, run, grads)
            kept, run = methods.backstep(kept, run, undo=~(loss <= 1.0))
            return (run, kept), (run[0], {})

    def all_epochs(carry: Any, grads: Any, losses: Any, target: Any) -> Any:
        def body(carry: Any, epoch: Any) -> Any:
            return one_epoch(carry, epoch[0], epoch[1], target)

        return jax.lax.scan(body, carry, (grads, losses))

    return start, one_epoch, jax.jit(all_epochs) if jitted else None
