"""``optax``: its functions against the dialect "optax" of ours, run in NumPy.

To add a peer: ``pair("lion", "lion", {"b1": 0.95}, b1=0.95)``. The first name is ours, the second
the function of ``optax`` (or a function itself, of ``optax.contrib``); the dictionary holds our
arguments, the keywords optax's.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np
import optax
from optax._src import factorized

from parity.conformance import Arrays, Peer, Problem, Runner, average_of, core, rule


def runner(
    make: Callable[[Any], Any],
    lr: float,
    scheduled: bool = True,
    inputs: Sequence[str] = (),
    seen: Callable[[Any, Any], Any] = lambda state, params: params,
) -> Runner:
    """Return what trains with ``make(learning_rate)`` in one jitted scan.

    Args:
        make: makes the transformation of a schedule or, if it takes none, of a number.
        lr: the learning rate where the problem has none of its own.
        scheduled: whether it takes a schedule: then one compilation serves every problem.
        inputs: names of what it is given besides the gradient.
        seen: what is compared, of the state and the parameters after a step; the parameters.
    """

    def scan(params: Any, grads: Any, rates: Any, given: Any) -> Any:
        tx = make((lambda count: rates[count]) if scheduled else lr)

        def body(carry: Any, row: Any) -> Any:
            g, extra = row
            updates, state = tx.update(g, carry[1], carry[0], **extra)
            params = optax.apply_updates(carry[0], updates)
            return (params, state), seen(state, params)

        return jax.lax.scan(body, (params, tx.init(params)), (grads, given))[1]

    jitted = functools.cache(lambda: jax.jit(scan))  # compiled once for all seeds

    def run(problem: Problem) -> list[Arrays]:
        with jax.enable_x64(problem.dtype == np.float64):
            grads = [np.stack(column) for column in zip(*problem.grads, strict=True)]
            rates = np.asarray(problem.rates or [lr] * len(problem.grads), problem.dtype)
            rows = [{k: row[k] for k in inputs} for row in problem.inputs]
            given = jax.tree.map(lambda *x: np.stack(x), *rows)
            columns = [np.asarray(x) for x in jitted()(problem.begin, grads, rates, given)]
        return [[x[t] for x in columns] for t in range(len(problem.grads))]

    return run


def pair(
    algorithm: str,
    theirs: str | Callable[..., Any],
    ours: Mapping[str, Any] | None = None,
    *,
    lr: float = 1e-3,
    cause: str = "",
    scheduled: bool = True,
    dialect: str = "optax",
    chained: Callable[[Any], Any] | None = None,
    name: str | None = None,
    shown: Mapping[str, Any] | None = None,
    average: bool = False,
    **given: Any,
) -> Peer:
    """Return our algorithm and a function of optax.

    Args:
        algorithm: a name of ``ALGORITHMS`` or of ``WRAPPERS``.
        theirs: name of a function of optax, or the function.
        ours: our hyperparameters, without the learning rate.
        lr: the learning rate of both.
        cause: why the two differ, if they do.
        scheduled: whether optax takes a schedule for it.
        dialect: ours.
        chained: further steps around the transformation.
        name: what the function is called; its own name by default.
        shown: the arguments to show; all by default.
        average: compare the averages instead of the parameters; optax's is the end of its state.
        given: optax's arguments, without the learning rate.
    """
    function = getattr(optax, theirs) if isinstance(theirs, str) else theirs
    module = "optax.contrib" if ".contrib." in getattr(function, "__module__", "") else "optax"
    name = name or (theirs if isinstance(theirs, str) else function.__name__)

    def make(rate: Any) -> Any:
        tx = function(rate, **given)
        return tx if chained is None else chained(tx)

    return Peer(
        algorithm,
        dialect,
        f"{module}.{name}",
        {"learning_rate": lr} | given if shown is None else shown,
        core(algorithm, dialect, *([average_of] if average else []), lr=lr, **(ours or {})),
        runner(make, lr, scheduled, [*rule(algorithm).inputs], *([_last] if average else [])),
        cause,
        scheduled,
    )


def _same(algorithm: str, theirs: str | Callable[..., Any], **given: Any) -> Peer:
    """Return a pair in which ours and optax's arguments have the same names."""
    own = {k: v for k, v in given.items() if k not in ("lr", "cause", "scheduled", "name")}
    return pair(algorithm, theirs, own, **given)


def _madgrad(rate: Any, **given: Any) -> Any:
    """Return optax's with a float64 counter: it takes √(k + 1) of an int32, in float32."""
    schedule = (lambda count: rate(count.astype(np.int32))) if callable(rate) else rate
    tx = optax.contrib.madgrad(schedule, **given)

    def init(params: Any) -> Any:
        double = jax.tree.leaves(params)[0].dtype == np.float64
        decay, state = tx.init(params)
        return decay, state._replace(count=state.count.astype(np.float64)) if double else state

    return optax.GradientTransformationExtraArgs(init, tx.update)


def _counting_in_double(make: Callable[..., Any], **given: Any) -> Any:
    """Return optax's with float64 counters: its warm-up divides an int32, in float32."""
    tx = make(**given)

    def init(params: Any) -> Any:
        double = jax.tree.leaves(params)[0].dtype == np.float64
        counts = (lambda x: x.astype(np.float64) if x.dtype == np.int32 else x) if double else None
        return jax.tree.map(counts, tx.init(params)) if counts else tx.init(params)

    return optax.GradientTransformationExtraArgs(init, tx.update)


def _schedule_free_sgd(rate: float, **given: Any) -> Any:
    return _counting_in_double(optax.contrib.schedule_free_sgd, learning_rate=rate, **given)


def _schedule_free_adamw(rate: float, **given: Any) -> Any:
    return _counting_in_double(optax.contrib.schedule_free_adamw, learning_rate=rate, **given)


def _first_optimistic_adam(rate: float, **given: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # in favour of optimistic_adam_v2
        return optax.optimistic_adam(rate, **given)


def _adafactor(rate: Any, **given: Any) -> Any:
    """Return optax's with t^-0.8 and momentum in the parameters' dtype: it has them in float32."""

    def in_double(i: Any, exponent: Any = 0.8) -> Any:
        return 1 - (i + 1).astype(float) ** -exponent

    function = factorized.scale_by_factored_rms
    with mock.patch.object(
        factorized, "scale_by_factored_rms", lambda *a: function(*a, decay_rate_fn=in_double)
    ):
        return optax.adafactor(rate, dtype_momentum=None, **given)


def _sm3(rate: float, **given: Any) -> Any:
    """Return optax's, with scalars as vectors of one: it fails for scalars."""
    tx = optax.sm3(rate, **given)

    def raised(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(x.shape or 1), tree)

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        updates, state = tx.update(raised(grads), state, raised(params))
        return jax.tree.map(lambda u, g: u.reshape(g.shape), updates, grads), state

    return optax.GradientTransformation(lambda params: tx.init(raised(params)), update)


def _muon(rate: Any, **given: Any) -> Any:
    """Return optax's for matrices, and its AdamW for the rest: its own would look ahead there."""

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda p: "muon" if p.ndim == 2 else "adamw", params)

    rules = {
        "muon": optax.contrib.muon(rate, **given),
        "adamw": optax.adamw(rate, weight_decay=0.0),
    }
    return optax.transforms.partition(rules, labels)


def _polyak_sgd(rate: Any, max_lr: float = 1.0, **given: Any) -> Any:
    return optax.polyak_sgd(max_learning_rate=max_lr, scaling=rate, **given)


def _sophia(rate: Any, **given: Any) -> Any:
    """Return optax's, which is handed its estimates."""
    handed = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(),
        lambda updates, state, params=None, *, hessian, **extra: (hessian, state),
    )
    return optax.contrib.sophia(rate, hessian_diagonal_fn=handed, **given)


def _last(state: Any, params: Any) -> Any:
    return state[-1]


def _lookahead(rate: Any, **given: Any) -> Any:
    """Return optax's, with the slow weights in its state."""
    tx = optax.lookahead(optax.adam(rate), **given)

    def update(grads: Any, state: Any, params: Any) -> Any:
        inner, slow = state
        updates, inner = tx.update(grads, inner, optax.LookaheadParams(params, slow))
        return updates.fast, (inner, optax.apply_updates(slow, updates.slow))

    return optax.GradientTransformation(
        lambda params: (tx.init(optax.LookaheadParams.init_synced(params)), params), update
    )


def _sam(rate: float, rho: float, **given: Any) -> Any:
    """Return optax's with an ε beside the norm: without, a gradient of zeros gives NaN."""

    def along(grads: Any, params: Any) -> Any:
        length = optax.tree.norm(grads) + 1e-12
        return jax.tree.map(lambda g: g / length, grads)

    climb = optax.chain(optax.stateless(along), optax.sgd(rho))
    return optax.contrib.sam(optax.adam(rate), climb, **given)


def _mechanize(rate: Any, **given: Any) -> Any:
    return optax.contrib.mechanize(optax.adam(rate), **given)


def _ema(rate: Any, decay: float) -> Any:
    """Return Adam with optax's average of the parameters at the end of its state."""
    tx, mean = optax.adam(rate), optax.ema(decay)

    def update(grads: Any, state: Any, params: Any) -> Any:
        inner, kept, _ = state
        updates, inner = tx.update(grads, inner, params)
        average, kept = mean.update(optax.apply_updates(params, updates), kept)
        return updates, (inner, kept, average)

    return optax.GradientTransformation(
        lambda params: (tx.init(params), mean.init(params), params), update
    )


PEERS = [
    pair("averaged", _ema, {"average_decay": 0.999}, average=True, name="ema", decay=0.999),
    pair("averaged", _ema, {"average_decay": 0.7}, average=True, name="ema", decay=0.7),
    _same("lookahead", _lookahead, name="lookahead", sync_period=5, slow_step_size=0.5),
    _same("lookahead", _lookahead, name="lookahead", sync_period=3, slow_step_size=0.3),
    pair("mechanic", _mechanize, {"initial_scale_factor": 1e-6}, lr=1.0, name="contrib.mechanize"),
    # Where the rate falls, roundings grow: both are 2e-11 from a loop in extended precision.
    pair(
        "mechanic",
        _mechanize,
        {"initial_scale_factor": 1e-3, "mechanic_decay": 0.1},
        lr=1.0,
        scheduled=False,
        name="contrib.mechanize",
        s_init=1e-3,
        weight_decay=0.1,
    ),
    pair("sam", _sam, {"ascent_radius": 0.05}, scheduled=False, name="contrib.sam", rho=0.05),
    pair(
        "sam",
        _sam,
        {"ascent_radius": 0.1, "ascent_period": 4},
        scheduled=False,
        name="contrib.sam",
        rho=0.1,
        sync_period=4,
    ),
    _same("sgd", "sgd"),
    _same("sgd", "sgd", momentum=0.9),
    _same("sgd", "sgd", momentum=0.9, nesterov=True),
    _same("adam", "adam"),
    _same("adam", "adam", b1=0.8, b2=0.95, eps=1e-6),
    _same("adam", "adam", eps_root=1e-10),
    _same("adamw", "adamw"),
    _same("adamw", "adamw", lr=1e-2, weight_decay=0.1),
    _same("amsgrad", "amsgrad"),
    _same("amsgrad", "amsgrad", eps_root=1e-10),
    _same("adamax", "adamax"),
    _same("adamax", "adamax", b1=0.8, b2=0.95, eps=1e-6),
    _same("adamaxw", "adamaxw"),
    _same("adamaxw", "adamaxw", lr=1e-2, weight_decay=0.1),
    _same("nadam", "nadam"),
    _same("nadam", "nadam", b1=0.8, b2=0.95, eps_root=1e-10),
    _same("nadamw", "nadamw"),
    _same("nadamw", "nadamw", lr=1e-2, weight_decay=0.1, eps_root=1e-10),
    _same("radam", "radam"),
    _same("radam", "radam", b1=0.8, b2=0.95, eps_root=1e-10),
    _same("radam", "radam", nesterov=True, threshold=6.5),
    _same("adagrad", "adagrad"),
    _same("adagrad", "adagrad", initial_accumulator_value=0.0, eps=1e-5),
    _same("adadelta", "adadelta", lr=1.0),
    _same("adadelta", "adadelta", lr=1.0, rho=0.95, eps=1e-4, weight_decay=0.01),
    pair(
        "adadelta",
        lambda _: optax.adadelta(),
        {"maximize": True},
        lr=1.0,
        scheduled=False,
        name="adadelta",
        shown={},
    ),
    _same("rmsprop", "rmsprop"),
    pair("rmsprop", "rmsprop", {"alpha": 0.95, "eps": 1e-5}, decay=0.95, eps=1e-5),
    pair("rmsprop", "rmsprop", {"eps_in_root": False}, eps_in_sqrt=False),
    _same("rmsprop", "rmsprop", centered=True, eps=1e-5),
    _same("rmsprop", "rmsprop", momentum=0.9, initial_scale=0.3),
    _same("rmsprop", "rmsprop", momentum=0.9, nesterov=True),
    pair(
        "rmsprop",
        "rmsprop",
        {"alpha": 0.99, "centered": True, "correct_bias": True, "initial_scale": 1.0},
        decay=0.99,
        centered=True,
        bias_correction=True,
        initial_scale=1.0,
    ),
    pair(
        "rmsprop",
        "rmsprop",
        {"centered": True, "correct_bias": True, "eps": 1e-5},
        cause="at the first step the corrected variance is 0 but for its rounding",
        centered=True,
        bias_correction=True,
        eps=1e-5,
    ),
    _same("rprop", "rprop", lr=1e-2, scheduled=False),
    pair(
        "rprop",
        "rprop",
        {"etaminus": 0.4, "etaplus": 1.5, "step_size_min": 1e-3, "step_size_max": 0.3},
        scheduled=False,
        eta_minus=0.4,
        eta_plus=1.5,
        min_step_size=1e-3,
        max_step_size=0.3,
    ),
    _same("lion", "lion", lr=1e-4),
    _same("lion", "lion", b1=0.8, b2=0.95, weight_decay=0.1),
    _same("sign_sgd", "sign_sgd"),
    _same("signum", "signum"),
    pair("signum", "signum", {"b1": 0.7}, beta=0.7),
    _same("adabelief", "adabelief"),
    _same("adabelief", "adabelief", eps=1e-8, eps_root=1e-10, nesterov=True),
    _same("yogi", "yogi", lr=1e-2),
    _same("yogi", "yogi", lr=1e-2, b1=0.8, b2=0.95, eps=1e-6),
    _same("adan", "adan"),
    _same("adan", "adan", b1=0.9, b2=0.8, b3=0.95, eps_root=0.0, weight_decay=0.1),
    _same("muon", _muon, name="muon for matrices", weight_decay=0.1),
    pair(
        "muon",
        _muon,
        {"momentum": 0.8, "nesterov": False, "consistent_rms": 0.2, "eps": 1e-3},
        name="muon for matrices",
        beta=0.8,
        nesterov=False,
        consistent_rms=0.2,
        eps=1e-3,
    ),
    pair("muon", optax.contrib.muon, {}, cause="its AdamW of other leaves looks ahead"),
    _same("polyak_sgd", _polyak_sgd, lr=1.0, name="polyak_sgd"),
    _same("polyak_sgd", _polyak_sgd, lr=0.1, max_lr=1e-6, f_min=-1.0, name="polyak_sgd"),
    pair(
        "polyak_sgd",
        _polyak_sgd,
        {"f_min": 30.0, "eps": 0.1, "positive_gap": True},
        lr=1.0,
        name="polyak_sgd",
        f_min=30.0,
        eps=0.1,
        variant="sps+",
    ),
    _same("momo", optax.contrib.momo, lr=1.0),
    _same("momo", optax.contrib.momo, lr=0.3, beta=0.7, weight_decay=0.1, lower_bound=0.5),
    _same("momo", optax.contrib.momo, lr=1.0, adapt_lower_bound=True, lower_bound=-2.0),
    _same("momo_adam", optax.contrib.momo_adam, lr=1e-2),
    _same("momo_adam", optax.contrib.momo_adam, lr=1.0, b1=0.8, b2=0.95, weight_decay=0.1),
    _same("momo_adam", optax.contrib.momo_adam, lr=1e-2, adapt_lower_bound=True, lower_bound=-5.0),
    _same("sophia", _sophia, name="sophia"),
    _same("sophia", _sophia, name="sophia", b1=0.8, b2=0.9, weight_decay=0.1, update_interval=3),
    _same("sophia", _sophia, name="sophia", gamma=1.0, eps=1e-3, clip_threshold=0.5),
    _same("optimistic_gradient_descent", "optimistic_gradient_descent"),
    _same("optimistic_gradient_descent", "optimistic_gradient_descent", alpha=0.7, beta=0.4),
    _same("optimistic_adam", "optimistic_adam_v2"),
    _same("optimistic_adam", "optimistic_adam_v2", alpha=0.7, beta=0.4, eps_root=1e-10),
    _same("optimistic_adam", "optimistic_adam_v2", nesterov=False),
    pair(
        "optimistic_adam",
        lambda _, **given: _first_optimistic_adam(1e-3, **given),
        {"alpha": 1e-3, "beta": 0.5},
        lr=1.0,
        scheduled=False,
        name="optimistic_adam",
        shown={"learning_rate": 1e-3, "optimism": 0.5},
        optimism=0.5,
    ),
    _same("acprop", optax.contrib.acprop),
    _same("acprop", optax.contrib.acprop, eps=1e-8, eps_root=1e-10, weight_decay=0.1),
    _same("ademamix", optax.contrib.ademamix),
    _same("ademamix", optax.contrib.ademamix, b3=0.99, alpha=2.0, weight_decay=0.1),
    _same("ademamix", optax.contrib.ademamix, b1=0.8, b2=0.95, eps_root=1e-10),
    _same("adopt", optax.contrib.adopt),
    _same("adopt", optax.contrib.adopt, nesterov=True, b1=0.8),
    _same("adopt", optax.contrib.adopt, use_clipping=False, b2=0.99, eps=1e-4),
    pair("madgrad", _madgrad, lr=1e-2, name="contrib.madgrad"),
    pair(
        "madgrad",
        _madgrad,
        {"momentum": 0.0, "weight_decay": 0.01},
        name="contrib.madgrad",
        momentum=0.0,
        weight_decay=0.01,
    ),
    _same("dog", optax.contrib.dog, lr=1.0),
    pair(
        "dog",
        optax.contrib.dog,
        {"reps_rel": 0.0, "reps": 1e-3, "eps": 1e-4, "weight_decay": 0.01},
        lr=1.0,
        init_step=("distance", 1e-3),
        eps=1e-4,
        weight_decay=0.01,
    ),
    pair(
        "dog",
        optax.contrib.dog,
        {"reps_rel": 0.0, "init_eta": 1e-6},
        lr=1.0,
        init_step=("learning_rate", 1e-6),
    ),
    _same("sm3", _sm3, lr=0.1, scheduled=False, name="sm3"),
    _same("sm3", _sm3, scheduled=False, name="sm3", momentum=0.0),
    pair(
        "adafactor",
        "adafactor",
        lr=1e-2,
        cause="optax takes t^-0.8 in float32",
    ),
    pair("adafactor", _adafactor, lr=1e-2, name="adafactor", shown={"min_dim_size_to_factor": 128}),
    pair(
        "adafactor",
        _adafactor,
        {"large_only": False},
        lr=1e-2,
        name="adafactor",
        min_dim_size_to_factor=0,
    ),
    pair(
        "adafactor",
        _adafactor,
        {
            "large_only": False,
            "beta2_decay": -0.6,
            "eps1": 1e-6,
            "d": 2.0,
            "momentum": 0.9,
            "weight_decay": 0.01,
            "scale_parameter": False,
        },
        name="adafactor",
        min_dim_size_to_factor=0,
        decay_rate=0.6,
        eps=1e-6,
        clipping_threshold=2.0,
        momentum=0.9,
        weight_decay_rate=0.01,
        multiply_by_parameter_scale=False,
    ),
    _same("schedule_free_sgd", optax.contrib.schedule_free_sgd, lr=0.1, scheduled=False),
    _same(
        "schedule_free_sgd",
        _schedule_free_sgd,
        lr=0.1,
        scheduled=False,
        name="contrib.schedule_free_sgd",
        b1=0.7,
        weight_decay=0.1,
        warmup_steps=50,
    ),
    pair(
        "schedule_free_sgd",
        _schedule_free_sgd,
        {"equal_weights": True, "warmup_steps": 20},
        lr=0.1,
        scheduled=False,
        name="contrib.schedule_free_sgd",
        weight_lr_power=0.0,
        warmup_steps=20,
    ),
    _same("schedule_free_adamw", optax.contrib.schedule_free_adamw, lr=2.5e-3, scheduled=False),
    _same(
        "schedule_free_adamw",
        _schedule_free_adamw,
        lr=2.5e-3,
        scheduled=False,
        name="contrib.schedule_free_adamw",
        b1=0.7,
        weight_decay=0.1,
        warmup_steps=50,
    ),
    pair(
        "schedule_free_adamw",
        _schedule_free_adamw,
        {"equal_weights": True, "warmup_steps": 20},
        lr=2.5e-3,
        scheduled=False,
        name="contrib.schedule_free_adamw",
        weight_lr_power=0.0,
        warmup_steps=20,
    ),
    _same("cocob", optax.contrib.cocob, lr=1.0),
    _same("cocob", optax.contrib.cocob, lr=0.5, alpha=10.0, eps=1e-3, weight_decay=0.01),
    _same("novograd", "novograd"),
    _same("novograd", "novograd", b1=0.8, b2=0.95, eps_root=1e-10, weight_decay=0.1),
    _same("fromage", "fromage", lr=1e-2),
    _same("fromage", "fromage", lr=0.3, min_norm=0.0),
    _same("fromage", "fromage", lr=0.1, min_norm=2.0),
    _same("lamb", "lamb"),
    _same("lamb", "lamb", lr=1e-2, b1=0.8, b2=0.95, eps_root=1e-10, weight_decay=0.1),
    _same("lars", "lars", lr=1.0),
    _same("lars", "lars", momentum=0.5, nesterov=True, trust_coefficient=0.02, weight_decay=0.1),
    _same("lars", "lars", lr=0.1, momentum=0.0, eps=1e-3),
    _same("dowg", optax.contrib.dowg, lr=1.0),
    _same("dowg", optax.contrib.dowg, init_estim_sq_dist=1e-2, eps=1e-6, weight_decay=0.01),
    _same("prodigy", optax.contrib.prodigy, lr=1.0),
    pair(
        "prodigy",
        optax.contrib.prodigy,
        {"b1": 0.8, "b2": 0.95, "eps": 1e-4, "weight_decay": 0.1},
        lr=0.5,
        betas=(0.8, 0.95),
        eps=1e-4,
        weight_decay=0.1,
    ),
    _same(
        "prodigy",
        optax.contrib.prodigy,
        lr=1.0,
        beta3=0.9,
        estim_lr0=1e-4,
        estim_lr_coef=0.5,
        safeguard_warmup=True,
    ),
    _same("dadapt_adamw", optax.contrib.dadapt_adamw, lr=1.0),
    pair(
        "dadapt_adamw",
        optax.contrib.dadapt_adamw,
        {"b1": 0.8, "b2": 0.95, "eps": 1e-4, "weight_decay": 0.1, "estim_lr0": 1e-4},
        lr=0.5,
        betas=(0.8, 0.95),
        eps=1e-4,
        weight_decay=0.1,
        estim_lr0=1e-4,
    ),
]
