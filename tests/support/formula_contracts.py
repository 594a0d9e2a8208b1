"""What golden bits cannot see of formulas: each check is called with the modules that changed."""

from __future__ import annotations

import itertools
import math
import operator
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from types import ModuleType, SimpleNamespace
from typing import Any

import golden_bits
import mutants
import numpy as np
import pytest

from optstudy_core import ALGORITHMS, Algorithm, doubles
from optstudy_core.arrays.leaves import Leaves, fields_of
from optstudy_core.arrays.numbers import is_number
from optstudy_core.arrays.numpy_backend import NumPy


def helpers_do_what_they_say(modules: dict[str, ModuleType]) -> None:
    grad = np.ones(2)
    if "terms" in modules:
        assert modules["terms"].objective_gradient(grad, None) is grad
        theta = np.float32(np.random.default_rng(0).uniform(-4, 4, 100))
        for lr in np.linspace(0.1, 0.9, 50).tolist():  # 1 + lr·λ is rounded once: seldom seen
            leaf = Leaves([theta], NumPy())
            step = modules["terms"].proximal_decay(0 * leaf, leaf, lr=lr, weight_decay=0.7)
            wanted = (0 * theta - (lr * 0.7) * theta) / (1 + lr * 0.7)
            assert np.array_equal(step.values[0], wanted)
        given = {"weight_decay": 0.5, "cautious": True}
        decayed, tiny = modules["terms"].decoupled_decay, np.float32([1e-30, -1e-30])
        kept = decayed(abs(tiny), tiny, lr=1.0, **given)  # step·θ is 0 in float32
        assert np.array_equal(kept, np.float32([1e-30, 1.5e-30]))
        grown = decayed(grad, np.array([-1.0, 1.0]), lr=-1.0, **given)  # by a negative rate
        assert np.array_equal(grown, [0.5, 1.0])
        far = decayed(grad, np.array([np.inf, -np.inf]), lr=1.0, **given)  # step/θ would be 0
        assert np.array_equal(far, [1.0, np.inf])
    if "namespace" in modules:
        absent = modules["namespace"].absent
        assert all(absent(x) for x in (0, 0.0, -0.0))
        assert not any(absent(x) for x in (1, -1, 0.1, -0.1, np.zeros(()), np.float32(0.0)))


CUBE_ROOTS = {"float32": 3680349608, "float64": 1231177337}
"""CRC-32 of the cube roots of many numbers: roundings that golden bits hardly ever show."""


def cube_roots_keep_their_bits(modules: dict[str, ModuleType]) -> None:
    if "power" not in modules:
        return
    rng = np.random.default_rng(0)
    for dtype, wanted in CUBE_ROOTS.items():
        info = np.finfo(dtype)
        x = np.ldexp(rng.uniform(1, 2, 20_000), rng.integers(info.minexp, info.maxexp, 20_000))
        roots = modules["power"].cbrt(x.astype(dtype))
        assert zlib.crc32(roots.tobytes()) == wanted, f"{dtype}: {zlib.crc32(roots.tobytes())}"


POWERS = 1291531230
"""CRC-32 of powers, of numbers and of what comes from arrays."""


def powers_keep_their_bits(modules: dict[str, ModuleType]) -> None:
    if "power" not in modules:
        return
    power1p = modules["power"].power1p
    rng = np.random.default_rng(0)
    e = np.ldexp(rng.uniform(1, 2, 4000), rng.integers(-10, 63, 4000))
    exponents = (0.0, 1 / 3, 0.75, 0.8, 1.0, 1.5, 1.9999, *rng.uniform(3e-4, 5e-4, 10).tolist())
    found = []
    mutants.working_dtype("float32")  # what rounds a number early shows
    for a in exponents:  # in the last ones the series is all that there is
        of_array = power1p(doubles.Doubles(e, NumPy()), doubles.Doubles(np.float64(a), NumPy()))
        found += [power1p(e, a), of_array.value]
    mark = zlib.crc32(np.stack(found).tobytes())
    assert mark == POWERS, mark
    for dtype in golden_bits.DTYPES:
        mutants.working_dtype(dtype)
        epsilon = modules["power"].machine_epsilon(Leaves([np.ones(3, dtype)], NumPy())).values[0]
        assert epsilon.dtype == dtype
        assert epsilon == np.finfo(dtype).eps


def scalars_are_made_where_their_array_is(modules: dict[str, ModuleType]) -> None:
    if "namespace" not in modules:
        return
    made = SimpleNamespace(full=lambda *args, **options: (args, options), int32="i")
    library = SimpleNamespace(is_jax_array=lambda x: x.of_jax, device=lambda x: x.device)
    scalar = modules["namespace"].scalar
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules["namespace"], "array_api_compat", library)
        for of_jax in (False, True):
            like = SimpleNamespace(
                __array_namespace__=lambda: made, of_jax=of_jax, dtype="f", device="d"
            )
            args, options = scalar(like, 0.5)
            assert args == ((), 0.5)
            assert options == {"dtype": "f", "device": None if of_jax else "d"}
            args, options = modules["namespace"].no_steps(like)
            assert args == ((), 0)
            assert options == {"dtype": "i", "device": None if of_jax else "d"}


def init_needs_no_hyperparameters(modules: dict[str, ModuleType]) -> None:
    """Called without, it takes the values that update has by default."""
    for algorithm in mutants.algorithms(modules).values():
        params = Leaves([np.ones(2)], NumPy())
        one, other = algorithm.init(params), algorithm.start(params, algorithm.defaults())
        with np.printoptions(floatmode="unique"):
            assert repr(one) == repr(other)


class _Listing(NumPy):
    """Lists the operations."""

    def __init__(self) -> None:
        self.listed: list[str] = []

    def apply(self, operation: str, *args: Any) -> Any:
        self.listed.append(operation)
        return super().apply(operation, *args)

    def of_numbers(self, operation: str, *args: Any) -> Any:
        self.listed.append(f"{operation} of numbers")
        return super().of_numbers(operation, *args)


def a_late_momentum_needs_no_parameters(modules: dict[str, ModuleType]) -> None:
    """It starts from zeros like the gradient: of nothing, libraries other than NumPy make none."""
    for name in {"sgd", "shampoo"} & set(modules):
        backend = _Listing()
        g = Leaves([np.ones(2)], backend)
        modules[name].update(modules[name].init(g), g, momentum=0.5)
        assert "zeros_like of numbers" not in backend.listed


TERMS = (
    *("weight_decay", "eps_root", "momentum", "dampening", "mechanic_decay"),
    *("lambd", "lr_decay"),
)


ALWAYS_THERE = {(name, "momentum") for name in ("muon", "normuon", "adamuon")}


def absent_terms_are_not_computed(modules: dict[str, ModuleType]) -> None:
    """With a factor of 0 a term is not computed, so that 0·∞ cannot make a NaN of it."""
    for algorithm in mutants.algorithms(modules).values():
        defaults = algorithm.defaults()
        flags = [name for name, default in defaults.items() if isinstance(default, bool)]
        for change in ({}, *({name: not defaults[name]} for name in flags)):
            on = golden_bits.ordinary(algorithm, None) | change
            if change.get("nesterov") and "dampening" in on:
                on["dampening"] = 0.0
            whole = _operations(algorithm, on)
            for term in TERMS:
                if (algorithm.name, term) in ALWAYS_THERE:
                    continue
                if is_number(on.get(term)) and on[term] != 0:
                    assert _operations(algorithm, on | {term: 0.0}) != whole, (change, term)


def _operations(algorithm: Any, given: dict[str, Any]) -> list[str]:
    values = algorithm.defaults() | given
    backend = _Listing()
    params = Leaves([np.ones(2), np.eye(2)], backend)  # of which roots are found at once
    state = algorithm.start(params, values)
    backend.listed.clear()
    more = dict.fromkeys(algorithm.inputs, params)
    algorithm.update(state, params, params, **more, **values)
    return backend.listed


def signs_turn_where_the_rounded_sums_do(modules: dict[str, ModuleType]) -> None:
    """Where a sign turns, the last bit of a sum counts: golden bits hardly come there."""
    mutants.working_dtype("float32")
    rng = np.random.default_rng(0)
    if "lion" in modules:
        lion = modules["lion"]
        m = np.repeat(np.float32(rng.uniform(-4, 4, 300)), 9)
        turn = -(0.9 * m) / np.float32(1 - 0.9)  # where β₁·m + (1 − β₁)·g = 0
        ulps = np.tile(np.arange(-4, 5), 300).astype(np.float32)
        g = np.float32(turn + ulps * np.spacing(turn))
        state = lion.LionState(Leaves([m], NumPy()))
        _, step = lion.update(state, Leaves([g], NumPy()), lr=1.0, weight_decay=0.0)
        c = np.float32(0.9) * m + np.float32(1 - 0.9) * g
        assert np.array_equal(step.values[0], -np.sign(c))
    if "adamuon" in modules:
        adamuon, mu = modules["adamuon"], 0.9
        b = np.repeat(np.float32(rng.uniform(-4, 4, 300)), 9)[None]
        turn = -(mu * mu / (1 - mu * mu)) * b  # where μ·Bₜ + (1 − μ)·g = 0
        ulps = np.tile(np.arange(-4, 5), 300).astype(np.float32)
        g = np.float32(turn + ulps * np.spacing(np.float32(turn)))
        state = adamuon.init(Leaves([b], NumPy()))._replace(b=Leaves([b], NumPy()))
        given = {"momentum": mu, "nesterov": True, "weight_decay": 0.0}
        _, step = adamuon.update(state, Leaves([g], NumPy()), **given)
        new = np.float32(mu) * b + np.float32(1 - mu) * g
        ahead = np.float32(mu) * new + np.float32(1 - mu) * g
        assert np.array_equal(np.sign(step.values[0]), -np.sign(ahead))
    if "yogi" in modules:
        yogi = modules["yogi"]
        g = Leaves([np.float32(rng.uniform(1, 4, 300))], NumPy())
        state = yogi.init(g)._replace(v=g * g)
        new, _ = yogi.update(state, g)  # v = g² stays, and g² is rounded
        assert np.array_equal(new.v.values[0], state.v.values[0])


# Digests: IEEE arithmetic gives the same bits everywhere. (NumPy's powers of arrays do not.)
LONG = {
    "dadapt_adamw": "51726a9bf015322d",
    "momentum_schedule": "05494b277f35f909",
    "radam": "28944de17a1dc2c4",
}


def long_runs_keep_their_bits(modules: dict[str, ModuleType]) -> None:
    """Of scalars whose roundings do not show in a few steps."""
    for name, wanted in LONG.items():
        if name in modules:
            assert long_run(name, modules[name]) == wanted


@np.errstate(all="ignore")
def long_run(name: str, module: ModuleType) -> str:
    """Return a digest of the numbers of a helper, or of the steps of an algorithm."""
    found: list[Any] = []
    for kind in ("float32", "float64"):
        mutants.working_dtype(kind)
        zero = Leaves([np.zeros((), kind)], NumPy())
        if name == "momentum_schedule":
            # With the first, f / n and f times the rounded 1 / n are not the same.
            many = itertools.accumulate([1.33] * 49, operator.mul, initial=1e-3)  # to 1100
            for psi in (72.04086300784883, *many):
                number = doubles.Doubles(np.float64(psi), NumPy())
                found += [module.share(psi), module.share(number).value]
            continue
        for b in (0.5, 0.85, 0.9, 0.93, 0.957, 0.97, 0.98, 0.99):
            state = module.init(zero)
            for t in range(200):
                state, step = module.update(state, zero + (1.3 + t % 3), b2=b)
                found.append(step.values[0])
    return sha256(" ".join(float(x).hex() for x in found).encode()).hexdigest()[:16]


def arrays_alone_keep_their_dtypes(modules: dict[str, ModuleType]) -> None:
    """Of arrays that are in no tree, too: counts are int32, of shape ()."""
    for algorithm in mutants.algorithms(modules).values():
        theta = np.eye(2, dtype=np.float32)
        state = algorithm.start(theta, algorithm.defaults())
        more = {name: theta if name == "hessian" else theta[0, 0] for name in algorithm.inputs}
        for _ in range(3):
            state, step = algorithm.update(state, theta, theta, **more, **algorithm.defaults())
        assert step.dtype == np.float32
        for t in _counts(state):
            assert (t.dtype, t.shape) == (np.int32, ())


def _counts(state: Any) -> Iterator[Any]:
    if hasattr(state, "_fields"):
        for name, field in zip(state._fields, state, strict=True):
            yield from [field] if name == "t" else _counts(field)


def radam_rectifies_above_the_threshold(modules: dict[str, ModuleType]) -> None:
    if "radam" in modules:
        radam, one = modules["radam"], np.ones(1)
        c2, limit = 1 - 0.5**6, 1.5 / 0.5  # exact, as all is for this decay
        rho = limit - 2 * 6 * (1 - c2) / c2
        for threshold, rectified in ((rho, False), (math.nextafter(rho, 0.0), True)):
            state = radam.init(one)
            for _ in range(6):
                given = {"b1": 0.0, "b2": 0.5, "lr": 1.0, "threshold": threshold}
                state, step = radam.update(state, one, **given)
            assert (step[0] != -1.0) == rectified


def sam_without_a_climb_is_the_algorithm(modules: dict[str, ModuleType]) -> None:
    if "sam" in modules:
        rule = modules["sam"].sam(golden_bits.WRAPPED)
        given = golden_bits.Setting({"ascent_period": 1.0, "lr": 0.1}, "numbers", "float32")
        found = golden_bits.trajectory(rule, "optax", given)
        alone = given._replace(given={"lr": 0.1})
        wanted = golden_bits.trajectory(golden_bits.WRAPPED, "optax", alone)
        # Both add the step to the parameters: (φ − θ) + u with φ = θ.
        assert golden_bits.same(found.steps, wanted.steps)


def without_a_sign_sizes_stay(modules: dict[str, ModuleType]) -> None:
    """A gradient that is NaN has no sign that agrees with another."""
    if "rprop" in modules:
        rprop = modules["rprop"]
        state, _ = rprop.update(rprop.init(np.ones(1)), np.ones(1))
        new, step = rprop.update(state, np.array([np.nan]))
        assert new.size == state.size
        assert np.isnan(step)


def _refuses(check: Callable[..., Any], *arguments: Any) -> bool:
    try:
        check(*arguments)
    except ValueError:
        return True
    return False


def what_starts_from_a_distance(modules: dict[str, ModuleType]) -> None:
    """What golden bits cannot say of the rules whose step size is a distance."""
    if "dog" in modules:
        dog = modules["dog"]
        dog.check({"reps_rel": np.zeros(()), "reps": 0.0, "init_eta": 0.0})
        dog.check({"reps_rel": 1.0, "reps": 0.0, "init_eta": 0.0})
        assert _refuses(dog.check, {"reps_rel": 0.0, "reps": 0, "init_eta": 0.0})
        # A leaf whose gradient was 0 has had its first step.
        leaves = [Leaves([np.ones(2), np.full(1, x)], NumPy()) for x in (0.0, 1.0)]
        state, _ = dog.update(dog.init(leaves[1]), leaves[0], leaves[1], init_eta=9.0)
        _, step = dog.update(state, leaves[1], leaves[1], init_eta=9.0)
        assert abs(step.values[1]) < 1e-5
    for name in {"prodigy", "dadapt_adamw"} & set(modules):
        rule = modules[name]
        theta = Leaves([np.ones(2)], NumPy())
        for g in (0.0, np.nan):  # of which there is no estimate
            state, _ = rule.update(rule.init(theta), g * theta, theta, estim_lr0=0.25)
            assert state.d.values[0] == 0.25


def rates_are_those_of_the_step_before(modules: dict[str, ModuleType]) -> None:
    """What golden bits cannot say of ASGD."""
    if "asgd" in modules:
        asgd = modules["asgd"]
        assert all(_refuses(asgd.check, {"alpha": x}) for x in (2, 2.5))
        asgd.check({"alpha": 1.5})
        asgd.check({"alpha": np.array(2.5)})
        one = Leaves([np.ones(1, np.float32)], NumPy())
        state, _ = asgd.update(asgd.init(one), one, one, lr=0.0)
        assert asgd.update(state, one, one, lr=0.7)[1].values[0] == 0.0
        one = Leaves([np.ones(1)], NumPy())
        late = asgd.init(one)
        for _ in range(5):  # of six the double is rounded once, of a sum of products it is not
            late, _ = asgd.update(late, one, one)
        for lambd in np.random.default_rng(0).uniform(0.1, 0.9, 50).tolist():
            state, _ = asgd.update(late, one, one, lr=0.7, lambd=lambd, alpha=1.0)
            assert state.eta.values[0] == 0.7 / (1 + (lambd * 0.7) * 6)


MATRICES = {"sm3": 1380790568, "adafactor": 403859394}
"""CRC-32 of steps of matrices: roundings that golden bits hardly ever show."""


MATRIX_SETTINGS: dict[str, list[dict[str, Any]]] = {
    "sm3": [{}],
    "adafactor": [
        {},
        {"lr": 2.0},
        {"lr": 2.0, "relative_step": False},
        {"eps1": 0.031, "eps_in_square": True},
        {"lr": 2.0, "eps1": 0.37, "eps2": 2.9, "d": 1.3, "momentum": 0.7, "weight_decay": 0.13},
        {"largest_axes": True},
        {"large_only": True},
        {"scale_parameter": False, "lr_in_decay": False, "weight_decay": 0.13, "maximize": True},
    ],
}


@np.errstate(all="ignore")
def matrices_keep_their_bits(modules: dict[str, ModuleType]) -> None:
    rules = mutants.algorithms(modules)
    for name, wanted in MATRICES.items():
        if name not in rules:
            continue
        found: list[Any] = []
        for given in MATRIX_SETTINGS[name]:
            rng = np.random.default_rng(0)
            shapes = ((7, 5), (4, 3, 6), (8,), ())
            theta = Leaves([np.asarray(rng.normal(size=s), np.float32) for s in shapes], NumPy())
            state = rules[name].start(theta, rules[name].defaults() | given)
            for _ in range(20):
                scale = 10 ** rng.uniform(-3, 2)
                grads = [np.asarray(scale * rng.normal(size=s), np.float32) for s in shapes]
                state, step = rules[name].update(state, Leaves(grads, NumPy()), theta, **given)
                found += [*step.values]
        mark = zlib.crc32(np.concatenate([np.ravel(x) for x in found]).tobytes())
        assert mark == wanted, f"{name}: {mark}"
    if "sm3" in modules:
        sm3 = modules["sm3"]
        tiny = Leaves([np.float32([1e-30, np.nan, 1.0])], NumPy())  # its square is 0
        _, step = sm3.update(sm3.init(tiny), tiny, lr=1.0, momentum=0.0)
        assert np.array_equal(step.values[0], np.float32([0.0, np.nan, -1.0]), equal_nan=True)
        late = sm3.init(tiny, momentum=0.0)
        state, _ = sm3.update(late, tiny + 2.0, lr=1.0, momentum=0.5)
        assert late.m is None
        assert np.array_equal(state.m.values[0], np.float32([0.5, np.nan, 0.5]), equal_nan=True)


PRODUCTS = {
    "adamuon": (2112962052, 4259305522, 925915454, 3002554076, 598242808, 4283430115),
    "normuon": (3121669370, 3014469975, 1014470835, 629326364, 774446146, 1827707246),
    "muon": (
        1327552092,
        3398139583,
        1081101035,
        812697312,
        4259090399,
        44970626,
        156217953,
        3943571129,
    ),
    "shampoo": (783237496, 4076907924, 28081881, 2735950526, 3196745031, 1221486688),
    "soap": (3087451154, 3908963898, 1376064418, 696225739, 3646072008, 2690650713),
}
"""CRC-32, by dtype and setting, of rules with products, and of leaves with one to three axes.

To Shampoo and SOAP some axes are too long for a matrix.
"""

_SIZES: list[dict[str, Any]] = [
    {"momentum": 0.7},
    {"consistent_rms": 0.0, "output_axis": -1, "eps": 0.31, "nesterov": True},
    {"consistent_rms": 0.37, "ns_coefficients": "quintic", "ns_steps": 3, "nesterov": True},
]

PRODUCT_SETTINGS: dict[str, list[dict[str, Any]]] = {
    "adamuon": _SIZES,
    "normuon": [own | {"b2": 0.6} for own in _SIZES],
    "muon": [
        {},
        {"consistent_rms": 0.37, "output_axis": -1, "eps_added": True, "eps": 0.31},
        {"output_axis": -1, "debias": True, "nesterov": False, "momentum": 0.7},
        {"adjust_lr_fn": "match_rms_adamw", "ns_coefficients": "quintic", "flatten": False},
    ],
    "shampoo": [
        {},
        {"momentum": 0.7, "weight_decay": 0.13, "update_interval": 2.0, "eps": 0.37},
        {"ridge": 0.0, "eps": 1.3, "update_interval": 1.5, "maximize": True},
    ],
    "soap": [
        {"precondition_frequency": 2.0, "eps": 0.031, "b1": 0.7, "b3": 0.6},
        {"precondition_frequency": 1.5, "b2": 0.8, "weight_decay": 0.0, "maximize": True},
        {"precondition_frequency": 1.0, "b3": 0.3},
    ],
}


def products_keep_their_bits(modules: dict[str, ModuleType]) -> None:
    rules = mutants.algorithms(modules)
    for name in PRODUCTS.keys() & rules:
        settings = itertools.product(golden_bits.DTYPES, PRODUCT_SETTINGS[name])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(modules[name], "LONGEST", 3, raising=False)
            for wanted, (dtype, given) in zip(PRODUCTS[name], settings, strict=True):
                setting = golden_bits.Setting(given, "numbers", dtype)
                found = golden_bits.trajectory(rules[name], None, setting, _ranked(dtype))
                arrays = (found.steps, *found.initial.values(), *found.state.values())
                mark = zlib.crc32(b"".join(x.tobytes() for x in arrays if x is not None))
                assert mark == wanted, f"{name} in {dtype} with {given}: {mark}"
    if "shampoo" in modules:  # without a ridge no norm of the sums, which overflows, is asked for
        shampoo, large = modules["shampoo"], Leaves([1.7e19 * np.eye(2, dtype=np.float32)], NumPy())
        _, step = shampoo.update(shampoo.init(large), large, lr=1.0, ridge=0.0)
        assert np.allclose(step.values[0], -np.eye(2))
    if "soap" in modules:  # golden bits have no shape
        soap, theta = modules["soap"], Leaves([np.ones((2, 3, 2))], NumPy())
        state, _ = soap.update(soap.init(theta), theta, theta)
        assert state.v.shape == (2, 3, 2)


def _ranked(dtype: str) -> tuple[Leaves, list[Leaves]]:
    """Return parameters and gradients whose rows have sizes of their own at every other step.

    So eigenvalues change their order, and some are near each other.
    """
    rng = np.random.default_rng(0)
    shapes = ((2, 4), (4, 2), (3, 3), (3, 1, 2), (2, 3, 2), (3,), (4,), (), (1, 2))

    def draw(shape: tuple[int, ...], spread: int) -> np.ndarray:
        rows = rng.integers(-spread, spread + 1, [*shape[:1], *[1] * (len(shape) - 1)])
        return np.asarray(np.ldexp(rng.normal(size=shape), rows), dtype)

    begin, *grads = (
        Leaves([draw(s, 7 * (t % 2)) for s in shapes], NumPy())
        for t in range(1 + golden_bits.STEPS)
    )
    return begin, grads


PERIODS = {
    "accumulated": "accumulation_steps",
    "lookahead": "sync_period",
    "sam": "ascent_period",
}


def a_period_ends_with_the_step_that_reaches_it(modules: dict[str, ModuleType]) -> None:
    """So one of a step and a half is one of two."""
    for name, rule in mutants.algorithms(modules).items():
        if name in PERIODS:
            one, other = (_with_periods(rule, PERIODS[name], [period]) for period in (1.5, 2.0))
            assert one == other


INTERVALS = {
    "shampoo": "update_interval",
    "soap": "precondition_frequency",
    "sophia": "update_interval",
}


def what_is_due_is_due_at_multiples_of_the_interval(modules: dict[str, ModuleType]) -> None:
    """So with one of a step and a half it is due after 0, 2, 3, 5, 6, ... steps."""
    for name, rule in mutants.algorithms(modules).items():
        if name in INTERVALS:
            one, other = (
                _with_periods(rule, INTERVALS[name], periods)
                for periods in ([1.5], [1.0, 99.0, 1.0])
            )
            assert one == other


@np.errstate(all="ignore")
def _with_periods(rule: Any, name: str, periods: list[float]) -> str:
    """Return states and steps with an ordinary setting but for what comes after one another."""
    dialect = rule.default_dialect
    on = rule.defaults(dialect) | golden_bits.ordinary(rule, dialect)
    theta, grads = golden_bits.inputs("float32", rule.leafwise)
    more = golden_bits.more_inputs(rule, grads)
    state = rule.start(theta, on)
    found = []
    for t, grad in enumerate(grads):
        now = on | more[t] | {name: periods[t % len(periods)]}
        state, step = rule.update(state, grad, theta, **now)
        theta = theta + step
        with np.printoptions(floatmode="unique"):
            found += [repr(state), repr(step)]
    return " ".join(found)


LOSS_MODELS = {"momo": 2008467031, "momo_adam": 603102074}
"""CRC-32 of steps with losses that fall below the bound and rise again."""

LOSS_SETTINGS = (
    {"weight_decay": 0.13, "lr": 0.31},
    {"adapt_lower_bound": True, "weight_decay": 0.13, "lower_bound": -50.3, "lr": 0.053},
    {"adapt_lower_bound": True, "weight_decay": 1.7, "lower_bound": -9.3, "lr": 0.31},
    {"adapt_lower_bound": True, "lower_bound": 0.37, "lr": 1.7},
    {"adapt_lower_bound": True, "weight_decay": 0.0031, "lower_bound": -50.3, "lr": 300.0},
    {"adapt_lower_bound": True, "weight_decay": 0.0017, "lower_bound": 0.0013, "lr": 300.0},
)


@np.errstate(all="ignore")
def loss_models_keep_their_bits(modules: dict[str, ModuleType]) -> None:
    for name, wanted in LOSS_MODELS.items():
        if name not in modules:
            continue
        rule, found = mutants.algorithms(modules)[name], []
        for number, given in enumerate(LOSS_SETTINGS):
            for dtype in (np.float32, np.float64):
                for as_array in (False, True):
                    values = rule.defaults() | given
                    if as_array:
                        values = {
                            k: np.asarray(v, dtype) if is_number(v) else v
                            for k, v in values.items()
                        }
                    rng = np.random.default_rng(number)
                    theta = Leaves([rng.normal(size=5).astype(dtype)], NumPy())
                    state = rule.start(theta, values)
                    for t in range(60):
                        g = Leaves([(0.3 * rng.normal(size=5)).astype(dtype)], NumPy())
                        loss = Leaves([dtype(rng.uniform(-3, 9) * 0.4 ** (t % 11))], NumPy())
                        state, step = rule.update(state, g, theta, value=loss, **values)
                        theta = theta + step
                        found.append(step.values[0].astype(np.float64))
                        found.append(np.float64([state.model.f_min.values[0]]))
        mark = zlib.crc32(np.concatenate(found).tobytes())
        assert mark == wanted, f"{name}: {mark}"
    if "loss_model" in modules:
        bounds_are_met_to_the_last_bit(modules["loss_model"])
    if "sophia" in modules:
        sophia, one = modules["sophia"], np.ones(2)
        given = {"update_interval": 1.0, "weight_decay": 0.0}
        state, _ = sophia.update(sophia.init(one), one, hessian=3 * one, **given)
        after, step = sophia.update(state, 5 * one, hessian=None, **given)
        assert np.array_equal(after.h, state.h)
        assert np.array_equal(sophia.update(state, 5 * one, **given)[1], step)
        mutants.working_dtype("float32")  # the average is rounded, and then what is made of it
        g = Leaves([np.float32(np.random.default_rng(0).normal(size=300))], NumPy())
        given = {"lr": 1.0, "b1": 0.75, "eps": 1.0, "clip_threshold": 99.0, "weight_decay": 0.0}
        state, _ = sophia.update(sophia.init(g), g, **given)
        state, step = sophia.update(state, 3.1 * g, **given)
        assert np.array_equal(step.values[0], -(state.m.values[0] / np.float32(1 - 0.75**2)))


BOUNDS = 1243620402
"""CRC-32 of step sizes where the loss is at its bound, but for roundings."""


def bounds_are_met_to_the_last_bit(rule: ModuleType) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1500):
        x, y = (Leaves([np.float32(rng.normal(size=2))], NumPy()) for _ in range(2))
        lr, decay, c, f_bar, gamma = rng.uniform(0.1, 1.0, 5).tolist()
        w = 1 + lr * decay
        height = w * (f_bar - gamma) + float(np.dot(x.values[0], y.values[0]))
        numbers = f_bar, gamma, height / (w * c) * (1 + rng.choice([0, 0, 0.3]))
        model = rule.LossModel(*(Leaves([np.float32(v)], NumPy()) for v in numbers))
        given = {"lr": lr, "weight_decay": decay, "lower_bound": -9.0, "sq_norm_floor": 0.0}
        own = Leaves([np.float32(c)], NumPy())
        model, tau = rule.step_size(model, x, x * x * x, y, c=own, adapt_lower_bound=True, **given)
        found.append(tau.values[0])
    mark = zlib.crc32(np.array(found).tobytes())
    assert mark == BOUNDS, f"BOUNDS: {mark}"
    tie = rule.LossModel(*(np.float64(v) for v in (1.0, 0.0, 2.0)))
    x, y = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    given = {"lr": 1.0, "weight_decay": 1.0, "lower_bound": -9.0, "sq_norm_floor": 0.0}
    _, tau = rule.step_size(tie, x, x, y, c=0.5, adapt_lower_bound=True, **given)
    assert tau == 0


MECHANIC = {"mechanic_decay": 3.1, "initial_scale_factor": 0.13}
WRAPPED = {
    "accumulated": 247823750,
    "averaged": 3466865898,
    "cautious": 912268596,
    "clipped": 3498264347,
    "clipped_by_unit": 1214609462,
    "clipped_by_value": 4151416152,
    "lookahead": 2580905166,
    "mechanic": 3881492719,
    "sam": 2557881304,
    "skipping": 4203660050,
}
"""CRC-32 of steps of wrapped momentum on many elements, of which few agree with their gradient."""


UNITS: dict[tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...]]] = {
    (): ((), ()),
    (5,): ((0,), (0,)),
    (1, 5): ((1,), (0, 1)),
    (5, 1): ((1,), (0, 1)),
    (4, 5): ((1,), (0,)),
    (2, 3, 4): ((1, 2), (0,)),
    (2, 1, 4): ((1, 2), (0,)),
    (2, 3, 4, 5): ((1, 2, 3), (0, 1, 2)),
    (2, 1, 3, 2, 4): ((1, 2, 3, 4), (0, 1, 2, 3)),
}
"""The axes over which a unit extends, where the outputs are the first axis, and the last."""


def _units_are_those_of_the_layout(module: ModuleType) -> None:
    rng = np.random.default_rng(0)
    own = module.clipped_by_unit(ALGORITHMS["sgd"])
    assert own.leafwise
    assert [own.defaults(d)["units_last"] for d in ("torch", "optax")] == [False, True]
    for shape, axes in UNITS.items():
        g, theta = rng.normal(size=(2, *shape))
        for units_last, over in zip((False, True), axes, strict=True):
            u, v = (np.sqrt(np.sum(x * x, axis=over, keepdims=True)) for x in (g, theta))
            for eps in (0.0, 2.0):
                bound = 0.7 * np.maximum(v, eps)
                found = module._clipped(g, theta, 0.7, eps, units_last)
                assert np.allclose(found, np.where(u < bound, g, g * (bound / u)), rtol=1e-12)
    tiny, zero = np.array([2.0**-30]), np.zeros(1)  # a norm at the bound, below the least divisor
    found = module._clipped(tiny, zero, 1.0, 2.0**-30, False)
    assert found[0] == 2.0**-30 * (2.0**-30 / 1e-6)


def _jumps_begin_above_their_bound(module: ModuleType) -> None:
    nothing = module.Level(*np.zeros(3))
    assert module._above(nothing, np.float64(1.0), 2.0)
    for dtype in (np.float32, np.float64):
        mutants.working_dtype(np.dtype(dtype).name)
        rng = np.random.default_rng(0)
        for n in range(300):
            mean, spread, weight = rng.uniform(1, 3, 3).astype(dtype)
            weight = weight if n % 3 else dtype(1.0)
            z = float(dtype(rng.uniform(0.1, 3)))
            bound = mean + dtype(z) * np.sqrt(spread / weight)
            level = module.Level(mean, spread, weight)
            assert not module._above(level, bound, z)
            assert module._above(level, np.nextafter(bound, dtype(np.inf)), z)


SKIPPED = 221916029
"""CRC-32 of steps and states where norms and losses jump, and some are not finite."""


def _skipped(module: ModuleType) -> Iterator[np.ndarray]:
    rule = module.skipping(ALGORITHMS["adam"])
    for seed in range(8):
        rng, dtype = np.random.default_rng(seed), (np.float32, np.float64)[seed % 2]
        state = rule.init(Leaves([np.ones(9, dtype)], NumPy()))
        for t in range(40):
            given = {"jump_threshold": rng.uniform(0.2, 1.5), "level_decay": 0.83}
            given |= {"jump_warmup": 3.0, "most_jumps": (2.5, 3.0)[seed // 2 % 2]}
            size = 1.0 if t < 6 and seed < 2 else 2.0 ** rng.uniform(-1, 1)  # of one size, exactly
            g, value = size * np.r_[np.ones(1), np.zeros(8)], rng.uniform(1, 3)
            if t % 17 == 16:
                g[3] = (np.nan, np.inf)[t % 2]
            if t % 5:
                given["value"] = Leaves([dtype(np.inf if t % 23 == 22 else value)], NumPy())
            own = Leaves([g.astype(dtype)], NumPy())
            state, step = rule.update(state, own, own, **given)
            found = [x.values[0] for x in (step, *fields_of(state))]
            yield np.concatenate([np.ravel(x).astype(np.float64) for x in found])


@np.errstate(all="ignore")
def wrappers_keep_their_bits(modules: dict[str, ModuleType]) -> None:
    for name, wanted in WRAPPED.items():
        if name not in modules:
            continue
        rule = getattr(modules[name], name)(ALGORITHMS["sgd"])
        given = {"lr": 0.3, "momentum": 0.9} | (MECHANIC if name == "mechanic" else {})
        found = []
        for dtype in (np.float32, np.float64):
            rng = np.random.default_rng(0)
            theta = Leaves([rng.normal(size=300).astype(dtype)], NumPy())
            state = rule.start(theta, rule.defaults() | given)
            for t in range(12):
                g = rng.normal(size=300) * (1.0 if t % 3 else 1e-6)
                state, step = rule.update(state, Leaves([g.astype(dtype)], NumPy()), theta, **given)
                theta = theta + step
                found.append(step.values[0].astype(np.float64))
            if name == "averaged":
                found.append(state.average.values[0].astype(np.float64))
        mark = zlib.crc32(np.concatenate(found).tobytes())
        assert mark == wanted, f"{name}: {mark}"
    if "accumulated" in modules:  # also where the algorithm does not move
        rule, one = modules["accumulated"].accumulated(ALGORITHMS["adam"]), np.ones(1)
        given = {"lr": 0.0, "b1": 0.75, "accumulation_steps": 1.0}
        state, _ = rule.update(rule.init(one), one, one, **given)
        assert (state.mean[0], state.inner.m[0]) == (0.0, 0.25)
    if "skipping" in modules:
        mark = zlib.crc32(np.concatenate([*_skipped(modules["skipping"])]).tobytes())
        assert mark == SKIPPED, f"skipped: {mark}"
        _jumps_begin_above_their_bound(modules["skipping"])
    if "clipped_by_unit" in modules:
        _units_are_those_of_the_layout(modules["clipped_by_unit"])
    if "clipped" in modules:
        own = modules["clipped"].clipped(ALGORITHMS["sgd"]).defaults
        assert (own("torch")["clip_eps"], own("optax")["clip_eps"]) == (1e-6, 0.0)
    if "mechanic" in modules:  # where nothing has moved, a part of the wealth is all that there is
        rule, one = modules["mechanic"].mechanic(ALGORITHMS["sgd"]), np.ones(1)
        for x in np.random.default_rng(0).uniform(0.1, 1, 50).tolist():
            given = {"initial_scale_factor": x, "mechanic_eps": 1.0}
            assert rule.update(rule.init(one), one, one, **given)[0].bets.b1.s == x / 6
    if "cautious" in modules:
        rule = modules["cautious"].cautious(ALGORITHMS["sgd"])
        ones = np.ones(3000, np.float32)
        for agreeing, wanted in ((1, 2000.0), (30, 200.0)):  # the mean is at least 0.001
            start = rule.start(ones, {"momentum": 1.0})
            state, _ = rule.update(start, 2 * ones, lr=1.0, momentum=1.0)
            g = np.where(np.arange(3000) < agreeing, ones, -ones / 4)
            _, step = rule.update(state, g, lr=1.0, momentum=1.0)
            assert np.allclose(step[0], -1.5 * wanted, rtol=1e-6), step[0]
            assert not step[agreeing:].any()
        for x in (np.float32(1e-30), np.float64(0.7)):  # the product with a gradient may be 0
            state, step = rule.update(
                rule.init(x * ones.astype(x.dtype)), x * ones.astype(x.dtype), lr=1.0
            )
            assert (step == -x).all()
        few = np.r_[1.0, -np.ones(2999)]
        start = rule.start(few, {"momentum": 1.0})
        state, _ = rule.update(start, 2 * np.ones(3000), lr=1.0, momentum=1.0)
        _, step = rule.update(state, few, lr=1.0, momentum=1.0)
        assert step[0] == -3.0 * (1.0 / 0.001)
        for eps, refused in ((-1.0, True), (0.0, True), (1e-9, False)):
            try:
                modules["cautious"].cautious(ALGORITHMS["sgd"], eps=eps)
            except ValueError:
                assert refused
            else:
                assert not refused


AVERAGES = 4057800858
"""CRC-32 of averages to evaluate with."""


@np.errstate(all="ignore")
def averages_keep_their_bits(modules: dict[str, ModuleType]) -> None:
    if "cocob" in modules:
        assert modules["cocob"].init(np.ones(1)).scale[0] == 1e-8
    if "mars" in modules:  # a gradient that needs no clipping stays as it is
        mars, one = modules["mars"], np.full(1, 0.75)
        assert mars.update(mars.init(one), one, one, b1=0.0, clipping=True)[0].adamw.m[0] == 0.75
        for b1, gamma in np.random.default_rng(0).uniform(0.5, 1, (50, 2)).tolist():
            given = {"b1": b1, "gamma": gamma, "clipping": False, "plain_first_step": False}
            state, _ = mars.update(mars.init(one), one, one, **given)
            assert state.adamw.m[0] == (1 - b1) * (0.75 + gamma * b1 / (1 - b1) * 0.75)
    if "schedule_free" not in modules:
        return
    rule = modules["schedule_free"]
    mutants.working_dtype("float32")  # to which a count is not rounded
    assert float(rule.warmed_up(1.0, 2.0**24 + 1, 2.0**25)) == 0.5 + 2.0**-25
    rng = np.random.default_rng(0)
    found = []
    for b1 in rng.uniform(0.5, 1, 200).tolist():
        y, z = rng.normal(size=(2, 5)).astype("float32")
        state = rule.init(z)
        within = SimpleNamespace(average=state)
        for given in (b1, np.array(b1, np.float32)):
            x = rule.schedule_free_eval_params(state, y, given)
            for other in (within, z):
                assert np.array_equal(x, rule.schedule_free_eval_params(other, y, given))
            found.append(x)
    mark = zlib.crc32(np.concatenate(found).tobytes())
    assert mark == AVERAGES, f"average: {mark}"
    far = np.array([1e300])
    for rate in (0.0, 1e-200):  # whose squares are 0
        given = {"rate": rate, "b1": 0.75, "equal_weights": False}
        assert rule.advance(rule.init(far), np.array([0.0]), -far, **given)[1][0] == 0
        assert rule.advance(rule.init(far), np.array([8.0]), -far, **given)[1][0] == 2


@np.errstate(all="ignore")
def averages_are_found_or_refused(modules: dict[str, ModuleType]) -> None:
    if "evaluation" in modules:
        module, given = modules["evaluation"], np.array([2.0])
        mark = module.takes_inner_steps
        marked, other = (mark(type(name, (SimpleNamespace,), {})) for name in "ab")
        outer = type("c", (SimpleNamespace,), {})  # which hides what is within
        average = np.array([1.0])
        state = SimpleNamespace(average=average)
        for found in (state, marked(inner=state), marked(inner=other(inner=state))):
            assert module.average_of(found) is average
            assert module.eval_params(found, given) is average
        for hidden in (outer(inner=state), marked(inner=outer(inner=state)), SimpleNamespace()):
            assert module.average_of(hidden) is module.eval_params(hidden, given) is None
        found = marked(inner=SimpleNamespace(average=SimpleNamespace(z=average)))
        assert module.eval_params(found, given, b1=0.5).tolist() == [3.0]  # (2 - 0.5·1) / 0.5
        assert _refuses(module.eval_params, found, given)
    if "schedule_free" in modules:
        find = modules["schedule_free"].schedule_free_eval_params
        one = np.array([1.0])
        assert all(_refuses(find, one, one, b1) for b1 in (0, 0.0, -0.0))
        assert not np.isfinite(find(one, 2 * one, np.zeros(())))[0]  # nobody looks at an array


LAYERS = {
    "stable_adamw": 861972834,
    "novograd": 2913067523,
    "cocob": 3950045111,
    "fromage": 3621259229,
}
"""CRC-32 of steps of small layers whose gradients come late, with many hyperparameters."""


@np.errstate(all="ignore")
def layers_keep_their_bits(modules: dict[str, ModuleType]) -> None:
    for name, wanted in LAYERS.items():
        if name not in modules:
            continue
        rng = np.random.default_rng(0)
        rule = modules[name]
        own = golden_bits.ALGORITHMS[name].defaults()
        found = []
        for i in range(60):
            scales = {
                "eps": 0.01,
                "lr": 0.9,
                "eps_root": 0.01,
                "weight_decay": 0.3,
                "min_norm": 2.0,
                "alpha": 9.0,
            }
            given = {k: rng.uniform(0.01, x) for k, x in scales.items() if k in own}
            if i % 2:
                given = {k: np.array(x, np.float32) for k, x in given.items()}
            theta = Leaves([np.float32(rng.normal(size=s)) for s in ((5,), ())], NumPy())
            state = rule.init(theta)
            for scale in (0.0, 0.0, 3.0 if i % 3 else 1e-7, 0.0, 0.02, 0.01, 3.0):
                grad = Leaves(
                    [np.float32(scale * rng.normal(size=x.shape)) for x in theta.values], NumPy()
                )
                state, step = rule.update(state, grad, theta, **given)
                theta = theta + step
                found += [*step.values]
        if name == "stable_adamw":  # its ε² where that is what it divides by
            one = Leaves([np.ones(1, np.float32)], NumPy())
            state = rule.init(one)
            for _ in range(30):
                state, _ = rule.update(state, 0.0 * one, one)
            for eps in rng.uniform(0.01, 0.02, 400).tolist():
                found += rule.update(state, 1.7 * eps * one, one, eps=eps)[1].values
        mark = zlib.crc32(np.concatenate([np.ravel(x) for x in found]).tobytes())
        assert mark == wanted, f"{name}: {mark}"


def adafactor_sees_the_shape(modules: dict[str, ModuleType]) -> None:
    if "adafactor" not in modules:
        return
    adafactor = modules["adafactor"]
    mutants.working_dtype("float32")
    for shape, largest_axes, large_only, wanted in (
        ((), False, False, None),
        ((5,), False, False, None),
        ((2, 3, 4), False, False, (1, 2)),
        ((9, 3, 4), True, False, (2, 0)),
        ((128, 128), False, True, (0, 1)),
        ((130, 140), False, True, (0, 1)),
        ((2, 128, 300), False, True, (1, 2)),
        ((127, 300), True, True, None),
        ((200, 2, 128), False, True, None),
        ((200, 2, 128), True, True, (2, 0)),
    ):
        assert adafactor.matrix_axes(shape, largest_axes, large_only) == wanted
    tree = Leaves([np.ones((4, 2, 3), np.float32)], NumPy())
    state = adafactor.init(tree)
    assert [np.shape(x.values[0]) for x in state[:3]] == [(), (4, 2, 1), (4, 1, 3)]
    assert state.v.values == (None,)
    large = adafactor.init(Leaves([np.ones((9, 3, 4))], NumPy()), largest_axes=True, momentum=0.5)
    assert [np.shape(x.values[0]) for x in large[1:3]] == [(1, 3, 4), (9, 3, 1)]
    assert (large.v.values, large.m.shape) == ((None,), (9, 3, 4))
    few = adafactor.init(Leaves([np.ones(5)], NumPy()))
    assert (few.row.values, few.column.values, few.v.shape) == ((None,), (None,), (5,))
    state, step = adafactor.update(state, tree, tree, momentum=0.25)  # which comes late
    assert np.array_equal(step.values[0], -state.m.values[0])
    assert state.m.values[0][0, 0, 0] == np.float32(0.75) * np.float32(0.01)
    start = adafactor.init(tree)
    _, plain = adafactor.update(start, tree, tree)
    for momentum in np.random.default_rng(0).uniform(0.1, 1, 100).tolist():
        _, late = adafactor.update(start, tree, tree, momentum=momentum)
        assert np.array_equal(late.values[0], np.float32(1 - momentum) * plain.values[0])
    zero = Leaves([np.zeros((2, 2), np.float32), np.zeros(3, np.float32)], NumPy())
    _, step = adafactor.update(adafactor.init(zero), zero, zero)
    assert not any(np.any(x) for x in step.values)  # nor a NaN
    small = Leaves([np.full((2, 2), 0.0707)], NumPy())  # the mean is bounded, V is not
    options = {"lr": 1.0, "scale_parameter": False, "d": 10.0}
    _, step = adafactor.update(adafactor.init(small), small, eps1=0.01, **options)
    assert np.allclose(step.values[0], -1 / np.sqrt(0.0707**2 / 0.01))
    tiny = Leaves([np.float32(1e-12)], NumPy())
    for eps1 in np.random.default_rng(0).uniform(0.1, 1, 100).tolist():
        options = {"eps1": eps1, "lr": 1.0, "scale_parameter": False}
        _, step = adafactor.update(adafactor.init(tiny), tiny, **options)
        assert step.values[0] == -np.float32(1e-12) / np.sqrt(np.float32(eps1 * eps1))


def muon_sees_the_shape(modules: dict[str, ModuleType]) -> None:
    if "muon" not in modules:
        return
    muon = modules["muon"]
    theta = Leaves([np.ones((2, 3, 2))], NumPy())
    for no_matrix in ({"flatten": False}, {"output_axis": ()}):
        state = muon.init(theta, **no_matrix)
        assert (state.b.values, state.m.shape, state.v.shape) == ((None,), (2, 3, 2), (2, 3, 2))
        _, step = muon.update(state, theta, theta, lr=9.0, adam_lr=1.0, **no_matrix)
        assert np.allclose(step.values[0], -1.0)
        assert np.allclose(muon.update(state, theta, lr=1.0, **no_matrix)[1].values[0], -1.0)
    assert muon.init(np.ones((6, 4)), split=3).b.shape == (6, 4)
    empty, flat = Leaves([], NumPy()), Leaves([np.ones((2, 3))], NumPy())
    assert muon.update(muon.init(empty), empty, empty)[1].values == ()
    state = muon.init(flat, output_axis=())
    assert np.allclose(muon.update(state, flat, lr=1.0, output_axis=())[1].values[0], -1.0)
    stack = {"output_axis": 1, "reduction_axis": 2}
    assert muon.init(np.ones((4, 3, 2)), **stack).b.shape == (4, 3, 2)
    for shape in ((2, 3), (2, 3, 2)):
        state = muon.init(Leaves([np.ones(shape)], NumPy()))
        assert (state.b.shape, state.m.values, state.v.values) == (shape, (None,), (None,))
    small = 2.0**-9 * np.eye(2)  # shorter than ε
    given = {"eps": 2.0, "adam_eps": 0.5, "adam_weight_decay": 0.25, "weight_decay": 0.0}
    given |= {"lr": 1.0, "momentum": 0.0, "ns_coefficients": (1.0, 0.0, 0.0)}
    assert np.array_equal(muon.update(muon.init(small), small, **given)[1], -small / 2)
    for rows, columns in ((7, 3), (11, 7), (3, 1), (3, 0)):
        tall = np.random.default_rng(0).normal(size=(rows, columns))
        tall_steps = [
            muon.update(muon.init(tall), tall, **given, output_axis=axis)[1] for axis in (0, 1)
        ]
        scale = math.sqrt(rows / columns) if columns else 1.0
        assert np.array_equal(tall_steps[0], scale * tall_steps[1])
    cubic = (1.5, -0.5, 0.0)
    twice = [
        muon.update(muon.init(small), small, weight_decay=0.0, **own)[1]
        for own in ({"ns_coefficients": cubic, "ns_steps": 2}, {"ns_coefficients": (cubic, cubic)})
    ]
    assert np.array_equal(*twice)
    usual = ALGORITHMS["muon"].defaults()
    for given in (
        *({"ns_steps": bad} for bad in (-1, 100, 2.0, True, "5")),
        *({"adjust_lr_fn": bad} for bad in ("match", 0.2, True, ["original"])),
        {"adjust_lr_fn": "match_rms_adamw", "consistent_rms": 0.1},
        {"ns_coefficients": "cubic"},
        {"split": 0},
    ):
        assert _refuses(muon.check, usual | given), given
    for given in (
        *({"ns_steps": 0}, {"ns_steps": 99}),
        *({"adjust_lr_fn": "original"}, {"consistent_rms": 0.1}),
    ):
        muon.check(usual | given)
    for refused in ((), (3,)):
        assert _refuses(muon.check_shape, refused, "torch")
        muon.check_shape(refused, "paper")
        muon.check_shape(refused, "vendor")
    for taken in ((3, 4), (3, 4, 2)):
        muon.check_shape(taken, "torch")


@np.errstate(all="ignore")
def iterations_are_those_that_are_asked_for(modules: dict[str, ModuleType]) -> None:
    if "newton_schulz" not in modules:
        return
    module = modules["newton_schulz"]
    simple, cubic = (3.4445, -4.775, 2.0315), (1.5, -0.5, 0.0)
    for coefficients, steps, wanted in (
        (simple, None, [simple] * 5),
        ("simple", None, [simple] * 5),
        ("simple", 7, [simple] * 7),
        ((simple, cubic), None, [simple, cubic]),
        ([[*simple], cubic], 4, [simple, cubic, cubic, cubic]),
        ((simple, cubic), 1, [simple]),
        ((cubic, simple, cubic), None, [cubic, simple, cubic]),
        ([*cubic], 2, [cubic] * 2),
        ((simple, cubic), 0, []),
        ((), None, []),
        ((1, 2, 3), 1, [(1.0, 2.0, 3.0)]),
    ):
        assert module.triples(coefficients, steps) == wanted
    assert [*map(len, map(module.triples, module.COEFFICIENTS))] == [5, 5, 8]
    for bad in (
        *(None, 1.0, (1.0, 2.0, np.nan), "abc", ("abc",), (True, 2.0, 3.0)),
        *(((1.0, 2.0),), ((1.0,) * 4,), ((1.0, np.nan, 2.0),), ((np.inf,) * 3,)),
    ):
        assert _refuses(module.triples, bad), bad
    assert _refuses(module.triples, (), 2)
    usual = {"ns_steps": None, "ns_coefficients": simple}
    for given in (
        *({"ns_steps": bad} for bad in (-1, 100, 2.0, True, "5")),
        {"ns_coefficients": "cubic"},
        {"ns_coefficients": (), "ns_steps": 3},
    ):
        assert _refuses(module.check, usual | given), given
    for steps in (0, 99):
        module.check(usual | {"ns_steps": steps})
    assert [*map(module.stretch, [(8, 2), (2, 8), (3, 3), (3, 0)])] == [2, 1, 1, math.sqrt(3)]
    mutants.working_dtype("float32")
    rng = np.random.default_rng(0)
    for shape in ((3, 5), (5, 3)):
        u, x = rng.normal(size=(2, *shape)).astype(np.float32)
        found = module.orthogonal(x, [cubic] * 40, None, 1e-7)
        square = found @ found.T if shape[0] < shape[1] else found.T @ found
        assert np.allclose(square, np.eye(3), atol=1e-3)
        norms = [np.float32(np.linalg.norm(np.float64(y))) for y in (u, x)]
        for rms in rng.uniform(0.1, 1, 50).tolist():  # the number is rounded once
            size = np.float32(math.sqrt(15) * rms)
            assert module.factor(u, x, rms, 0.0) == size / norms[0]
            assert module.factor(u, x, rms, 1e3) == size / np.float32(1e3)
        length = np.float32(module.stretch(shape)) * norms[1]
        assert module.factor(u, x, 0.0, 0.0) == length / norms[0]


@np.errstate(all="ignore")
def what_follows_muon_sees_the_shape(modules: dict[str, ModuleType]) -> None:
    for name in {"normuon", "adamuon"} & modules.keys():
        rule, theta = modules[name], Leaves([np.ones((2, 3, 2))], NumPy())
        of_rows = name == "normuon"
        no_matrix = {"output_axis": ()}
        state = rule.init(theta, **no_matrix)
        assert (state.b.values, state.m.shape, state.v.shape) == ((None,), (2, 3, 2), (2, 3, 2))
        for given, wanted in (({"lr": 9.0, "adam_lr": 1.0}, -1.0), ({"lr": 1.0}, -1.0)):
            _, step = rule.update(state, theta, theta, **given, **no_matrix)
            assert np.allclose(step.values[0], wanted)
        for given, rows in (
            ({}, 2),
            ({"output_axis": 1}, 3),
            ({"output_axis": -1, "split": 2}, 2),
            ({"output_axis": 1, "reduction_axis": 2}, 6),
        ):
            state = rule.init(theta, **given)
            state, _ = rule.update(state, theta, theta, **given)
            assert (state.b.shape, state.m.values) == ((2, 3, 2), (None,))
            assert state.v.shape == ((rows,) if of_rows else (2, 3, 2))
        empty, none = Leaves([], NumPy()), Leaves([np.ones((3, 0))], NumPy())
        assert rule.update(rule.init(empty), empty, empty)[1].values == ()
        assert rule.update(rule.init(none), none, none)[0].v.shape == ((3,) if of_rows else (3, 0))
        usual = ALGORITHMS[name].defaults()
        for given in ({"ns_steps": -1}, {"ns_coefficients": "cubic"}, {"split": 0}):
            assert _refuses(rule.check, usual | given), given
        rule.check(usual)
        small = 2.0**-9 * np.eye(2)  # ε counts, and is that of matrices
        own = {"eps": 2.0, "adam_eps": 0.5, "adam_weight_decay": 0.25, "weight_decay": 0.0}
        own |= {"lr": 1.0, "momentum": 0.0, "ns_coefficients": (1.0, 0.0, 0.0), "maximize": True}
        for rms in (0.0, 0.25):
            _, step = rule.update(rule.init(small), small, consistent_rms=rms, **own)
            found = small / 2 if of_rows else np.eye(2) / 2  # divided by ε, as both are shorter
            second = np.mean(found**2, axis=1, keepdims=True) if of_rows else found**2
            u = found / (np.sqrt((0.05 if of_rows else 1.0) * second) + 2)
            size = np.linalg.norm(found) if rms == 0 else 0.5
            assert np.allclose(step, u * size / max(np.linalg.norm(u), 2), rtol=1e-12)


def layers_without_a_norm_have_the_ratio_1(modules: dict[str, ModuleType]) -> None:
    if "trust_ratio" in modules:
        ratio = modules["trust_ratio"].trust_ratio
        weights, update = np.array([6.0, 0.0, 6.0, 0.0]), np.array([3.0, 3.0, 0.0, 0.0])
        assert ratio(weights, update, 2.0, 1.0).tolist() == [3.0, 1.0, 1.0, 1.0]
        assert ratio(np.array(5e-324), np.array(5e-324)) == 1.0  # by default nothing is added


def impossible_axes_are_refused(modules: dict[str, ModuleType]) -> None:
    for algorithm in mutants.algorithms(modules).values():
        for name, value in {"output_axis": 0.5, "reduction_axis": "rows", "split": 0}.items():
            if name in algorithm.defaults():
                assert f"{name} = " in _refusal(algorithm, {name: value})


def _refusal(algorithm: Algorithm, given: dict[str, Any]) -> str:
    try:
        algorithm.resolve(None, given)
    except ValueError as error:
        return str(error)
    return ""


def shapes_stay(modules: dict[str, ModuleType]) -> None:
    """Of rules of matrices also for what is none: the step is like the gradient."""
    for algorithm in mutants.algorithms(modules).values():
        for shape in ((3,), ()) if "output_axis" in algorithm.defaults() else ():
            theta = Leaves([np.ones(shape, np.float32)], NumPy())
            first = algorithm.start(theta, algorithm.defaults())
            state, step = algorithm.update(first, theta, theta, **algorithm.defaults())
            assert step.values[0].shape == shape
            for before, after in zip(fields_of(first), fields_of(state), strict=True):
                assert np.shape(before.values[0]) == np.shape(after.values[0])


CONTRACTS = (
    arrays_alone_keep_their_dtypes,
    radam_rectifies_above_the_threshold,
    a_late_momentum_needs_no_parameters,
    sam_without_a_climb_is_the_algorithm,
    wrappers_keep_their_bits,
    loss_models_keep_their_bits,
    rates_are_those_of_the_step_before,
    matrices_keep_their_bits,
    products_keep_their_bits,
    a_period_ends_with_the_step_that_reaches_it,
    what_is_due_is_due_at_multiples_of_the_interval,
    adafactor_sees_the_shape,
    muon_sees_the_shape,
    iterations_are_those_that_are_asked_for,
    what_follows_muon_sees_the_shape,
    averages_keep_their_bits,
    averages_are_found_or_refused,
    layers_keep_their_bits,
    layers_without_a_norm_have_the_ratio_1,
    what_starts_from_a_distance,
    without_a_sign_sizes_stay,
    helpers_do_what_they_say,
    scalars_are_made_where_their_array_is,
    cube_roots_keep_their_bits,
    powers_keep_their_bits,
    init_needs_no_hyperparameters,
    absent_terms_are_not_computed,
    signs_turn_where_the_rounded_sums_do,
    long_runs_keep_their_bits,
    impossible_axes_are_refused,
    shapes_stay,
)
