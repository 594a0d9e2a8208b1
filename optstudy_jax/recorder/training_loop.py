"""The recorder of an ordinary training loop: rows of epochs and steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optstudy_core import instruments as core
from optstudy_core.records import Output, Recording
from optstudy_jax._mesh import on_host
from optstudy_jax._nnx import trained

from ._activations import seen
from ._inputs import (
    MOMENTS,
    add,
    copied,
    flatten,
    moment_of,
    of_wrappers,
    rate_of,
    require,
    scalar,
)
from ._micro import MicroGradients
from ._on_device import advance, advance_in_place, peak_memory


class Pending(NamedTuple):
    """A measured step with values that are still on the device."""

    number: int
    epoch: int
    due: core.Chosen
    targets: tuple[core.Target, ...]
    values: dict[str, Any]
    has_previous: bool


class Recorder(Recording):
    """A recorder of quantities of epochs and steps, for the network and for each layer.

    In an ordinary training loop, call :meth:`step` after each step, and :meth:`end_epoch` after
    each epoch. The methods accept any tree of parameters (``TrainState.params`` of linen), and also
    a module and an optimizer of nnx. Of a module they use ``nnx.Param``; for other variables pass
    ``nnx.state(model, wrt)``. The name of a layer is its path, ``Dense_0/kernel``. A step does not
    wait for the device; its values are fetched when the epoch ends. Parameters may be donated to
    the training step, because the recorder copies the values that it needs later.

    Args:
        params: the parameters at the start, a tree or a module of nnx.
        epoch: the quantities and instruments of an epoch.
        step: the quantities and instruments of a step, such as ``["usual"]``. They use plain
            float64 sums.
        per_layer: also record the quantities of each layer.
        every: record every n-th step: those with a number (counted from 1) that is a multiple of
            ``every``.
        exact: use exact sums for epochs, which do not depend on order, split and library.
        run: where to write rows: an ``optstudy_core.records.Run``, or a folder to create or resume.
            ``None``: the lists ``epochs`` and ``steps``. With several processes
            (``jax.distributed``), all processes make a recorder and call its methods, and the first
            one writes.
        sinks: objects that also receive each row: functions of a row, objects with ``log_metrics``
            or ``log`` (loggers of Lightning, an ``Accelerator``, a run of Weights & Biases), or the
            name ``"wandb"``. Sinks with ``close`` are closed with the recorder.
        alerts: rules over the rows, :class:`optstudy_core.instruments.Alert`.

    Memory: a copy of the parameters for ``step_size`` and ``update_ratio``, a second copy for
    ``angle`` and ``cosine``, and one for ``distance``. Copies for epochs are on the host, copies
    for steps on the device. All copies have the dtype of the parameters.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a name is unknown.
    """

    def __init__(
        self,
        params: Any,
        *,
        epoch: Iterable[str] = ("loss", "lr", "step_size", "angle"),
        step: Iterable[str] = (),
        per_layer: bool = True,
        every: int = 1,
        exact: bool = True,
        run: Any = None,
        sinks: Iterable[Any] = (),
        alerts: Iterable[core.Alert] = (),
    ) -> None:
        self._options = core.Options.of(
            epoch=epoch, step=step, per_layer=per_layer, every=every, exact=exact
        )
        self._epoch, self._step = self._options.epoch, self._options.step
        self._layers, self._structure = flatten(trained(params))
        leaves = self._leaves("params", params)
        self._sizes = np.array([math.prod(np.shape(x)) for x in leaves], int)
        for name, x in zip(self._layers, leaves, strict=True):
            if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
                raise TypeError(
                    f"{name} of dtype {jnp.result_type(x)}: allowed are real floating dtypes"
                )
        self._epoch_count = self._step_count = 0
        self._pending: list[Pending] = []
        self._clock, self._step_clock = core.Clock(), core.Clock()
        self._micro = MicroGradients()
        self._losses: Any = None
        self._loss_count = 0
        self._lr: Any = math.nan
        self._start: list[Any] | None = None
        self._epoch_step: list[Any] | None = None
        self._before: list[Any] | None = None
        self._last_step: list[Any] | None = None
        self._origin: list[Any] | None = None
        if self._options.displaced:
            self._origin = copied(leaves)
        if self._options.moves(1):
            self._before = copied(leaves)
        self.begin_epoch(params)
        self._output = Output(
            run,
            sinks,
            self._options.config,
            alerts=core.Alerts(alerts),
            writes=jax.process_index() == 0,
        )

    def begin_epoch(self, params: Any) -> None:
        """Begin the epoch now: moves of the parameters since the last epoch do not count.

        Call this method if something other than the optimizer has changed the parameters.
        :meth:`end_epoch` calls it.

        Args:
            params: tree of the current parameters.
        """
        self._losses, self._loss_count = None, 0
        self._clock.restart()
        self._step_clock.restart()
        if "step" in self._epoch.vectors:
            self._start = [np.array(on_host(x)) for x in self._leaves("params", params)]

    def step(
        self,
        params: Any,
        *,
        grads: Any = None,
        updates: Any = None,
        value: Any = None,
        state: Any = None,
        lr: Any = None,
        samples: float | None = None,
        metrics: Mapping[str, Any] | None = None,
        activations: Any = None,
        activation_grads: Any = None,
    ) -> None:
        """Measure the last step.

        Args:
            params: tree of the parameters after the step.
            grads: the gradients, a tree like the parameters; needed for quantities of gradients.
            updates: the updates that were added to the parameters, a tree like them. ``None``: use
                the difference to the parameters in the last call; the recorder keeps a copy.
            value: the loss of the mini-batch, a number or 0-d array; it also counts for the mean of
                the epoch.
            state: the state of the optimizer, for its moments, and for the learning rate of
                ``optax.inject_hyperparams`` and ``epoch.with_control``.
            lr: the learning rate, a number or 0-d array.
            samples: the number of samples in the mini-batch, for ``samples_per_second``.
            metrics: other numbers for the row of the step, by name: numbers or 0-d arrays.
            activations: tree of the outputs of the layers: the intermediates of linen
                (``capture_intermediates``), or the values that modules of nnx ``sow``.
            activation_grads: tree of the gradients of these outputs, for example from ``perturb``.

        Raises:
            TypeError: if an argument is missing that a quantity needs.
            ValueError: if structures differ.
        """
        number, state = self._step_count + 1, trained(state)
        leaves = self._leaves("params", params)
        due = self._step.at(number)
        found = self._given(due, leaves, grads, state)
        delta = None if updates is None else self._leaves("updates", updates)
        moves = self._options.moves(number)
        if moves and delta is None and self._before is None:
            raise TypeError(
                "updates is missing: earlier calls had updates, so the recorder kept no copy of "
                "the parameters"
            )
        keep = self._options.turns(number)
        copy = delta is None and self._options.moves(number + 1)
        previous = self._last_step if "previous" in due.vectors else None
        # Memory is reused if the copy fits.
        fits = copy and (previous is None or keep) and self._before is not None
        # A profile has the shapes of the layers, for any vector.
        shapes = dict.fromkeys(due.vectors, leaves)
        targets = core.targets(due.profiles, due.shows, self._layers, shapes)
        static = (due.reductions, targets, moves, keep, copy)
        (made, profiles), self._before, self._last_step = (advance_in_place if fits else advance)(
            static, leaves, self._before, delta, previous, found
        )
        known = {"loss": scalar("value", value), "lr": scalar("lr", rate_of(lr, state))}
        self._step_count = number
        if known["lr"] is not None:
            self._lr = known["lr"]
        if known["loss"] is not None:
            self._loss_count += 1
            loss = known["loss"]
            self._losses = loss if self._losses is None else add(self._losses, loss)
        if samples is not None:
            for clock in (self._clock, self._step_clock):
                clock.add(core.check_samples(samples))
        micro, self._micro = self._micro, MicroGradients()
        if due.something:
            numbers = {k: v for k, v in known.items() if v is not None}
            numbers |= of_wrappers(due.given, state)
            numbers |= self._costs(due, self._step_clock)
            self._step_clock.restart()
            values = {
                "sums": made,
                "profiles": profiles,
                "numbers": numbers,
                "metrics": {name: scalar(name, x) for name, x in (metrics or {}).items()},
                "micro": micro.found(),
                "activations": seen(due, activations, activation_grads),
            }
            self._pending.append(
                Pending(number, self._epoch_count + 1, due, targets, values, previous is not None)
            )

    def micro_batch(self, grads: Any, samples: float | None = None) -> None:
        """Measure the gradients of a micro-batch of the next step.

        The quantities of noise need it. For steps without recorded noise the call does nothing.

        Args:
            grads: tree of the gradients of this micro-batch alone.
            samples: the number of samples in the micro-batch; ``noise_scale`` counts in this unit.

        Raises:
            ValueError: if structures differ, or ``samples`` is no number > 0.
        """
        own = math.nan if samples is None else core.check_samples(samples)
        if "micro" in self._step.at(self._step_count + 1).given:
            self._micro.add(self._leaves("grads", grads), own)

    def end_epoch(
        self,
        params: Any,
        loss: Any = None,
        *,
        grads: Any = None,
        state: Any = None,
        lr: Any = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """End an epoch, and begin the next.

        Args:
            params: tree of the parameters at the end of the epoch.
            loss: the mean loss of the epoch, a number or 0-d array; ``None``: the mean of the
                ``value`` of the steps (NaN if there are none).
            grads: the last gradients, a tree like the parameters; needed for quantities of them.
            state: see :meth:`step`.
            lr: the learning rate, a number or 0-d array; ``None``: that of the last step.
            metrics: other numbers for the row by name, such as ``{"test_loss": 0.3}``: numbers or
                0-d arrays.

        Returns:
            the row, ``{"epoch": 1, "loss": …, "step_size": …, "layers": {"fc1/kernel": {…}}}``.
        """
        own = {name: float(scalar(name, x)) for name, x in (metrics or {}).items()}
        self.flush()
        state = trained(state)
        leaves = list(map(on_host, self._leaves("params", params)))
        found = self._given(self._epoch, leaves, grads, state)
        vectors: dict[str, Any] = {u: list(map(on_host, x)) for u, x in found.items()}
        with np.errstate(all="ignore"):
            if self._start is not None:
                vectors["step"] = [x - y for x, y in zip(leaves, self._start, strict=True)]
            if "displacement" in vectors:
                origin = vectors["displacement"]
                vectors["displacement"] = [x - y for x, y in zip(leaves, origin, strict=True)]
        if "previous" in self._epoch.vectors:
            vectors["previous"] = self._epoch_step or [None] * len(leaves)
        mean = scalar("loss", loss)
        if mean is None and self._losses is not None:
            mean = float(self._losses) / self._loss_count
        rate = scalar("lr", rate_of(lr, state))
        self._lr = self._lr if rate is None else rate
        given = {"loss": math.nan if mean is None else float(mean), "lr": float(self._lr)}
        self._epoch_count += 1
        due, head = self._epoch.at(self._epoch_count), {"epoch": self._epoch_count}
        given |= {name: float(x) for name, x in of_wrappers(due.given, state).items()}
        given |= self._costs(due, self._clock)
        targets = core.targets(due.profiles, due.shows, self._layers, vectors)
        columns = [vectors[core.PROFILES[name].vector] for name, _ in targets]
        made = [core.profile(t, c, -1) for t, c in zip(targets, columns, strict=True)]
        profiles = core.by_layer(dict(zip(targets, made, strict=True)), self._layers)
        if self._options.exact:
            layers = {name: {"lr": given["lr"]} for name in self._layers}
            row = core.exact_row(head, due, vectors, given, layers, profiles=profiles)
        else:
            with np.errstate(all="ignore"):
                values, sizes, present = core.plain_sums(self._epoch.reductions, vectors)
            one = {r: column[:, None] for r, column in values.items()}
            sums = core.Sums(one, _in_columns(sizes), {"lr": given["lr"]})
            (row,) = core.plain_rows([head], due, sums, present, given, self._layers, [profiles])
        row = core.with_metrics(row, own)
        if "previous" in self._epoch.vectors:
            self._epoch_step = vectors["step"]
        row = self._output.epoch(row)
        self.begin_epoch(params)
        return row

    def flush(self) -> None:
        """Copy the measurements of the steps to the host, and write their rows."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        fetched = jax.device_get([made.values for made in pending])
        rows = [self._step_row(made, x) for made, x in zip(pending, fetched, strict=True)]
        self._output.add_steps(rows)

    def _step_row(self, made: Pending, values: dict[str, Any]) -> dict[str, Any]:
        due, numbers = made.due, {k: float(x) for k, x in values["numbers"].items()}
        micro = core.MicroBatches.of(values["micro"])
        columns = {r: x[:, None] for r, x in zip(due.reductions, values["sums"], strict=True)}
        sizes = _in_columns(dict.fromkeys(due.vectors, self._sizes))
        sums = core.Sums(columns, sizes, {"lr": numbers.get("lr", math.nan), "micro": micro})
        present = {
            u: np.full(len(self._layers), u != "previous" or made.has_previous) for u in due.vectors
        }
        if isinstance(micro, core.MicroBatches):
            numbers["micro"] = micro.whole()  # type: ignore[assignment]
        head = {"epoch": made.epoch, "step": made.number}
        found = dict(zip(made.targets, values["profiles"], strict=True))
        profiles = core.by_layer(found, self._layers)
        (row,) = core.plain_rows([head], due, sums, present, numbers, self._layers, [profiles])
        row = core.with_activations(row, due, values["activations"])
        return core.with_metrics(row, {k: float(x) for k, x in values["metrics"].items()})

    def _costs(self, due: core.Chosen, clock: core.Clock) -> dict[str, float]:
        found: dict[str, float] = {}
        if "seconds" in due.given:
            found |= {"seconds": clock.seconds(), "samples": clock.samples()}
        if "memory" in due.given:
            found["memory"] = peak_memory()
        return found

    def close(self) -> None:
        """Write pending rows."""
        self.flush()
        self._output.close()

    # Saved states.

    def state_dict(self) -> dict[str, Any]:
        """Return the state with which a resumed run continues with the same rows.

        The state has NumPy arrays, numbers, lists and dicts only. Pending measurements are first
        copied to the host.
        """
        self.flush()
        return {
            "config": self._options.config,
            "layers": list(self._layers),
            "epoch_count": self._epoch_count,
            "step_count": self._step_count,
            "loss_sum": None if self._losses is None else float(self._losses),
            "loss_count": self._loss_count,
            "lr": float(self._lr),
            "copies": {
                kind: None if column is None else [np.array(on_host(x)) for x in column]
                for kind, column in self._all_copies().items()
            },
            **self._output.saved(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state of :meth:`state_dict`.

        Args:
            state_dict: the state.

        Raises:
            ValueError: if the state has other quantities, or other parameters.
        """
        for name, own in {"config": self._options.config, "layers": list(self._layers)}.items():
            if state_dict.get(name) != own:
                raise ValueError(
                    f"state_dict with {name} = {state_dict.get(name)}: this recorder needs {own}"
                )
        copies = dict(state_dict["copies"])
        for kind, column in copies.items():
            on_host = column is None or kind in ("start", "epoch_step")
            setattr(self, f"_{kind}", column if on_host else [jnp.array(x) for x in column])
        self._pending = []
        self._epoch_count = int(state_dict["epoch_count"])
        self._step_count = int(state_dict["step_count"])
        self._losses = scalar("loss_sum", state_dict["loss_sum"])
        self._loss_count, self._lr = int(state_dict["loss_count"]), state_dict["lr"]
        self._output.load(state_dict)

    def _all_copies(self) -> dict[str, list[Any] | None]:
        return {
            "start": self._start,
            "epoch_step": self._epoch_step,
            "before": self._before,
            "last_step": self._last_step,
            "origin": self._origin,
        }

    # What is measured.

    def _leaves(self, argument: str, tree: Any) -> list[Any]:
        """Return the leaves of a tree like the parameters."""
        tree = trained(tree)
        layers, structure = flatten(tree)
        if layers != self._layers:
            raise ValueError(
                f"{argument} of structure {structure}: allowed is that of the parameters, "
                f"{self._structure}"
            )
        return jax.tree.leaves(tree)

    def _given(
        self, chosen: core.Chosen, leaves: list[Any], grads: Any, state: Any
    ) -> dict[str, Any]:
        """Return the vectors that need no computation."""
        wanted = chosen.vectors
        require(
            chosen.measured,
            {"grad": ("grads", grads), "m": ("state", state), "v": ("state", state)},
        )
        found: dict[str, Any] = {}
        if "params" in wanted:
            found["params"] = leaves
        if "grad" in wanted:
            found["grad"] = self._leaves("grads", grads)
        for u in sorted(wanted & MOMENTS.keys()):
            found[u] = self._leaves(f"state with {u}", moment_of(state, u))
        if "displacement" in wanted:
            found["displacement"] = self._origin
        return found


def _in_columns(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return sizes of layers in the form for ``plain_rows``."""
    return {u: size[:, None] for u, size in sizes.items()}
