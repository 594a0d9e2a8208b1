"""What a step sends on a mesh: how much, and why more than optax where that is so.

Steps of two float32 matrices of 16 × 8, cut along both axes of a mesh of 4 × 2 devices.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import optax
from adapters import LR, RULES
from harness import inputs_for
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optstudy_jax

SUMS = "all-reduce"
WHOLE = "all-gather"

SENT: dict[str, dict[str, int]] = {
    # One after the other: the largest magnitudes, then integers, of all leaves and sums at once.
    "cautious(adam)": {SUMS: 2, "bytes": 64},
    "clipped(adam)": {SUMS: 2, "bytes": 32},
    "clipped_by_value(adam)": {SUMS: 2, "bytes": 64},
    "dadapt_adamw": {SUMS: 2, "bytes": 96},
    "dog": {SUMS: 2, "bytes": 96},
    "dowg": {SUMS: 2, "bytes": 96},
    "fromage": {SUMS: 2, "bytes": 128},
    "lamb": {SUMS: 2, "bytes": 128},
    "lars": {SUMS: 2, "bytes": 128},
    "mars": {SUMS: 2, "bytes": 64},
    "momo": {SUMS: 2, "bytes": 128},
    "momo_adam": {SUMS: 2, "bytes": 128},
    "novograd": {SUMS: 2, "bytes": 64},
    "polyak_sgd": {SUMS: 2, "bytes": 32},
    "prodigy": {SUMS: 2, "bytes": 96},
    "sam(adam)": {SUMS: 2, "bytes": 32},
    "skipping(adam)": {SUMS: 2, "bytes": 32},
    "stable_adamw": {SUMS: 2, "bytes": 64},
    # A sum waits for another one.
    "mechanic(adam)": {SUMS: 4, "bytes": 96},
    # Maxima of rows and of columns.
    "sm3": {SUMS: 1, "bytes": 192},
    # Squares along the axis along which they are summed; means of rows and columns; sums.
    "adafactor": {WHOLE: 8, SUMS: 2, "bytes": 1088},
    "clipped_by_unit(adam)": {WHOLE: 4, SUMS: 2, "bytes": 576},
    # Each gradient and each array that its matrix is computed with, along both axes of the mesh.
    "adamuon": {WHOLE: 16, "bytes": 5120},
    "clipped(adamuon)": {WHOLE: 16, "bytes": 5120},
    "muon": {WHOLE: 12, "bytes": 3840},
    "normuon": {WHOLE: 12, "bytes": 3840},
    "shampoo": {WHOLE: 4, "bytes": 1280},
    "soap": {WHOLE: 16, "bytes": 5120},
}
"""The most that a rule sends, by the kind of collective; the others send nothing."""

OPTAX: dict[str, Any] = {
    "adafactor": lambda: optax.adafactor(LR, min_dim_size_to_factor=8),
    "clipped(adam)": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(LR)),
    "clipped_by_unit(adam)": lambda: optax.chain(optax.adaptive_grad_clip(0.01), optax.adam(LR)),
    "dadapt_adamw": optax.contrib.dadapt_adamw,
    "dog": optax.contrib.dog,
    "dowg": optax.contrib.dowg,
    "fromage": lambda: optax.fromage(LR),
    "lamb": lambda: optax.lamb(LR),
    "lars": lambda: optax.lars(LR),
    "momo": optax.contrib.momo,
    "momo_adam": optax.contrib.momo_adam,
    "muon": lambda: optax.contrib.muon(LR),
    "novograd": lambda: optax.novograd(LR),
    "polyak_sgd": optax.polyak_sgd,
    "prodigy": optax.contrib.prodigy,
    "sm3": lambda: optax.sm3(LR),
}
"""The same in optax, where it sends something."""

EXACT = "an exact sum: 16 bytes of magnitudes, of either sign, and 16 of integers"
IN_ORDER = "a sum along an axis has one order, so its terms meet, and states are on all devices"
MORE_BYTES = dict.fromkeys(("clipped(adam)", "fromage", "lamb", "lars", "novograd"), EXACT) | {
    "adafactor": IN_ORDER,
    "clipped_by_unit(adam)": IN_ORDER,
    "dog": EXACT,
    "dowg": EXACT,
    "polyak_sgd": EXACT,
    "sm3": "maxima are put together whole, so that one all-reduce is enough, and not one an axis",
}
"""Why a rule sends more bytes than optax."""

MORE_OFTEN = {
    "clipped_by_unit(adam)": f"{IN_ORDER}; its state has two norms of all gradients besides",
}
"""Why a rule sends more often than optax."""


def sent(tx: Any, params: Any, more: Any) -> tuple[Counter[str], int]:
    """Return how often a step communicates, by the kind, and the bytes of the results."""
    tx = optax.with_extra_args_support(tx)
    state = jax.jit(tx.init)(params)
    text = jax.jit(tx.update).lower(params, state, params, **more).compile().as_text()
    kinds = "all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter"
    counts: Counter[str] = Counter()
    size = 0
    # Several may be one, whose result is a tuple.
    for results, kind in re.findall(rf"= (\(.*?\)|\S+) ({kinds})(?:-start)?\(", text):
        counts[kind] += 1
        for bits, shape in re.findall(r"\b[a-z]+(\d+)\[([\d,]*)\]", results):
            size += int(bits) // 8 * math.prod(int(n) for n in shape.split(",") if n)
    return counts, size


def no_more_than_optax(*names: str) -> None:
    """Hold what rules send against :data:`SENT`, and against optax; on Explicit axes it is that."""
    for name in names:
        for kind in (AxisType.Auto, AxisType.Explicit):
            counts, size = _sent_by(_ours(name), name, kind)
            most = Counter(SENT.get(name, {}))
            assert size <= most.pop("bytes", 0), (name, size)
            assert counts <= most, (name, counts)
        if name in OPTAX:
            theirs, their_size = _sent_by(OPTAX[name](), name, AxisType.Auto)
            assert (counts.total() > theirs.total()) == (name in MORE_OFTEN), (name, theirs)
            assert (size > their_size) == (name in MORE_BYTES), (name, their_size)


def _ours(name: str) -> Any:
    rule = RULES[name]
    rate = {"learning_rate": LR} if "lr" in rule.defaults() else {}
    return optstudy_jax.from_core(rule)(dialect=rule.default_dialect, **rate)


def _sent_by(tx: Any, name: str, kind: AxisType) -> tuple[Counter[str], int]:
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))
    place = NamedSharding(mesh, PartitionSpec("a", "b"))
    params = {key: jax.device_put(jnp.ones((16, 8)), place) for key in "uw"}
    return sent(tx, params, {"value": jnp.ones(())} | inputs_for(RULES[name], params))
