"""The allowed values of hyperparameters, by name and dialect.

The same name means the same in all algorithms, so that one table serves all. A name that the table
does not have (in your own update function) takes any finite number.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any, Final

import numpy as np

from optstudy_core.arrays.numbers import ANY, DECAY_RATE, NON_NEGATIVE, Range, is_number

RANGES: Final[Mapping[str, Range]] = {
    "lr": NON_NEGATIVE,
    "b1": DECAY_RATE,
    "b2": DECAY_RATE,
    "b3": DECAY_RATE,
    "eps": NON_NEGATIVE,
    "eps_root": NON_NEGATIVE,
    "weight_decay": NON_NEGATIVE,
    "momentum": NON_NEGATIVE,
    "dampening": Range(at_least=0.0, at_most=1.0),
    "alpha": NON_NEGATIVE,
    "beta": NON_NEGATIVE,
    "gamma": NON_NEGATIVE,
    "initial_accumulator_value": NON_NEGATIVE,
    "initial_scale": NON_NEGATIVE,
    "lr_decay": NON_NEGATIVE,
    "momentum_decay": NON_NEGATIVE,
    "rho": Range(at_least=0.0, at_most=1.0),
    "threshold": Range(at_least=4.0),
    "etaminus": Range(above=0.0, below=1.0),
    "etaplus": Range(above=1.0),
    "step_size_min": NON_NEGATIVE,
    "step_size_max": Range(above=0.0),
    "trust_coefficient": NON_NEGATIVE,
    "min_norm": NON_NEGATIVE,
    "warmup_steps": NON_NEGATIVE,
    "sync_period": Range(at_least=1.0),
    "slow_step_size": Range(at_least=0.0, at_most=1.0),
    "average_decay": DECAY_RATE,
    "reps_rel": NON_NEGATIVE,
    "reps": NON_NEGATIVE,
    "init_eta": NON_NEGATIVE,
    "beta3": DECAY_RATE,
    "estim_lr0": Range(above=0.0),
    "estim_lr_coef": NON_NEGATIVE,
    "init_estim_sq_dist": Range(above=0.0),
    "lambd": NON_NEGATIVE,
    "beta2_decay": Range(above=-2.0, at_most=0.0),
    "eps1": NON_NEGATIVE,
    "eps2": NON_NEGATIVE,
    "d": Range(at_least=1.0),
    "t0": NON_NEGATIVE,
    "max_lr": NON_NEGATIVE,
    "c": Range(above=0.0),
    "sq_norm_floor": NON_NEGATIVE,
    "clip_threshold": NON_NEGATIVE,
    "update_interval": Range(at_least=1.0),
    "ascent_radius": NON_NEGATIVE,
    "ascent_period": Range(at_least=1.0),
    "initial_scale_factor": Range(above=0.0),
    "mechanic_decay": NON_NEGATIVE,
    "mechanic_eps": Range(above=0.0),
    "accumulation_steps": Range(at_least=1.0),
    "jump_threshold": Range(above=0.0, infinite=True),
    "level_decay": DECAY_RATE,
    "jump_warmup": Range(at_least=1.0),
    "most_jumps": Range(at_least=1.0),
    "max_norm": Range(above=0.0),
    "clip_eps": NON_NEGATIVE,
    "max_value": Range(above=0.0),
    "clip_factor": Range(above=0.0),
    "unit_eps": NON_NEGATIVE,
    "consistent_rms": NON_NEGATIVE,
    "ridge": NON_NEGATIVE,
    "precondition_frequency": Range(at_least=1.0),
    "adam_lr": NON_NEGATIVE,
    "adam_b1": DECAY_RATE,
    "adam_b2": DECAY_RATE,
    "adam_eps": NON_NEGATIVE,
    "adam_weight_decay": NON_NEGATIVE,
}

_ANY_SIGN: Final[dict[str, Range]] = {
    name: ANY for name, allowed in RANGES.items() if allowed == NON_NEGATIVE
}
_OF_LIBRARIES: Final = dict(RANGES) | _ANY_SIGN | {"d": Range(above=0.0, infinite=True)}

RANGES_OF_DIALECTS: Final[Mapping[str, Mapping[str, Range]]] = {
    "optax": _OF_LIBRARIES,
    "keras": _OF_LIBRARIES,
}
"""Ranges in the dialects of libraries that check no values: all values with a finite result.

A decay rate ≥ 1 is refused: 1 − β would be 0, or the average would grow without limit.
"""


def check_value(name: str, value: Any, default: Any, dialect: str | None = None) -> None:
    """Refuse a value that hyperparameter ``name`` may not have in a dialect.

    Arrays (traced values, tensors) are accepted: their values may not be known yet.

    Raises:
        TypeError: if the value is of the wrong kind.
        ValueError: if it is a number out of range.

    >>> check_value("b1", 1.5, 0.9)
    Traceback (most recent call last):
    ValueError: b1 = 1.5: allowed are numbers from 0 to below 1
    """
    if isinstance(default, bool):
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} = {value!r}: allowed are True and False")
    elif is_number(default) or (default is None and name in RANGES):
        allowed = RANGES_OF_DIALECTS.get(dialect or "", RANGES).get(name, ANY)
        if is_number(value):
            try:
                held = allowed.holds(float(value))
            except OverflowError:  # a whole number beyond float64
                held = False
            if not held:
                raise ValueError(f"{name} = {value!r}: allowed are {allowed}")
        elif value is None or isinstance(value, bool | str | bytes | Number | list | tuple | dict):
            raise TypeError(f"{name} = {value!r}: allowed are {allowed}")
