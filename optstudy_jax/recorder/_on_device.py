"""Measurements of a step on the device, in one program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optstudy_core import instruments as core

from ._inputs import copied


def _measured(
    static: tuple[tuple[core.Reduction, ...], tuple[core.Target, ...], bool, bool, bool],
    params: list[Any],
    before: list[Any] | None,
    updates: list[Any] | None,
    previous: list[Any] | None,
    given: dict[str, Any],
) -> tuple[tuple[list[Any], list[Any]], list[Any] | None, list[Any] | None]:
    """Return the sums of a step for each layer, the profiles, and values for the next step."""
    wanted, targets, moves, keep, copy = static
    vectors = {u: column for u, column in given.items() if u != "displacement"}
    if "displacement" in given:
        vectors["displacement"] = list(map(jnp.subtract, params, given["displacement"]))
    step = None
    if moves:
        step = updates
        if step is None and before is not None:
            step = list(map(jnp.subtract, params, before))
        vectors["step"] = step
        vectors["previous"] = [None] * len(params) if previous is None else previous
    with jax.enable_x64(True):
        values, _, _ = core.plain_sums(wanted, vectors, jnp)
    profiles = [core.profile(t, vectors[core.PROFILES[t[0]].vector], -1) for t in targets]
    return (
        ([values[reduction] for reduction in wanted], profiles),
        copied(params) if copy else None,
        copied(step) if keep and step is not None else None,
    )


advance = jax.jit(_measured, static_argnums=0)
advance_in_place = jax.jit(_measured, static_argnums=0, donate_argnums=(2, 4))


def peak_memory() -> float:
    """Return the peak memory of the device in MiB; of the process if the device has no count."""
    found = jax.local_devices()[0].memory_stats() or {}
    peak = found.get("peak_bytes_in_use")
    return core.process_peak() if peak is None else peak / 2**20
