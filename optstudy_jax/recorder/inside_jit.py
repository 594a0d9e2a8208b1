"""Quantities of trees for use inside ``jit``, and a transformation that keeps them in its state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optstudy_core import instruments as core

from ._inputs import MOMENTS, columns_of, flatten, require, single


class RecordState(NamedTuple):
    """State of :func:`record`.

    Attributes:
        metrics: the quantities of the last step by name, float32 scalars; NaN before the first.
        layers: for each layer by name, its quantities; ``None`` without ``per_layer``.
        previous: the last updates, or ``None``; zeros at the start.
        origin: the parameters at the start, or ``None``.
    """

    metrics: dict[str, Any]
    layers: dict[str, dict[str, Any]] | None
    previous: Any
    origin: Any


def measure(
    names: Sequence[str],
    *,
    given: Mapping[str, Any] | None = None,
    per_layer: bool = False,
    **trees: Any,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]] | None]:
    """Return quantities of trees, from plain float64 sums; for use inside ``jit`` and ``scan``.

    Args:
        names: names of quantities and instruments.
        given: ``loss``, ``lr``: numbers or arrays.
        per_layer: also return the quantities of each layer.
        **trees: ``grad``, ``params``, ``step``, ``previous``, ``displacement`` (θ − θ₀), ``m``,
            ``v``: trees with the same structure.

    Returns:
        the quantities by name, and the quantities of each layer by its name (or ``None``); float32
        scalars.

    Raises:
        TypeError: if a tree is missing that a quantity needs.
        ValueError: if a quantity is unknown, or structures differ.
    """
    chosen = core.select(names, "names")
    _refuse("names", chosen, {"loss", "lr"})
    wanted = sorted(core.vectors(chosen))
    require(chosen, {u: (u, trees.get(u)) for u in wanted})
    layers, _ = flatten(trees[wanted[0]] if wanted else ())
    columns = columns_of({u: trees[u] for u in wanted})
    known = {k: jnp.asarray(v, jnp.float32) for k, v in (given or {}).items()}
    with jax.enable_x64(True):
        values, sizes, present = core.plain_sums(core.reductions(chosen), columns, jnp)
        sums = core.Sums(values, sizes, known, jnp)
        whole = sums.whole(present, known)
        metrics = {name: single(core.QUANTITIES[name](whole)) for name in chosen}
        if not per_layer:
            return metrics, None
        own = [name for name in chosen if name not in core.OF_THE_WHOLE]
        made = {
            name: jnp.broadcast_to(single(core.QUANTITIES[name](sums)), (len(layers),))
            for name in own
        }
        return metrics, {
            layer: {name: made[name][i] for name in own} for i, layer in enumerate(layers)
        }


def _refuse(argument: str, chosen: Sequence[str], known: set[str]) -> None:
    for name in chosen:
        if name not in core.QUANTITIES or core.given([name]) - known:
            state = ", with state=" if name == "lr" else ""
            raise ValueError(f"{argument} with {name!r}: allowed in Recorder{state}")


def record(
    quantities: Iterable[str], *, per_layer: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Return a transformation that measures the updates, and returns them unchanged.

    Put it at the end of a chain, where the updates are the step. Its state holds the quantities of
    the last step: ``optax.tree_utils.tree_get(state, "metrics")["step_size"]``. θ are the
    parameters after the step. Quantities of the gradient need ``grad=``, and the loss needs
    ``value=``:

        updates, state = tx.update(grads, state, params, value=loss, grad=grads)

    Args:
        quantities: names of quantities and instruments, without the learning rate and the moments,
            which this transformation does not know.
        per_layer: also measure each layer.

    Raises:
        ValueError: if a name is unknown, or the quantity cannot be measured here.
    """
    chosen = core.select(quantities, "quantities")
    wanted = core.vectors(chosen)
    _refuse("quantities", chosen, {"loss"})
    for name in chosen:
        if core.vectors([name]) & MOMENTS.keys():
            raise ValueError(f"quantities with {name!r}: allowed in Recorder, with state=")
    moving = "previous" in wanted

    def init(params: Any) -> RecordState:
        nan = jnp.full((), jnp.nan, jnp.float32)
        own = [name for name in chosen if name not in core.OF_THE_WHOLE]
        return RecordState(
            metrics=dict.fromkeys(chosen, nan),
            layers={n: dict.fromkeys(own, nan) for n in flatten(params)[0]} if per_layer else None,
            previous=jax.tree.map(jnp.zeros_like, params) if moving else None,
            origin=jax.tree.map(jnp.copy, params) if "displacement" in wanted else None,
        )

    def update(
        updates: Any,
        state: RecordState,
        params: Any = None,
        *,
        value: Any = None,
        grad: Any = None,
        **extra: Any,
    ) -> tuple[Any, RecordState]:
        del extra  # of other transformations in the chain
        require(chosen, {"grad": ("grad", grad), "params": ("params", params)})
        require(chosen, {"displacement": ("params", params)})
        if "loss" in chosen and value is None:
            raise TypeError("value is missing: loss cannot be recorded without it")
        # The measurement must not change how XLA compiles the step.
        step, before, gradient = jax.lax.optimization_barrier((updates, params, grad))
        trees: dict[str, Any] = {"step": step, "grad": gradient, "previous": state.previous}
        if wanted & {"params", "displacement"}:
            trees["params"] = now = optax.apply_updates(before, step)
        if state.origin is not None:
            trees["displacement"] = jax.tree.map(jnp.subtract, now, state.origin)
        metrics, layers = measure(
            chosen,
            given={} if value is None else {"loss": value},
            per_layer=per_layer,
            **{u: trees[u] for u in wanted},
        )
        previous = jax.tree.map(jnp.copy, updates) if moving else None
        return updates, RecordState(metrics, layers, previous, state.origin)

    return optax.GradientTransformationExtraArgs(init, update)
