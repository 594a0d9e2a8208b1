"""The recorder: hooks of the optimizer, and rows of steps and epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch

from optstudy_core import _processes
from optstudy_core import geometry as on_host
from optstudy_core import instruments as core
from optstudy_core.arrays.passes import to_numpy
from optstudy_core.records import Output
from optstudy_torch import geometry
from optstudy_torch._meshes import whole
from optstudy_torch._ranks import scalar
from optstudy_torch._rates import Rates
from optstudy_torch._tensors import is_shared

from ._copies import Copies, Vectors, read
from ._layers import Layers
from ._pending import Fetch, Pending, fetched
from ._state import State
from ._sums import Blocks, Layout, Scratch, sum_blocks

DEFAULT: Final = ("loss", "lr", "step_size", "angle")

OF_THE_OPTIMIZER: Final = frozenset({"m", "v"})

STEP: Final = core.Reduction("dot", ("step", "step"))
PREVIOUS: Final = core.Reduction("dot", ("previous", "previous"))


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
            ``None``: into the lists ``epochs`` and ``steps``. Of several processes the first
            writes.
        sinks: what is given each row as well: callables of a row, objects with ``log_metrics`` or
            ``log`` (loggers of Lightning, an ``Accelerator``, a run of Weights & Biases), or the
            name ``"wandb"``. Those with ``close`` are closed with the recorder.

    Memory: a copy of the parameters for ``step_size`` and ``update_ratio``, a second one for
    ``angle`` and ``cosine``; each twice where both steps and epochs have them; and one for
    ``distance``. All in the parameters' dtype.

    Parameters of FSDP2 or tensor parallel (``DTensor``): each process copies what it holds, and
    what is measured is that of the whole, with the bits of one process. All processes make a
    recorder and call its methods, with the same losses. Exact norms and angles join integers; plain
    sums gather one layer at a time.

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
        sinks: Iterable[Any] = (),
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
        self._optimizer = optimizer
        self._options = core.Options.of(
            epoch=epoch, step=step, per_layer=per_layer, every=every, exact=exact
        )
        self._epoch, self._step = self._options.epoch, self._options.step
        # What is summed in a step: all but what the step before has.
        self._summed = tuple(r for r in self._step.reductions if r != PREVIOUS)
        if optimizer is None:
            self._refuse_without_optimizer()
        self._output = Output(run, sinks, self._options.config, writes=_processes.is_first())
        self._pending: list[Pending] = []
        self._open_step: Pending | None = None
        self._before = Copies()
        self._recorded = self._moves = False  # the step that is being made
        self._layout: Layout | None = None
        self._scratch: Scratch = {}
        self._hooks: list[Any] = []
        self._state = State()
        self._layers = Layers(model, optimizer)
        if self._options.displaced:
            self._state.origin.fill(self._layers.names, self._layers.params)
        self.begin_epoch()
        if optimizer is not None:
            # Ours come after the hooks that put the schedulers' rates in: they see the rate used.
            Rates.of(optimizer)
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

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The rows of the epochs, where there is no run."""
        return self._output.epochs

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The rows of the steps up to the last :meth:`flush`, where there is no run."""
        return self._output.steps

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
        self._layers.collect()
        self._state.losses, self._state.loss_count = None, 0
        if "step" in self._epoch.vectors:
            self._state.start.fill(self._layers.names, self._layers.params)

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
        value = scalar("loss", loss)
        self._state.add_loss(value)
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
        state = self._state
        self._layers.collect()
        self.flush()
        mean = state.mean_loss() if loss is None else scalar("loss", loss).item()
        state.epoch_count += 1
        rates = [float(rate) for rate in state.rates or self._current_rates()]
        row = self._epoch_row(mean, rates)
        if "previous" in self._epoch.vectors:  # where Δ has been formed
            state.start, state.epoch_step = state.epoch_step, state.start
        self._output.epoch(row)
        self.begin_epoch()
        return row

    def flush(self) -> None:
        """Bring the steps' measurements to the host and write their rows."""
        if not self._pending:
            return
        pending, self._pending, self._open_step = self._pending, [], None
        rows = []
        for made, values, losses, rates in fetched(pending):
            sums = self._joined(made, values)
            if not made.recorded:
                continue
            head = {"epoch": made.epoch, "step": made.number}
            loss = losses[-1] if losses else math.nan
            layout = made.blocks.layout
            rows.append(self._plain_row(self._step, head, layout, sums, loss, rates))
        self._output.add_steps(rows)

    def _joined(
        self, made: Pending, values: Sequence[np.ndarray]
    ) -> dict[core.Reduction, np.ndarray]:
        """Return the sums of a step; ‖Δ₋₁‖² is what was ‖Δ‖² for the step before."""
        layout = made.blocks.layout
        sums = layout.join(self._summed if made.recorded else (STEP,), values)
        if PREVIOUS in self._step.reductions:
            before, self._state.step_squares = self._state.step_squares, sums[STEP]
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
        self._output.close()

    # Saved states.

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on with the same rows: copies.

        Tensors, numbers, lists and dicts only. What is pending is brought to the host.
        """
        self.flush()
        return {
            "config": self._options.config,
            **self._state.saved(self._layers),
            **self._output.saved(),
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
        self._layers.collect()
        self._state.load(state_dict, self._layers)
        self._pending, self._open_step = [], None
        self._output.load(state_dict)

    # The hooks.

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._state.rates = [_kept_rate(group["lr"]) for group in optimizer.param_groups]
        self._open_step = None
        number = self._state.step_count + 1
        self._recorded, self._moves = self._options.recorded(number), self._options.moves(number)
        if self._recorded or self._moves:
            self._layers.collect_if_grown()
        if self._moves:
            self._before.fill(self._layers.names, self._layers.params)

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        state = self._state
        state.step_count += 1
        # An optimizer that is told by GradScaler to skip the step on the device, still knows it.
        skipped = getattr(optimizer, "found_inf", None)
        if self._recorded or self._moves:
            found = self._layers.vectors(self._step, self._before, state.last_step, state.origin)
            wanted = self._summed
            if not self._recorded:  # but needed for the next one's angle
                found, wanted = {"step": found["step"]}, (STEP,)
            made = Pending(
                state.step_count,
                state.epoch_count + 1,
                self._sum(wanted, found),
                state.rates or [],
                [],
                None if skipped is None else skipped.detach().clone(),
                self._recorded,
            )
            self._pending.append(made)
            self._open_step = made if self._recorded else None
        if self._moves and "previous" in self._step.vectors:
            if skipped is not None:
                self._before.replace_where(skipped, state.last_step)
            self._before, state.last_step = state.last_step, self._before

    # What is measured.

    def _sum(self, reductions: Sequence[core.Reduction], vectors: Vectors) -> Blocks:
        made = sum_blocks(reductions, vectors, self._scratch)
        if self._layout is not None and self._layout.equals(made.layout):
            made = made._replace(layout=self._layout)  # one for all steps that are pending
        self._layout = made.layout
        return made

    def _epoch_row(self, mean: float, rates: list[float]) -> dict[str, Any]:
        state, layers = self._state, self._layers
        vectors = layers.vectors(self._epoch, state.start, state.epoch_step, state.origin)
        head = {"epoch": state.epoch_count}
        if not self._options.exact:
            blocks = self._sum(self._epoch.reductions, vectors)
            fetch = Fetch()
            fetch.add(*blocks.tensors)
            sums = blocks.layout.join(self._epoch.reductions, list(fetch.values()))
            return self._plain_row(self._epoch, head, blocks.layout, sums, mean, rates)
        arrays = {u: [_tensor(x) for x in column] for u, column in vectors.items()}
        own = {n: {"lr": _of(rates, g)} for n, g in zip(layers.names, layers.groups, strict=True)}
        return core.exact_row(
            head,
            self._epoch.names,
            arrays,
            {"loss": mean, "lr": _of(rates, 0)},
            own if self._options.per_layer else None,
            on_host if all(map(_is_on_host, layers.params)) else geometry,
            lambda x: to_numpy(whole(x)),
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
        names = self._layers.names[: layout.layers]
        sums = core.Sums(
            values,
            layout.sizes,
            {"lr": np.array([_of(rates, g) for g in self._layers.groups[: layout.layers]])},
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


def _is_on_host(p: torch.Tensor) -> bool:
    return p.device.type == "cpu" and not is_shared(p)


def _tensor(x: Any) -> torch.Tensor | None:
    return None if x is None else read(x)


def _kept_rate(rate: Any) -> Any:
    return rate.detach().clone() if isinstance(rate, torch.Tensor) else rate


def _of(rates: Sequence[float], group: int) -> float:
    return rates[group] if 0 <= group < len(rates) else math.nan
