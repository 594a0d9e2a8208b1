"""The recorder: hooks of the optimizer, and rows of steps and epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np
import torch

from optstudy_core import _processes
from optstudy_core import instruments as core
from optstudy_core.records import Output, Recording
from optstudy_torch._meshes import local
from optstudy_torch._ranks import averages, scalar
from optstudy_torch._rates import Rates

from ._activations import Activations
from ._copies import Copies
from ._epochs import epoch_row
from ._layers import Layers
from ._measuring import PREVIOUS, STEP, Sums
from ._micro import MicroGradients
from ._pending import Measured, Pending, fetched
from ._rows import alike, rate_of, step_rows
from ._state import State

DEFAULT: Final = ("loss", "lr", "step_size", "angle")

OF_THE_OPTIMIZER: Final = frozenset({"m", "v", "lr", *core.OF_WRAPPERS})


class Recorder(Recording):
    """A recorder of quantities of epochs and steps, for the network and for each layer.

    The recorder covers the parameters of the optimizer, in its order, with the names of the model.
    Hooks of the optimizer measure the steps. An epoch begins when the recorder is made, and when
    the last epoch ends.

    Args:
        model: the model; or an optimizer. Without a model, the parameters have the names in
            ``param_names`` of the optimizer, or ``group0.0``, ``group0.1``, …
        optimizer: the optimizer; without it, only epochs are recorded, without learning rates and
            moments.
        epoch: the quantities and instruments of an epoch. The gradient is that of the last step.
        step: the quantities and instruments of a step, such as ``["usual"]``. They use plain sums
            in float64, except for large float32 layers on a CPU; their error is at most about 1e-6.
        per_layer: also record the quantities of each parameter.
        every: record every n-th step: those with a number (counted from 1) that is a multiple of
            ``every``.
        exact: use exact sums for epochs, which do not depend on order, split and library.
        run: where to write rows: an ``optstudy_core.records.Run``, or a folder to create or resume.
            ``None``: the lists ``epochs`` and ``steps``. Only the first of several processes
            writes.
        sinks: objects that also receive each row: functions of a row, objects with ``log_metrics``
            or ``log`` (loggers of Lightning, an ``Accelerator``, a run of Weights & Biases), or the
            name ``"wandb"``. Sinks with ``close`` are closed with the recorder.
        alerts: rules over the rows, :class:`optstudy_core.instruments.Alert`.
        average: each of several processes (``torch.distributed``) passes the losses of its own
            mini-batches, and rows have the mean over the processes. This sends a message of eight
            bytes for each recorded step and each epoch, so all processes must call the methods.
            ``False``: the losses are already the same, or only this process records.

    Memory: a copy of the parameters for ``step_size`` and ``update_ratio``, and a second copy for
    ``angle`` and ``cosine``; each twice if both steps and epochs record them. One copy for
    ``distance``. All copies have the dtype of the parameters.

    For parameters of FSDP2 or tensor parallel (``DTensor``), each process copies its own part. The
    measurements are those of the whole parameters, with the bits of a run in one process. All
    processes make a recorder and call its methods. Metrics come from the first process. Exact norms
    and angles join integers; plain sums gather one layer at a time.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a name is unknown, or a quantity needs an optimizer and there is none.
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
        alerts: Iterable[core.Alert] = (),
        average: bool = True,
    ) -> None:
        if isinstance(model, torch.optim.Optimizer):
            if optimizer is not None:
                raise TypeError("model and optimizer are optimizers: allowed is one")
            optimizer, model = model, torch.nn.Module()
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model = {model!r}: allowed are modules and optimizers of torch")
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer = {optimizer!r}: allowed are optimizers and None")
        if not isinstance(average, bool):
            raise TypeError(f"average = {average!r}: allowed are True and False")
        self._average = average
        if epoch is None:
            epoch = DEFAULT if optimizer is not None else [n for n in DEFAULT if n != "lr"]
        self._optimizer = optimizer
        self._options = core.Options.of(
            epoch=epoch, step=step, per_layer=per_layer, every=every, exact=exact
        )
        self._epoch, self._step = self._options.epoch, self._options.step
        if optimizer is None:
            self._refuse_without_optimizer()
        self._output = Output(
            run,
            sinks,
            self._options.config,
            alerts=core.Alerts(alerts),
            writes=_processes.is_first(),
        )
        self._pending: list[Pending] = []
        self._open_step: Pending | None = None
        self._before = Copies()
        self._due, self._moves = self._step.at(1), False  # for the current step
        self._asked: dict[Any, tuple[frozenset[str], tuple[core.Reduction, ...]]] = {}
        self._clock, self._step_clock = core.Clock(), core.Clock()
        self._micro = MicroGradients()
        self._hooks: list[Any] = []
        self._state = State()
        self._layers = Layers(model, optimizer)
        self._sums = Sums(self._layers)
        if self._options.displaced:
            layers = self._layers
            self._state.origin.fill(layers.names, layers.params, layers.together)
        self.begin_epoch()
        self._activations = None
        if self._step.activations:
            self._activations = Activations(model, self._step, self._coming)
        if optimizer is not None:
            # These hooks come after those that set the rates of schedulers, and see the rate used.
            Rates.of(optimizer)
            self._hooks = [
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_step_post_hook(self._after_step),
            ]

    def _refuse_without_optimizer(self) -> None:
        if self._step.something:
            names = tuple(part.name for part in self._step.parts)
            raise ValueError(f"step = {names}: allowed with an optimizer only")
        for name in self._epoch.names:
            if core.vectors([name]) & OF_THE_OPTIMIZER or core.given([name]) & OF_THE_OPTIMIZER:
                raise ValueError(f"epoch with {name!r}: allowed with an optimizer only")

    # Public methods.

    @torch.no_grad()
    def begin_epoch(self) -> None:
        """Begin the epoch now: moves of the parameters since the last epoch do not count.

        Call this method if something other than the optimizer has moved the parameters (a loaded
        model). :meth:`end_epoch` calls it.
        """
        self._layers.collect()
        self._clock.restart()
        self._step_clock.restart()
        self._state.losses, self._state.loss_count = None, 0
        if "step" in self._epoch.vectors:
            self._state.start.fill(self._layers.names, self._layers.params)

    @torch.no_grad()
    def micro_batch(self, samples: float | None = None) -> None:
        """Measure the gradient of a micro-batch; call this method after ``loss.backward()``.

        The quantities of noise need it: the gradients of the micro-batches of a step add up in
        ``.grad``. For steps without recorded noise the call does nothing.

        Args:
            samples: the number of samples in the micro-batch; ``noise_scale`` counts in this unit.

        Raises:
            ValueError: if ``samples`` is no number > 0.
        """
        own = math.nan if samples is None else core.check_samples(samples)
        if "micro" in self._coming().given:
            self._layers.collect_if_grown()
            self._micro.add(self._layers.params, own)

    def step(
        self,
        loss: torch.Tensor | float | None = None,
        *,
        samples: float | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Add the loss and other numbers of a step; call this method after ``optimizer.step()``.

        Args:
            loss: the loss of the mini-batch, a number or a tensor with one element. It appears in
                the row of the step, and counts for the mean of the epoch.
            samples: the number of samples in the mini-batch, for ``samples_per_second``.
            metrics: other numbers for the row of the step, by name: numbers or tensors with one
                element.

        Raises:
            TypeError: if a value is no number.
            ValueError: if a tensor has more than one element, or the row already has a name.
        """
        made, self._open_step = self._open_step, None
        numbers: dict[str, Any] = {} if made is None else made.measured["numbers"]
        if samples is not None:
            for clock in (self._clock, self._step_clock):
                clock.add(core.check_samples(samples))
        if made is not None and made.due.something:
            numbers["samples"] = self._step_clock.samples()
            self._step_clock.restart()
            own = {name: scalar(name, value) for name, value in (metrics or {}).items()}
            made.measured["metrics"] = own
        if loss is not None:
            numbers["loss"] = value = _on_host("loss", loss)
            self._state.add_loss(value)

    @torch.no_grad()
    def end_epoch(
        self,
        loss: torch.Tensor | float | None = None,
        *,
        metrics: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """End an epoch, and begin the next.

        Args:
            loss: the mean loss of the epoch; ``None``: the mean of the losses from :meth:`step`
                (NaN if there are none).
            metrics: other numbers for the row by name, such as ``{"test_loss": 0.3}``: numbers or
                tensors with one element.

        Returns:
            the row, ``{"epoch": 1, "loss": …, "step_size": …, "layers": {"fc1.weight": {…}}}``.

        Raises:
            TypeError: if a value is no number.
            ValueError: if a tensor has more than one element, or the row already has a name.
        """
        state = self._state
        own = {name: scalar(name, value).item() for name, value in (metrics or {}).items()}
        self._layers.collect()
        self.flush()
        mean = state.mean_loss() if loss is None else scalar("loss", loss).item()
        if loss is not None or state.loss_count:
            (mean,) = self._means([mean])
        state.epoch_count += 1
        rates = [float(rate) for rate in state.rates or self._current_rates()]
        row = core.with_metrics(self._epoch_row(mean, rates), own)
        if "previous" in self._epoch.vectors:  # then epoch_step holds Δ
            state.start, state.epoch_step = state.epoch_step, state.start
        row = self._output.epoch(row)
        self.begin_epoch()
        return row

    def flush(self) -> None:
        """Copy the measurements of the steps to the host, and write their rows."""
        if not self._pending:
            return
        self._sums.add_up(self._pending)
        pending, self._pending, self._open_step = self._pending, [], None
        rows: list[dict[str, Any]] = []
        for _, group in groupby(fetched(pending, self._means), alike):
            steps = list(group)
            sums = self._joined(steps)
            if steps[0].made.due.something:
                rows += step_rows(self._layers, steps, sums)
        self._output.add_steps(rows)

    def _means(self, losses: list[float]) -> list[float]:
        """Return the mean losses over all processes."""
        return averages(losses, self._layers.params) if self._average else losses

    def _joined(self, steps: Sequence[Measured]) -> dict[core.Reduction, np.ndarray]:
        """Return the sums of steps, arrays (layers, steps); ‖Δ₋₁‖² is ‖Δ‖² of the step before."""
        made, layout, state = steps[0].made, steps[0].made.layout, self._state
        blocks = [step.values["blocks"] for step in steps]
        values = [np.stack(column, axis=1) for column in zip(*blocks, strict=True)]
        sums = layout.join(made.reductions, values, len(steps))
        if PREVIOUS in self._step.reductions and STEP in sums:
            before, own = state.step_squares, sums[STEP]
            if before is None or len(before) != layout.layers:
                before = np.full(layout.layers, math.nan)
            state.step_squares = own[:, -1].copy()
            if PREVIOUS in made.due.reductions:
                sums[PREVIOUS] = np.column_stack([before, own[:, :-1]])
        return sums

    def close(self) -> None:
        """Write pending rows, and remove the hooks from the optimizer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._activations is not None:
            self._activations.close()
        self.flush()
        self._output.close()

    # Saved states.

    def state_dict(self) -> dict[str, Any]:
        """Return the state with which a resumed run continues with the same rows.

        The state has copies: tensors, numbers, lists and dicts only. Pending measurements are first
        copied to the host.
        """
        self.flush()
        return {
            "config": self._options.config,
            **self._state.saved(self._layers),
            **self._output.saved(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state of :meth:`state_dict`.

        Args:
            state_dict: the state.

        Raises:
            ValueError: if the state has other quantities, or other parameters.
        """
        config = self._options.config
        found = state_dict.get("config")
        if found != config:
            raise ValueError(f"state_dict of {found}: this recorder needs a state of {config}")
        self._layers.collect()
        self._state.load(state_dict, self._layers)
        self._pending, self._open_step = [], None
        self._output.load(state_dict)

    # The hooks.

    def _coming(self) -> core.Chosen:
        """Return the quantities to record of the current step."""
        return self._step.at(self._state.step_count + 1)

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._state.rates = [_kept_rate(group["lr"]) for group in optimizer.param_groups]
        self._open_step = None
        self._due = self._coming()
        self._moves = self._options.moves(self._state.step_count + 1)
        if self._due.something or self._moves:
            self._layers.collect_if_grown()
        if self._moves:
            layers = self._layers
            self._before.fill(layers.names, layers.params, layers.together)

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        state = self._state
        state.step_count += 1
        # GradScaler may tell an optimizer to skip the step on the device; found_inf is still set.
        skipped = getattr(optimizer, "found_inf", None)
        if self._due.something or self._moves:
            self._measure_step(None if skipped is None else skipped.detach().clone())
        if self._moves and "previous" in self._step.vectors:
            if skipped is not None:
                self._before.replace_where(skipped, state.last_step)
            self._before, state.last_step = state.last_step, self._before

    def _wanted(
        self, due: core.Chosen, moves: bool
    ) -> tuple[frozenset[str], tuple[core.Reduction, ...]]:
        """Return the vectors and the sums of a step, the same objects for steps that are alike."""
        key = id(due), moves  # all of them are kept by self._step
        if key not in self._asked:
            # All except those of the step before; and ‖Δ‖², if the angle of the next step needs it.
            summed = [r for r in due.reductions if r != PREVIOUS]
            if moves and STEP not in summed and "previous" in self._step.vectors:
                summed.append(STEP)
            vectors = due.vectors | ({"step"} if moves else set())
            self._asked[key] = frozenset(vectors), tuple(summed)
        return self._asked[key]

    def _measure_step(self, skipped: torch.Tensor | None) -> None:
        state, due = self._state, self._due
        wanted, summed = self._wanted(due, self._moves)
        copies = self._before, state.last_step, state.origin
        (blocks, layout), (targets, profiles) = self._sums.of_step(due, summed, wanted, *copies)
        numbers: dict[str, Any] = dict(self._layers.of_wrappers(due.given))
        if "seconds" in due.given:
            numbers["seconds"] = self._step_clock.seconds()
        if "memory" in due.given:
            numbers["memory"] = _memory(self._layers.params)
        made = Pending(
            state.step_count,
            state.epoch_count + 1,
            due,
            summed,
            layout,
            targets,
            {
                "blocks": blocks,
                "rates": state.rates or [],
                "numbers": numbers,
                "metrics": {},
                "profiles": profiles,
                "micro": self._micro.take(self._layers.params),
                "activations": None if self._activations is None else self._activations.take(),
                "skipped": skipped,
            },
        )
        self._pending.append(made)
        if self._sums.is_full:
            self._sums.add_up(self._pending)
        if due.something:
            self._open_step = made

    # Measurements.

    def _epoch_row(self, mean: float, rates: list[float]) -> dict[str, Any]:
        state, layers = self._state, self._layers
        due = self._epoch.at(state.epoch_count)
        vectors = layers.vectors(self._epoch.vectors, state.start, state.epoch_step, state.origin)
        given = {"loss": mean, "lr": rate_of(rates, 0)}
        if "seconds" in due.given:
            given |= {"seconds": self._clock.seconds(), "samples": self._clock.samples()}
        if "memory" in due.given:
            given["memory"] = _memory(layers.params)
        given |= {name: float(value) for name, value in layers.of_wrappers(due.given).items()}
        exact = self._options.exact
        return epoch_row(state.epoch_count, due, layers, self._sums, vectors, given, rates, exact)

    def _current_rates(self) -> list[Any]:
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        return [group["lr"] for group in groups]


def _memory(params: Sequence[torch.Tensor]) -> float:
    device = local(params[0]).device if params else torch.device("cpu")
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return core.process_peak()


def _on_host(name: str, value: Any) -> torch.Tensor | float:
    """Return a number; for an asynchronous device, a copy of the tensor."""
    if type(value) is torch.Tensor and value.device.type == "cpu" and value.numel() == 1:
        return float(value.detach())
    return scalar(name, value)


def _kept_rate(rate: Any) -> Any:
    return rate.detach().clone() if isinstance(rate, torch.Tensor) else rate
