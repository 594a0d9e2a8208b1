"""A recorder of how a network moves while it trains, for any ``torch.optim.Optimizer``.

>>> import torch
>>> _ = torch.manual_seed(0)
>>> model = torch.nn.Linear(2, 1)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
>>> x, y = torch.randn(8, 2), torch.randn(8, 1)
>>> with Recorder(model, optimizer, epoch=["loss", "step_size", "angle"], step=["grad_norm"]) as r:
...     for _ in range(2):  # epochs of three steps
...         for _ in range(3):
...             optimizer.zero_grad()
...             loss = torch.nn.functional.mse_loss(model(x), y)
...             loss.backward()
...             optimizer.step()
...             r.step(loss)
...         row = r.end_epoch()
>>> list(row), list(row["layers"]), len(r.steps)
(['epoch', 'loss', 'step_size', 'angle', 'layers'], ['weight', 'bias'], 6)

The quantities are those of :mod:`optstudy_core.instruments`. What is measured within a
step stays on the device until the epoch ends: no host synchronisation, no write to a parameter or a
gradient, no draw from a random generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from os import PathLike
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from optstudy_core import geometry as on_host
from optstudy_core import instruments as core
from optstudy_core.arrays.numbers import is_number, nearest

from . import geometry
from .lr_scheduler import _Rates

__all__ = ["Recorder"]

BLOCK: Final = {"cpu": 1 << 19, "cuda": 1 << 22}
"""Elements summed at a time: what fits a CPU's cache, in float64, or keeps a GPU busy."""

ROW: Final = 256
"""Elements whose float32 products are summed in float32, in large layers on a CPU."""

LARGE: Final = 1 << 15
"""Elements from which a layer is large."""

MOMENTS: Final = {"m": ("m", "exp_avg"), "v": ("v", "exp_avg_sq")}
"""Names of the moments in an optimizer's state: ours, and torch's."""

DEFAULT: Final = ("loss", "lr", "step_size", "angle")

OF_THE_OPTIMIZER: Final = frozenset({"m", "v"})

STEP: Final = core.Reduction("dot", ("step", "step"))
PREVIOUS: Final = core.Reduction("dot", ("previous", "previous"))


class Pending(NamedTuple):
    """A step that was measured and is still on the device; ``recorded``: it has a row."""

    number: int
    epoch: int
    blocks: Blocks
    rates: list[Any]
    loss: list[torch.Tensor]
    skipped: torch.Tensor | None
    recorded: bool


class Recorder:
    """Records quantities of epochs and steps, of the network and of each layer.

    The parameters are those of the optimizer, in its order, under the model's names. Their steps
    are seen through the optimizer's hooks. An epoch begins when the recorder is made, and when the
    last one ends.

    Args:
        model: whose parameters; or an optimizer, whose parameters then have the names that it was
            given (``param_names``), else ``group0.0``, ``group0.1``, …
        optimizer: without one, there are epochs only, and no learning rate and no moments.
        epoch: quantities and instruments of an epoch. Of the gradient it is the last step's.
        step: those of a step, such as ``["usual"]``. Plain sums: in float64, but for large float32
            layers on a CPU, where the error is at most about 1e-6.
        per_layer: record them for each parameter as well.
        every: record the steps whose number, counted from 1, is a multiple of it.
        exact: sums of epochs are exact, independent of order, split and library.
        run: where rows go: an ``optstudy_core.records.Run``, or a folder that is made or resumed.
            ``None``: into the lists ``epochs`` and ``steps``.

    Attributes:
        epochs: rows of the epochs, where there is no run.
        steps: rows of the steps up to the last :meth:`flush`, where there is no run.

    Memory: a copy of the parameters for ``step_size`` and ``update_ratio``, a second one for
    ``angle`` and ``cosine``; each twice where both steps and epochs have them; and one for
    ``distance``. All in the parameters' dtype.

    Raises:
        TypeError: for an argument of the wrong kind.
        ValueError: for an unknown name, or a quantity that needs an optimizer without one.
    """

    def __init__(
        self,
        model: torch.nn.Module | torch.optim.Optimizer,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        epoch: Iterable[str] | None = None,
        step: Iterable[str] = (),
        per_layer: bool = True,
        every: int = 1,
        exact: bool = True,
        run: Any = None,
    ) -> None:
        if isinstance(model, torch.optim.Optimizer):
            if optimizer is not None:
                raise TypeError("model and optimizer are optimizers: allowed is one")
            optimizer, model = model, torch.nn.Module()
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model = {model!r}: allowed are modules and optimizers")
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer = {optimizer!r}: allowed are optimizers and None")
        if epoch is None:
            epoch = DEFAULT if optimizer is not None else [n for n in DEFAULT if n != "lr"]
        self._model, self._optimizer = model, optimizer
        self._options = core.Options.of(
            epoch=epoch, step=step, per_layer=per_layer, every=every, exact=exact
        )
        self._epoch, self._step = self._options.epoch, self._options.step
        # What is summed in a step: all but what the step before has.
        self._summed = tuple(r for r in self._step.reductions if r != PREVIOUS)
        if optimizer is None:
            self._refuse_without_optimizer()
        self._run, self._own_run = run, isinstance(run, str | PathLike)
        if self._own_run:
            from optstudy_core.records import Run  # SQLite and more, only where asked

            self._run = Run.create_or_resume(run, {"recorder": self._options.config})
        self.epochs: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self._epoch_count = self._step_count = 0
        self._pending: list[Pending] = []
        self._losses: torch.Tensor | None = None
        self._loss_count = 0
        self._open_step: Pending | None = None
        self._rates: list[Any] | None = None
        self._names: list[str] = []
        self._params: list[torch.Tensor] = []
        self._groups: list[int] = []
        self._start, self._epoch_step = _Copies(), _Copies()
        self._before, self._last_step = _Copies(), _Copies()
        self._origin = _Copies()
        self._recorded = self._moves = False  # the step that is being made
        self._step_squares: np.ndarray | None = None  # ‖Δ‖² of each layer, of the last step fetched
        self._layout: Layout | None = None
        self._scratch: Scratch = {}
        self._hooks: list[Any] = []
        self._collect()
        if self._options.displaced:
            self._origin.fill(self._names, self._params)
        self.begin_epoch()
        if optimizer is not None:
            # Ours come after the hooks that put the schedulers' rates in: they see the rate used.
            _Rates.of(optimizer)
            self._hooks = [
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_step_post_hook(self._after_step),
            ]

    def _refuse_without_optimizer(self) -> None:
        if self._step.names:
            raise ValueError(
                f"step = {self._step.names}: allowed with an optimizer, whose steps they are"
            )
        for name in self._epoch.names:
            if name == "lr" or core.vectors([name]) & OF_THE_OPTIMIZER:
                raise ValueError(f"epoch with {name!r}: allowed with an optimizer, which has it")

    # What the user calls.

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @torch.no_grad()
    def begin_epoch(self) -> None:
        """Begin the epoch here: what has moved the parameters since the last one is no part of it.

        To be called after something else than the optimizer has moved them (a loaded model);
        :meth:`end_epoch` calls it.
        """
        self._collect()
        self._losses, self._loss_count = None, 0
        if "step" in self._epoch.vectors:
            self._start.fill(self._names, self._params)

    @torch.no_grad()
    def step(self, loss: torch.Tensor | float | None = None) -> None:
        """Add the loss of a step that was just made; to be called after ``optimizer.step()``.

        Args:
            loss: of the mini-batch, a number or a tensor of one. It goes into the step's row, and
                into the epoch's mean.

        Raises:
            TypeError: if it is something else.
        """
        made, self._open_step = self._open_step, None
        if loss is None:
            return
        value = _scalar("loss", loss)
        self._loss_count += 1
        self._losses = value if self._losses is None else self._losses.to(value.device) + value
        if made is not None:
            made.loss.append(value)

    @torch.no_grad()
    def end_epoch(self, loss: torch.Tensor | float | None = None) -> dict[str, Any]:
        """End an epoch, and begin the next.

        Args:
            loss: the epoch's mean; ``None``: the mean of those that :meth:`step` was given, NaN
                if there are none.

        Returns:
            the row, ``{"epoch": 1, "loss": …, "step_size": …, "layers": {"fc1.weight": {…}}}``.
        """
        self._collect()
        self.flush()
        if loss is not None:
            mean = _scalar("loss", loss).item()
        elif self._losses is not None:
            mean = self._losses.item() / self._loss_count
        else:
            mean = math.nan
        self._epoch_count += 1
        rates = [float(rate) for rate in self._rates or self._current_rates()]
        row = self._epoch_row(mean, rates)
        if "previous" in self._epoch.vectors:  # where Δ has been formed
            self._start, self._epoch_step = self._epoch_step, self._start
        if self._run is None:
            self.epochs.append(row)
        else:
            self._run.epoch(self._epoch_count, row)
        self.begin_epoch()
        return row

    def flush(self) -> None:
        """Bring the steps' measurements to the host and write their rows."""
        if not self._pending:
            return
        pending, self._pending, self._open_step = self._pending, [], None
        fetch = _Fetch()
        for made in pending:
            fetch.add(*made.blocks.tensors, *made.loss)
            fetch.add(*(r for r in made.rates if isinstance(r, torch.Tensor)))
            if made.skipped is not None:
                fetch.add(made.skipped)
        fetched = fetch.values()
        rows = []
        for made in pending:
            values = [next(fetched) for _ in made.blocks.tensors]
            losses = [float(next(fetched)[0]) for _ in made.loss]
            rates = [
                float(next(fetched)[0]) if isinstance(r, torch.Tensor) else float(r)
                for r in made.rates
            ]
            if made.skipped is not None and next(fetched)[0] != 0:
                continue  # an optimizer that skips the step itself, as GradScaler tells it
            sums = self._joined(made, values)
            if not made.recorded:
                continue
            head = {"epoch": made.epoch, "step": made.number}
            loss = losses[-1] if losses else math.nan
            layout = made.blocks.layout
            rows.append(self._plain_row(self._step, head, layout, sums, loss, rates))
        if self._run is None:
            self.steps += rows
        else:
            self._run.steps([(row["step"], row) for row in rows])

    def _joined(
        self, made: Pending, values: Sequence[np.ndarray]
    ) -> dict[core.Reduction, np.ndarray]:
        """Return the sums of a step; ‖Δ₋₁‖² is what was ‖Δ‖² for the step before."""
        layout = made.blocks.layout
        sums = layout.join(self._summed if made.recorded else (STEP,), values)
        if PREVIOUS in self._step.reductions:
            before, self._step_squares = self._step_squares, sums[STEP]
            if before is None or len(before) != layout.layers:
                before = np.full(layout.layers, math.nan)
            sums[PREVIOUS] = before
        return sums

    def close(self) -> None:
        """Write what is pending, and leave the optimizer alone from now on."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.flush()
        if self._own_run:
            self._run.close()
            self._own_run = False

    # Saved states.

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on with the same rows: copies.

        Tensors, numbers, lists and dicts only. What is pending is brought to the host.
        """
        self.flush()
        return {
            "config": self._options.config,
            "epoch_count": self._epoch_count,
            "step_count": self._step_count,
            "loss_sum": None if self._losses is None else float(self._losses),
            "loss_count": self._loss_count,
            "rates": None if self._rates is None else [float(r) for r in self._rates],
            "step_squares": None if self._step_squares is None else self._step_squares.tolist(),
            "copies": {
                kind: {n: t.clone() for n, t in copies.tensors.items()}
                for kind, copies in self._all_copies().items()
            },
            "epochs": list(self.epochs),
            "steps": list(self.steps),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict`.

        Args:
            state_dict: that state.

        Raises:
            ValueError: if it is of other quantities, or of other parameters.
        """
        config = self._options.config
        found = state_dict.get("config")
        if found != config:
            raise ValueError(f"state_dict of {found}: allowed for this recorder is {config}")
        self._collect()
        sizes = {name: p.numel() for name, p in zip(self._names, self._params, strict=True)}
        for saved in state_dict["copies"].values():
            for name, value in saved.items():
                if name not in sizes:
                    raise ValueError(f"state_dict with {name!r}: {nearest(name, sizes)}")
                if value.numel() != sizes[name]:
                    raise ValueError(
                        f"state_dict with {value.numel()} elements of {name!r}: allowed are "
                        f"{sizes[name]}"
                    )
        for kind, copies in self._all_copies().items():
            copies.load(state_dict["copies"][kind], self._names, self._params)
        self._pending, self._open_step = [], None
        self._epoch_count = int(state_dict["epoch_count"])
        self._step_count = int(state_dict["step_count"])
        total = state_dict["loss_sum"]
        self._losses = None if total is None else torch.tensor(total, dtype=torch.float64)
        self._loss_count = int(state_dict["loss_count"])
        self._rates = state_dict["rates"]
        squares = state_dict["step_squares"]
        self._step_squares = None if squares is None else np.array(squares)
        self.epochs, self.steps = list(state_dict["epochs"]), list(state_dict["steps"])

    def _all_copies(self) -> dict[str, _Copies]:
        return {
            "start": self._start,
            "epoch_step": self._epoch_step,
            "last_step": self._last_step,
            "origin": self._origin,
        }

    # The hooks.

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._rates = [_kept_rate(group["lr"]) for group in optimizer.param_groups]
        self._open_step = None
        number = self._step_count + 1
        self._recorded, self._moves = self._options.recorded(number), self._options.moves(number)
        if self._recorded or self._moves:
            self._collect_if_grown()
        if self._moves:
            self._before.fill(self._names, self._params)

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._step_count += 1
        # An optimizer that is told by GradScaler to skip the step on the device, still knows it.
        skipped = getattr(optimizer, "found_inf", None)
        if self._recorded or self._moves:
            found = self._vectors(self._step, self._before, self._last_step)
            wanted = self._summed
            if not self._recorded:  # but needed for the next one's angle
                found, wanted = {"step": found["step"]}, (STEP,)
            made = Pending(
                self._step_count,
                self._epoch_count + 1,
                self._sum(wanted, found),
                self._rates or [],
                [],
                None if skipped is None else skipped.detach().clone(),
                self._recorded,
            )
            self._pending.append(made)
            self._open_step = made if self._recorded else None
        if self._moves and "previous" in self._step.vectors:
            if skipped is not None:
                self._before.replace_where(skipped, self._last_step)
            self._before, self._last_step = self._last_step, self._before

    # What is measured.

    def _collect(self) -> None:
        """Look up the parameters, their names and groups."""
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
        self._names = [name for name, _, _ in found]
        self._params = [p for _, p, _ in found]
        self._groups = [i for _, _, i in found]

    def _collect_if_grown(self) -> None:
        assert self._optimizer is not None
        if len(self._params) != sum(len(g["params"]) for g in self._optimizer.param_groups):
            self._collect()

    def _vectors(self, chosen: core.Chosen, start: _Copies, previous: _Copies) -> _Vectors:
        """Return the vectors that are asked for; Δ is formed when it is read, in ``start``."""
        found: _Vectors = {}
        for u in chosen.vectors:
            if u == "params":
                found[u] = [p.detach() for p in self._params]
            elif u == "grad":
                found[u] = [_gradient(p) for p in self._params]
            elif u == "step":
                found[u] = start.differences(self._names, self._params, in_place=True)
            elif u == "displacement":
                found[u] = self._origin.differences(self._names, self._params, in_place=False)
            elif u == "previous":
                kept = [previous.tensors.get(name) for name in self._names]
                # An angle is between vectors of the same layers.
                found[u] = [None] * len(kept) if any(t is None for t in kept) else kept
            else:
                found[u] = [self._moment(p, u) for p in self._params]
        return found

    def _moment(self, p: torch.Tensor, u: str) -> torch.Tensor | None:
        state = {} if self._optimizer is None else self._optimizer.state.get(p, {})
        for name in MOMENTS[u]:
            if isinstance(state.get(name), torch.Tensor):
                return state[name].detach()
        return None

    def _sum(self, reductions: Sequence[core.Reduction], vectors: _Vectors) -> Blocks:
        made = sum_blocks(reductions, vectors, self._scratch)
        if self._layout is not None and self._layout.equals(made.layout):
            made = made._replace(layout=self._layout)  # one for all steps that are pending
        self._layout = made.layout
        return made

    def _epoch_row(self, mean: float, rates: list[float]) -> dict[str, Any]:
        vectors = self._vectors(self._epoch, self._start, self._epoch_step)
        head = {"epoch": self._epoch_count}
        if not self._options.exact:
            blocks = self._sum(self._epoch.reductions, vectors)
            fetch = _Fetch()
            fetch.add(*blocks.tensors)
            sums = blocks.layout.join(self._epoch.reductions, list(fetch.values()))
            return self._plain_row(self._epoch, head, blocks.layout, sums, mean, rates)
        arrays = {u: [_tensor(x) for x in column] for u, column in vectors.items()}
        layers = {n: {"lr": _of(rates, g)} for n, g in zip(self._names, self._groups, strict=True)}
        return core.exact_row(
            head,
            self._epoch.names,
            arrays,
            {"loss": mean, "lr": _of(rates, 0)},
            layers if self._options.per_layer else None,
            on_host if all(p.device.type == "cpu" for p in self._params) else geometry,
        )

    def _plain_row(
        self,
        chosen: core.Chosen,
        head: dict[str, int],
        layout: Layout,
        values: Mapping[core.Reduction, np.ndarray],
        loss: float,
        rates: list[float],
    ) -> dict[str, Any]:
        names = self._names[: layout.layers]
        sums = core.Sums(
            values,
            layout.sizes,
            {"lr": np.array([_of(rates, g) for g in self._groups[: layout.layers]])},
        )
        return core.plain_row(
            head,
            chosen.names,
            sums,
            layout.present,
            {"loss": loss, "lr": _of(rates, 0)},
            names if self._options.per_layer else None,
        )

    def _current_rates(self) -> list[Any]:
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        return [group["lr"] for group in groups]


# Copies of parameters.


@dataclass(frozen=True)
class _Difference:
    """θ − base, flat, formed when it is read; ``in_place``: in the memory of ``base``."""

    now: torch.Tensor
    base: torch.Tensor
    in_place: bool

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        return self.base.device

    def numel(self) -> int:
        return self.base.numel()

    def split(self, length: int) -> list[_Difference]:
        parts = zip(self.now.split(length), self.base.split(length), strict=True)
        return [_Difference(now, base, self.in_place) for now, base in parts]

    def formed(self) -> torch.Tensor:
        return torch.sub(self.now, self.base, out=self.base if self.in_place else None)


_Column = torch.Tensor | _Difference  # flat
_Vectors = dict[str, Sequence[Any]]  # of tensors, differences and None


class _Copies:
    """Copies of parameters by name, flat and contiguous, in memory that is used again."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}

    def fill(self, names: Sequence[str], params: Sequence[torch.Tensor]) -> None:
        """Make copies of the parameters."""
        old, self.tensors = self.tensors, {}
        for name, p in zip(names, params, strict=True):
            kept = old.get(name)
            wanted = (p.numel(), p.dtype, p.device)
            if kept is None or (kept.numel(), kept.dtype, kept.device) != wanted:
                kept = torch.empty(p.numel(), dtype=p.dtype, device=p.device)
            self.tensors[name] = kept
        if self.tensors:
            views = [self.tensors[n].view(p.shape) for n, p in zip(names, params, strict=True)]
            torch._foreach_copy_(views, [p.detach() for p in params])

    def differences(
        self, names: Sequence[str], params: Sequence[torch.Tensor], *, in_place: bool
    ) -> list[_Difference | None]:
        """Return θ minus the copies; ``None`` for a parameter that was added since."""
        return [
            _Difference(p.detach().reshape(-1), self.tensors[name], in_place)
            if name in self.tensors
            else None
            for name, p in zip(names, params, strict=True)
        ]

    def replace_where(self, condition: torch.Tensor, other: _Copies) -> None:
        """Replace the copies by others if a condition holds that only the device knows."""
        for name, t in self.tensors.items():
            if name in other.tensors:
                t.copy_(torch.where(condition.to(t.device) != 0, other.tensors[name], t))

    def load(
        self,
        saved: Mapping[str, torch.Tensor],
        names: Sequence[str],
        params: Sequence[torch.Tensor],
    ) -> None:
        """Take saved copies, on the parameters' devices."""
        self.tensors = {
            name: saved[name].detach().reshape(-1).to(p.device, p.dtype, copy=True)
            for name, p in zip(names, params, strict=True)
            if name in saved
        }


def _gradient(p: torch.Tensor) -> torch.Tensor | None:
    if p.grad is None:
        return None
    grad = p.grad.detach()
    return grad.coalesce().values() if grad.is_sparse else grad


def _tensor(x: Any) -> torch.Tensor | None:
    return None if x is None else _read(x)


# Sums on the device.


class Layout:
    """What the sums of blocks are sums of.

    Attributes:
        places: for each number of each device, the layer and the reduction; int arrays (n, 2).
        present: for each vector, which layers have it.
        sizes: for each vector, the number of elements of each layer.
        layers: how many there are.
    """

    def __init__(self, places: list[np.ndarray], vectors: _Vectors, layers: int) -> None:
        self.places, self.layers = places, layers
        self.present = {u: np.array([x is not None for x in c]) for u, c in vectors.items()}
        self.sizes = {u: np.array([_numel(x) for x in c]) for u, c in vectors.items()}

    def equals(self, other: Layout) -> bool:
        """Tell whether both are the same."""
        return (
            self.layers == other.layers
            and len(self.places) == len(other.places)
            and all(map(np.array_equal, self.places, other.places))
            and self.present.keys() == other.present.keys()
            and all(np.array_equal(x, other.present[u]) for u, x in self.present.items())
            and all(np.array_equal(x, other.sizes[u]) for u, x in self.sizes.items())
        )

    @np.errstate(all="ignore")
    def join(
        self, reductions: Sequence[core.Reduction], values: Sequence[np.ndarray]
    ) -> dict[core.Reduction, np.ndarray]:
        """Return each reduction for each layer from what came from the devices."""
        joined = {}
        for k, reduction in enumerate(reductions):
            there = np.logical_and.reduce([self.present[u] for u in reduction.vectors])
            column = np.where(there, core.EMPTY.get(reduction.kind, math.nan), math.nan)
            together, neutral = {
                "least": (np.minimum, math.inf),
                "greatest": (np.maximum, -math.inf),
            }.get(reduction.kind, (np.add, 0.0))
            for places, numbers in zip(self.places, values, strict=True):
                own = places[:, 1] == k
                column[places[own, 0]] = neutral  # a layer is on one device
                together.at(column, places[own, 0], numbers[own])
            joined[reduction] = column
        return joined


class Blocks(NamedTuple):
    """Sums of blocks of elements: a float64 vector on each device, and what they are."""

    tensors: list[torch.Tensor]
    layout: Layout


Scratch = dict[tuple[torch.device, torch.dtype, int], torch.Tensor]


def sum_blocks(reductions: Sequence[core.Reduction], vectors: _Vectors, scratch: Scratch) -> Blocks:
    """Return reductions of every block of every layer, all from one pass over the memory.

    Args:
        reductions: what is summed.
        vectors: tensors of each layer in any real dtype and layout; ``None`` where it has none.
        scratch: memory for blocks, used again by the next call.
    """
    numbers: dict[torch.device, list[torch.Tensor]] = {}
    places: dict[torch.device, list[tuple[int, int]]] = {}
    count = max((len(column) for column in vectors.values()), default=0)
    ordered = sorted(enumerate(reductions), key=lambda pair: pair[1].vectors)  # soon done with each
    for i in range(count):
        mine = {u: _flat(column[i]) for u, column in vectors.items() if column[i] is not None}
        usable = [(k, r) for k, r in ordered if all(u in mine for u in r.vectors)]
        if not usable:
            continue
        device = mine[usable[0][1].vectors[0]].device
        own, where = numbers.setdefault(device, []), places.setdefault(device, [])
        for alone in (True, False):  # the gradient shares no memory with the others
            group = [
                (k, r)
                for k, r in usable
                if (r.vectors[0] == "grad") == alone and _is_for_rows(r, mine)
            ]
            if not group:
                continue
            found = _dots_in_rows([r for _, r in group], mine, scratch)
            mine |= {u: _after(mine[u]) for _, r in group for u in r.vectors}
            if found is not None:
                own += found
                where += [(i, k) for k, _ in group]
                usable = [pair for pair in usable if pair not in group]
        for k, number in _wide_sums(usable, mine, scratch):
            own.append(number)
            where.append((i, k))
    layout = Layout([np.array(p).reshape(-1, 2) for p in places.values()], vectors, count)
    return Blocks([torch.stack(own) for own in numbers.values() if own], layout)


def _wide_sums(
    reductions: Sequence[tuple[int, core.Reduction]],
    vectors: Mapping[str, _Column],
    scratch: Scratch,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the reductions of each block of a layer, in float64, with their numbers."""
    used = dict.fromkeys(u for _, reduction in reductions for u in reduction.vectors)
    last = {u: n for n, (_, reduction) in enumerate(reductions) for u in reduction.vectors}
    if not used:
        return
    device = vectors[next(iter(used))].device
    for block in _blocks(vectors, used, BLOCK.get(device.type, BLOCK["cuda"])):
        wide: dict[str, torch.Tensor] = {}
        free = list(range(len(used)))
        slots: dict[str, int] = {}
        for n, (k, reduction) in enumerate(reductions):
            if not block.keys() >= {*reduction.vectors}:
                continue
            for u in reduction.vectors:
                if u not in wide:
                    slots[u] = free.pop(0)
                    wide[u] = _wide(_read(block[u]), slots[u], scratch)
            function = _TORCH.get(reduction.kind, core.REDUCE[reduction.kind])
            yield k, function(*(wide[u] for u in reduction.vectors))
            # The memory goes to the next vector while it is in the cache.
            free[:0] = [slots.pop(u) for u in {*reduction.vectors} & slots.keys() if last[u] == n]


_TORCH: Final[Mapping[str, Callable[..., torch.Tensor]]] = {"dot": torch.dot}  # reads once


def _wide(part: torch.Tensor, slot: int, scratch: Scratch) -> torch.Tensor:
    if part.dtype == torch.float64:
        return part
    return _memory(part, torch.float64, slot, scratch).copy_(part)


def _memory(like: torch.Tensor, dtype: torch.dtype, slot: int, scratch: Scratch) -> torch.Tensor:
    key, size = (like.device, dtype, slot), like.numel()
    kept = scratch.get(key)
    if kept is None or kept.numel() < size:
        kept = scratch[key] = torch.empty(size, dtype=dtype, device=like.device)
    return kept if kept.numel() == size else kept[:size]


def _blocks(
    vectors: Mapping[str, _Column], names: Iterable[str], length: int
) -> Iterator[dict[str, _Column]]:
    """Yield what is summed at a time: a part of each vector, but for those that have ended."""
    split = {u: vectors[u].split(length) for u in names if vectors[u].numel() > 0}
    for parts in zip_longest(*split.values()):  # the values of a sparse gradient are fewer
        yield {u: part for u, part in zip(split, parts, strict=True) if part is not None}


# Dot products of large float32 layers on a CPU, which take longer to widen than to sum: rows so
# short that float32 is enough for their sums, and the sums of the rows in float64.


def _is_for_rows(reduction: core.Reduction, vectors: Mapping[str, _Column]) -> bool:
    return reduction.kind == "dot" and all(
        x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() >= LARGE
        for x in (vectors[u] for u in reduction.vectors)
    )


def _dots_in_rows(
    reductions: Sequence[core.Reduction], vectors: Mapping[str, _Column], scratch: Scratch
) -> list[torch.Tensor] | None:
    """Return dot products of a layer, with an error of about 1e-6·‖x‖·‖y‖ at most.

    ``None`` if squares are too large for float32, or so small that it might lose them: of squares
    below 2⁻¹²⁶, at most 2⁻²³ of the sum. To read a number of the CPU waits for nothing.
    """
    used = dict.fromkeys(u for reduction in reductions for u in reduction.vectors)
    size = vectors[reductions[0].vectors[0]].numel()
    sums = torch.empty(len(reductions), -(-size // ROW), dtype=torch.float32)
    length = BLOCK["cpu"] if len(used) > 1 else -(-size // ROW) * ROW  # one is read once anyway
    outs = sums.split(length // ROW, 1)
    for block, out in zip(_blocks(vectors, used, length), outs, strict=True):
        parts: dict[str, torch.Tensor] = {}
        for reduction, own in zip(reductions, out.unbind(), strict=True):
            for u in reduction.vectors:
                if u not in parts:
                    parts[u] = _read(block[u])
            u, v = reduction.vectors
            _row_sums(parts[u], parts[v], own, scratch)
    totals = []
    for reduction, row in zip(reductions, sums.to(torch.float64), strict=True):
        squared = len(set(reduction.vectors)) == 1
        totals.append((row * row if squared else row).sum())
        if squared and not 2.0**-103 * size <= totals[-1].item() < math.inf:
            return None
    return totals


def _row_sums(x: torch.Tensor, y: torch.Tensor, out: torch.Tensor, scratch: Scratch) -> None:
    """Write the dot product of each row; of a vector with itself its root, the norm."""
    squared = x is y
    products = x if squared else torch.mul(x, y, out=_memory(x, x.dtype, 0, scratch))
    size = x.numel()
    whole = size // ROW * ROW
    if whole == size:
        pairs = [(products.view(-1, ROW), out)]
    else:  # a shorter row at the end of the layer
        pairs = [
            (products[:whole].view(-1, ROW), out[:-1]),
            (products[whole:].view(1, -1), out[-1:]),
        ]
    for rows, own in pairs:
        if squared:
            torch.linalg.vector_norm(rows, dim=1, out=own)
        else:
            torch.sum(rows, 1, out=own)


def _flat(x: Any) -> Any:
    return x if isinstance(x, _Difference) else x.reshape(-1)


def _read(x: _Column) -> torch.Tensor:
    return x.formed() if isinstance(x, _Difference) else x


def _after(x: _Column) -> _Column:
    """Return a difference that has been formed in place as the tensor that it is now."""
    return x.base if isinstance(x, _Difference) and x.in_place else x


def _numel(x: _Column | None) -> int:
    return 0 if x is None else int(x.numel())


class _Fetch:
    """Brings small tensors to the host, those of a device in one transfer."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []

    def add(self, *tensors: torch.Tensor) -> None:
        self._tensors += [t.detach().reshape(-1).to(torch.float64) for t in tensors]

    def values(self) -> Iterator[np.ndarray]:
        """Yield the values in the order in which they were added."""
        parts = {}
        for device in {t.device for t in self._tensors}:
            own = [t for t in self._tensors if t.device == device]
            host = torch.cat(own).cpu().numpy()
            parts[device] = iter(np.split(host, np.cumsum([len(t) for t in own])[:-1]))
        for t in self._tensors:
            yield next(parts[t.device])


# Numbers.


def _kept_rate(rate: Any) -> Any:
    return rate.detach().clone() if isinstance(rate, torch.Tensor) else rate


def _of(rates: Sequence[float], group: int) -> float:
    return rates[group] if 0 <= group < len(rates) else math.nan


def _scalar(name: str, value: Any) -> torch.Tensor:
    """Return a 0-d float64 tensor of its own, where the value is."""
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"{name} of shape {tuple(value.shape)}: allowed are numbers and tensors of one"
            )
        return value.detach().reshape(()).to(torch.float64, copy=True)
    if not is_number(value):
        raise TypeError(f"{name} = {value!r}: allowed are numbers and tensors of one")
    return torch.tensor(float(value), dtype=torch.float64)
