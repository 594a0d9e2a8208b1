"""Hyperparameters with which every term of a formula counts."""

from __future__ import annotations

from typing import Any, Final

from optstudy_core import Algorithm
from optstudy_core.arrays.numbers import ANY, is_number
from optstudy_core.catalogue.hyperparameters import RANGES

ORDINARY: Final = {
    "lr": 0.047,
    "b1": 0.83,
    "b2": 0.957,
    "b3": 0.91,
    "eps": 0.0031,
    "eps_root": 0.00017,
    "weight_decay": 0.13,
    "momentum": 0.77,
    "dampening": 0.29,
    "alpha": 0.85,
    "beta": 0.33,
    "gamma": 0.371,
    "initial_first_moment": 0.017,
    "momentum_decay": 7.3,  # so that many terms of its series matter
    "threshold": 4.824339389801025,  # ρ₅ of RAdam in float32: met exactly
    "step_size_min": 0.029,  # so that it is met, as the largest is
    "step_size_max": 0.083,
    "reps_rel": 0.0377,
    "reps": 0.0171,
    "estim_lr0": 0.0123,
    "beta3": 0.93,
    "eps1": 0.031,
    "eps2": 0.41,
    "lambd": 3.7,  # so that the power shows
    "t0": 2.3,  # so that averaging begins
    "warmup_steps": 4.7,  # so that the rate rises and stays
    "min_norm": 2.3,  # so that one layer is longer, the other shorter
    "update_interval": 3.0,  # so that it is met exactly
    "sync_period": 3.0,
    "ascent_period": 3.0,
    "ascent_eps": 0.31,
    "sq_norm_floor": 37.0,  # so that some gradients are below it
    "accumulation_steps": 3.0,
    "jump_threshold": 1.37,
    "level_decay": 0.83,
    "jump_warmup": 1.3,
    "most_jumps": 2.0,
    "max_norm": 2.7,  # so that some gradients are longer, others not
    "clip_eps": 0.31,
    "max_value": 1.3,
    "clip_factor": 0.37,
    "unit_eps": 0.29,
    "ridge": 0.017,
    "precondition_frequency": 2.0,
    "adam_b1": 0.83,
    "adam_b2": 0.957,
    "adam_eps": 0.0031,
    "initial_scale_factor": 0.13,
    "mechanic_decay": 3.1,
    "mechanic_eps": 0.0021,
    "estim_lr_coef": 37.3,  # so that the estimate rises
}
"""Values of one name in all algorithms; none of the fractions is exact in binary."""

OTHERS: Final[tuple[dict[str, Any], ...]] = (
    {"ns_coefficients": "quintic", "ns_steps": 3},
    {"ns_coefficients": "polar_express"},
    {"ns_coefficients": (1.5, -0.5, 0.0), "ns_steps": 7},
    {"adjust_lr_fn": "match_rms_adamw", "adam_lr": 0.003},
    {"output_axis": 0},
    {"output_axis": (-1,), "reduction_axis": (0,)},
    {"split": 2},
)
"""Values of hyperparameters that are neither numbers nor booleans."""


def ordinary(algorithm: Algorithm, dialect: str | None) -> dict[str, Any]:
    """Return a value for every number among the hyperparameters, with all terms switched on."""
    found: dict[str, Any] = {}
    for name, default in algorithm.defaults(dialect).items():
        if not is_number(default):
            continue
        if isinstance(default, int) and name not in ORDINARY:
            found[name] = default + 1
            continue
        near = (0.71 if default < 1 <= 1.37 * default else 1.37) * default  # a fraction stays one
        candidates = [ORDINARY.get(name, near), 0.71 * default, 0.29]
        allowed = RANGES.get(name, ANY)
        fitting = [x for x in candidates if x not in (0.0, default) and allowed.holds(x)]
        found[name] = fitting[0]
    return found


def terms_of(algorithm: Algorithm, dialect: str | None) -> list[str]:
    """Return the numbers that leave a term out when they are 0."""
    defaults = algorithm.defaults(dialect)
    return [name for name, x in defaults.items() if is_number(x) and _can_be_left_out(name, x)]


def _can_be_left_out(name: str, default: Any) -> bool:
    allowed = RANGES.get(name)
    if allowed is None:
        return bool(default == 0)
    return name != "lr" and allowed.holds(0.0) and allowed.below > 1.0
