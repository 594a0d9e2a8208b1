"""Schedules of every kind, alone and nested, for the suite and the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from optstudy_core.schedules import (
    Chained,
    Constant,
    Cosine,
    Exponential,
    InverseRoot,
    Linear,
    Milestones,
    PerEpoch,
    Polynomial,
    Restarts,
    Schedule,
    Steps,
    joined,
    one_cycle,
    one_cycle_momentum,
    warmup_stable_decay,
)

CURVES: Final[Mapping[str, Schedule]] = {
    "constant": Constant(0.3),
    "linear": Linear(0.1, 0.7, 13),
    "cosine": Cosine(0.9, 0.07, 17),
    "cosine that rises again": Cosine(0.9, 0.07, 17, rises_again=True),
    "polynomial": Polynomial(0.9, 0.1, 23, 2.7),
    "square": Polynomial(0.9, 0.0, 23, 2),
    "exponential": Exponential(0.9, 0.83, 7),
    "steps": Steps(0.9, 0.3, 7),
    "milestones": Milestones(0.9, {20: 0.3, 3: 0.7}),
    "inverse root": joined(Linear(0.0, 0.7, 11), InverseRoot(0.7, 11), at=[11]),
    "warm-up, stable, decay": warmup_stable_decay(
        0.9, warmup=7, stable=5, decay=11, warmup_shape=Cosine
    ),
    "one cycle": one_cycle(0.9, 40),
    "one cycle of optax": one_cycle(0.9, 40, dialect="optax", pct_final=0.85, shape=Linear),
    "momentum of one cycle": one_cycle_momentum(0.85, 0.95, 40),
    "restarts": Restarts(Cosine(0.9, 0.1, 7), 7, factor=0.9),
    "growing restarts": Restarts(Cosine(0.9, 0.1, 7), 7, growth=2, factor=0.9),
    "in epochs": PerEpoch(Cosine(0.9, 0.1, 7), 5),
    "chained": Chained((Linear(0.1, 1.0, 5), Exponential(0.7, 0.9))),
    "restarts of a warm-up": Restarts(warmup_stable_decay(0.9, warmup=3, decay=9), 12, growth=3),
    "epochs of a chain": PerEpoch(Chained((Steps(0.5, 0.5, 4), Polynomial(1.0, 0.2, 9, 0.5))), 3),
}

COUNTS = (*range(60), 97, 1000, 99_999, 2**31 - 1)
"""The counts at which schedules are compared."""
