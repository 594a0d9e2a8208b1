"""Schedules: their values, what torch and optax have instead, what is refused."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import jax
import mpmath
import numpy as np
import optax
import pytest
import torch
from torch.optim import lr_scheduler

from optstudy_core import schedules
from optstudy_core.parts.cosine import cos_pi
from optstudy_core.schedules import (
    DIALECTS,
    Chained,
    Constant,
    Cosine,
    Exponential,
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
from optstudy_core.schedules.powers import part_power, quotient, whole_power
from parity.curves import COUNTS, CURVES

pytestmark = pytest.mark.usefixtures("compiled_quickly")

STEPS = 120
BOUND = 1e-12
"""Largest distance, relative to the largest value: roundings of some hundred steps in double."""


def test_the_cosine_is_that_of_many_digits() -> None:
    x = np.random.default_rng(0).uniform(0, 1, 2000).tolist()
    with mpmath.workprec(120):
        wanted = [mpmath.cos(mpmath.pi * mpmath.mpf(v)) for v in x]
        errors = [abs(cos_pi(v) - w) for v, w in zip(x, wanted, strict=True)]
    assert max(errors) < 2.0**-52
    assert [cos_pi(v) for v in (0.0, 0.5, 1.0)] == [1.0, 0.0, -1.0]


def test_powers_are_those_of_many_digits() -> None:
    rng = np.random.default_rng(0)
    for x, a in rng.uniform(0, 1, (300, 2)).tolist():
        n = math.floor(40 * a)
        with mpmath.workprec(120):
            assert abs(part_power(x, a) / mpmath.power(x, a) - 1) < 1e-14
            assert abs(whole_power(x, float(n)) / mpmath.power(x, n) - 1) < 1e-14
    assert [part_power(0.0, 0.5), part_power(0.5, 0.0)] == [0.0, 1.0]
    assert quotient(2.0**31 - 1, 3.0) == (715827882.0, 1 / 3)


MARK = 2729410194
"""CRC-32 of all values of :data:`CURVES`."""


def test_values_keep_their_bits() -> None:
    values = [curve(count) for curve in CURVES.values() for count in COUNTS]
    mark = zlib.crc32(np.array(values).tobytes())
    assert mark == MARK, mark


# Against torch and optax.


def of_torch(make: Callable[[Any], Any], lr: float = 0.9, what: str = "lr") -> list[float]:
    """Return what torch's scheduler sets at each step."""
    w = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([w], lr=lr, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of steps without the optimizer's
        scheduler = make(optimizer)
        found = []
        for _ in range(STEPS):
            found.append(optimizer.param_groups[0][what])
            scheduler.step()
    return found


def of_optax(schedule: Any) -> list[float]:
    """Return optax's values in float64."""
    with jax.enable_x64(True):
        return [float(schedule(np.float64(count))) for count in range(STEPS)]


WARM_TORCH = lambda opt: lr_scheduler.SequentialLR(  # noqa: E731
    opt,
    [lr_scheduler.LinearLR(opt, 0.1, 1.0, 20), lr_scheduler.CosineAnnealingLR(opt, 100, 0.09)],
    [20],
)
TOTAL = STEPS + 1  # torch's refuse to go on after their end
ROUNDS = [
    {"init_value": v, "peak_value": p, "decay_steps": n, "warmup_steps": w, "end_value": e}
    for v, p, n, w, e in ((0.0, 0.9, 30, 5, 0.1), (0.1, 0.6, 80, 10, 0.0))
]
PAIRS: dict[str, tuple[Schedule, Callable[[], list[float]]]] = {
    "torch.ConstantLR": (
        joined(Constant(0.3), Constant(0.9), at=[5]),
        lambda: of_torch(lambda o: lr_scheduler.ConstantLR(o, 1 / 3, 5)),
    ),
    "torch.LinearLR": (
        Linear(0.3, 0.6, 40),
        lambda: of_torch(lambda o: lr_scheduler.LinearLR(o, 1 / 3, 2 / 3, 40)),
    ),
    "torch.CosineAnnealingLR": (
        Cosine(0.9, 0.1, 33, **DIALECTS["Cosine"]["torch"]),
        lambda: of_torch(lambda o: lr_scheduler.CosineAnnealingLR(o, 33, 0.1)),
    ),
    "torch.PolynomialLR": (
        Polynomial(0.9, 0.0, 100, 2.5),
        lambda: of_torch(lambda o: lr_scheduler.PolynomialLR(o, 100, 2.5)),
    ),
    "torch.ExponentialLR": (
        Exponential(0.9, 0.93),
        lambda: of_torch(lambda o: lr_scheduler.ExponentialLR(o, 0.93)),
    ),
    "torch.StepLR": (
        Steps(0.9, 0.3, 25),
        lambda: of_torch(lambda o: lr_scheduler.StepLR(o, 25, 0.3)),
    ),
    "torch.MultiStepLR": (
        Milestones(0.9, {30: 0.3, 70: 0.3}),
        lambda: of_torch(lambda o: lr_scheduler.MultiStepLR(o, [30, 70], 0.3)),
    ),
    "torch.CosineAnnealingWarmRestarts": (
        Restarts(Cosine(0.9, 0.1, 10), 10),
        lambda: of_torch(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10, 1, 0.1)),
    ),
    "torch.CosineAnnealingWarmRestarts, growing": (
        Restarts(Cosine(0.9, 0.1, 10), 10, growth=3),
        lambda: of_torch(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10, 3, 0.1)),
    ),
    "torch.SequentialLR": (
        joined(Linear(0.09, 0.9, 20), Cosine(0.9, 0.09, 100, rises_again=True), at=[20]),
        lambda: of_torch(WARM_TORCH),
    ),
    "torch.ChainedScheduler": (
        Chained((Exponential(0.9, 0.97), Linear(0.25, 1.0, 30))),
        lambda: of_torch(
            lambda o: lr_scheduler.ChainedScheduler(
                [lr_scheduler.ExponentialLR(o, 0.97), lr_scheduler.LinearLR(o, 0.25, 1.0, 30)]
            )
        ),
    ),
    "torch.OneCycleLR": (
        one_cycle(0.9, TOTAL),
        lambda: of_torch(lambda o: lr_scheduler.OneCycleLR(o, 0.9, TOTAL)),
    ),
    "torch.OneCycleLR, three phases": (
        one_cycle(0.9, TOTAL, pct_start=0.4, pct_final=0.8, shape=Linear),
        lambda: of_torch(
            lambda o: lr_scheduler.OneCycleLR(
                o, 0.9, TOTAL, pct_start=0.4, three_phase=True, anneal_strategy="linear"
            )
        ),
    ),
    "torch.OneCycleLR, momentum": (
        one_cycle_momentum(0.85, 0.95, TOTAL),
        lambda: of_torch(lambda o: lr_scheduler.OneCycleLR(o, 0.9, TOTAL), what="momentum"),
    ),
    "torch.OneCycleLR, momentum in three phases": (
        one_cycle_momentum(0.85, 0.95, TOTAL, pct_final=0.6),
        lambda: of_torch(
            lambda o: lr_scheduler.OneCycleLR(o, 0.9, TOTAL, three_phase=True), what="momentum"
        ),
    ),
    "optax.linear_schedule": (
        Linear(0.3, 0.9, 40),
        lambda: of_optax(optax.linear_schedule(0.3, 0.9, 40)),
    ),
    "optax.cosine_decay_schedule": (
        Cosine(0.9, 0.09, 33, **DIALECTS["Cosine"]["optax"]),
        lambda: of_optax(optax.cosine_decay_schedule(0.9, 33, 0.1)),
    ),
    "optax.polynomial_schedule": (
        Polynomial(0.9, 0.2, 100, 1.7),
        lambda: of_optax(optax.polynomial_schedule(0.9, 0.2, 1.7, 100)),
    ),
    "optax.exponential_decay": (
        Exponential(0.9, 0.5, 30),
        lambda: of_optax(optax.exponential_decay(0.9, 30, 0.5)),
    ),
    "optax.exponential_decay, staircase": (
        Steps(0.9, 0.5, 30),
        lambda: of_optax(optax.exponential_decay(0.9, 30, 0.5, staircase=True)),
    ),
    "optax.piecewise_constant_schedule": (
        Milestones(0.9, {30: 0.3, 70: 0.5}),
        lambda: of_optax(optax.piecewise_constant_schedule(0.9, {30: 0.3, 70: 0.5})),
    ),
    "optax.warmup_cosine_decay_schedule": (
        warmup_stable_decay(0.9, warmup=20, decay=80, start=0.1, end=0.09, decay_shape=Cosine),
        lambda: of_optax(optax.warmup_cosine_decay_schedule(0.1, 0.9, 20, 100, 0.09)),
    ),
    "optax.warmup_constant_schedule": (
        warmup_stable_decay(0.9, warmup=20, start=0.1),
        lambda: of_optax(optax.warmup_constant_schedule(0.1, 0.9, 20)),
    ),
    "optax.sgdr_schedule": (
        joined(
            *(Linear(0.0, 0.9, 5), Cosine(0.9, 0.1, 25), Linear(0.1, 0.6, 10)),
            Cosine(0.6, 0.0, 70),
            at=[5, 30, 40],
        ),
        lambda: of_optax(optax.sgdr_schedule(ROUNDS)),
    ),
    "optax.join_schedules": (
        joined(Exponential(0.9, 0.8), Cosine(0.5, 0.0, 50), at=[40]),
        lambda: of_optax(
            optax.join_schedules(
                [optax.exponential_decay(0.9, 1, 0.8), optax.cosine_decay_schedule(0.5, 50)], [40]
            )
        ),
    ),
    "optax.cosine_onecycle_schedule": (
        one_cycle(0.9, 101, dialect="optax"),
        lambda: of_optax(optax.cosine_onecycle_schedule(101, 0.9)),
    ),
    "optax.linear_onecycle_schedule": (
        one_cycle(0.9, 101, dialect="optax", pct_final=0.85, shape=Linear),
        lambda: of_optax(optax.linear_onecycle_schedule(101, 0.9)),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_curve_is_that_of_the_library(name: str) -> None:
    ours, theirs = PAIRS[name]
    wanted = np.array(theirs())
    found = np.array([ours(count) for count in range(STEPS)])
    assert np.max(np.abs(found - wanted)) <= BOUND * np.max(wanted)


def test_dialects_differ() -> None:
    for name, make in {"Cosine": Cosine, "one_cycle": one_cycle}.items():
        given = (0.9, 0.1, 20) if make is Cosine else (0.9, 40)
        curves = [make(*given, **own) for own in DIALECTS[name].values()]
        values = [[curve(count) for count in range(40)] for curve in curves]
        assert not np.allclose(*values, rtol=1e-3)


def test_epochs_are_counted() -> None:
    curve = PerEpoch(Linear(1.0, 0.0, 4), 10)
    assert [curve(t) for t in (0, 9, 10, 39, 40)] == [1.0, 1.0, 0.75, 0.25, 0.0]


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_a_schedule_is_a_value(curve: Schedule) -> None:
    """It can be copied, pickled, compared and printed, and stays at its end."""
    for other in (copy.deepcopy(curve), pickle.loads(pickle.dumps(curve))):
        assert other == curve
        assert other(7) == curve(np.int32(7)) == curve(torch.tensor(7))
    assert eval(repr(curve), vars(schedules)) == curve


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Linear(0, 1, 0), ValueError, "steps = 0: allowed are numbers above 0"),
        (lambda: Linear(math.nan, 1, 2), ValueError, "start = nan: allowed are finite numbers"),
        (lambda: Constant("a"), ValueError, "value = 'a'"),
        (lambda: Polynomial(1, 0, 5, 0), ValueError, "power = 0"),
        (lambda: Exponential(1, 1.5, 5), ValueError, "factor = 1.5"),
        (lambda: Steps(1, -1, 5), ValueError, "factor = -1"),
        (lambda: Milestones(1, {0: 0.5}), ValueError, "factors"),
        (lambda: Restarts(Constant(1), 5, growth=1.5), ValueError, "growth = 1.5"),
        (lambda: Restarts(0.1, 5), TypeError, "schedule = 0.1: allowed are schedules"),
        (lambda: joined(Constant(1), at=[3]), ValueError, "boundaries"),
        (lambda: joined(*[Constant(1)] * 3, at=[3, 2]), ValueError, "ascending"),
        (lambda: joined(at=[]), TypeError, "one or more schedules"),
        (lambda: Chained((0.5,)), TypeError, "schedules"),
        (lambda: warmup_stable_decay(1.0, warmup=-1), ValueError, "warmup = -1"),
        (lambda: one_cycle(1.0, 100, dialect="keras"), ValueError, "dialect = 'keras'"),
        (lambda: one_cycle(1.0, 3), ValueError, "a phase has no steps"),
    ],
)
def test_bad_values_are_refused(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
