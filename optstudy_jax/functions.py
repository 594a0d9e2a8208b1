"""The function of each algorithm, with arguments under the names of optax, and a docstring."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from optstudy_core import ALGORITHMS, Algorithm
from optstudy_core.arrays.numbers import is_number, nearest
from optstudy_core.catalogue.docstring import meaning, with_arguments
from optstudy_core.catalogue.table import find

from .schedules import at
from .transform import transformation

_FUNCTIONS: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {}
_POSITIONAL = ("lr", "momentum", "b1", "b2", "eps")  # the same places as in optax
_RATE_ALONE = (
    "dadapt_adamw",
    "lars",
    "optimistic_adam",
    "prodigy",
    "schedule_free_adamw",
    "schedule_free_sgd",
)
"""Algorithms with functions in optax that take other arguments after the rate."""


def _is_absent(value: Any) -> bool:
    """Return whether a default leaves a term out.

    optax.inject_hyperparams turns every number into an array, which would not leave the term out.
    """
    return is_number(value) and value == 0


def _signature(algorithm: Algorithm) -> inspect.Signature:
    parameter = inspect.Parameter
    kind: Any = parameter.POSITIONAL_OR_KEYWORD
    differing = algorithm.differing()
    positional = ("lr",) if algorithm.name in _RATE_ALONE else _POSITIONAL
    parameters = []
    for name, value in algorithm.defaults(algorithm.default_dialect).items():
        if name not in positional:
            kind = parameter.KEYWORD_ONLY
        parameters.append(
            parameter(
                "learning_rate" if name == "lr" else name,
                kind,
                default=None if name in differing or _is_absent(value) else value,
            )
        )
    kind = parameter.KEYWORD_ONLY
    extra: dict[str, Any] = {"dialect": algorithm.default_dialect, "step_dtype": None}
    if "weight_decay" in algorithm.defaults() and not algorithm.has_global_sums:
        extra = {"mask": None} | extra  # leaves of two groups would not be one vector
    if "output_axis" in algorithm.defaults():
        extra = {f"{algorithm.name}{_DIMENSIONS}": None} | extra
    parameters += [parameter(name, kind, default=value) for name, value in extra.items()]
    return inspect.Signature(parameters, return_annotation=optax.GradientTransformationExtraArgs)


_DIMENSIONS = "_weight_dimension_numbers"
"""The end of the name of the argument for the axes of rows and columns of each leaf."""

_TORCH = {
    "lr": ("learning_rate",),
    "betas": ("b1", "b2", "b3"),
    "etas": ("etaminus", "etaplus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}
"""The names in optstudy_jax of arguments of torch."""

_OPTAX = {
    "adam_learning_rate": ("adam_lr",),
    "beta": ("b1", "momentum"),
    "bias_correction": ("correct_bias",),
    "clipping_threshold": ("d",),
    "decay": ("alpha",),
    "eps_in_sqrt": ("eps_in_root",),
    "eta_minus": ("etaminus",),
    "eta_plus": ("etaplus",),
    "max_learning_rate": ("max_lr",),
    "max_step_size": ("step_size_max",),
    "min_step_size": ("step_size_min",),
    "multiply_by_parameter_scale": ("scale_parameter",),
    "ns_coeffs": ("ns_coefficients",),
    "scaling": ("learning_rate",),
    "weight_decay_mask": ("mask",),
    "weight_decay_rate": ("weight_decay",),
}
"""The names in optstudy_jax of arguments with other names in optax."""

_OPTAX_ONLY = dict.fromkeys(
    ("accumulator_dtype", "dtype_momentum", "mu_dtype", "state_dtype"),
    "the state is float32, or float64 for float64 parameters",
) | {"nesterov": "Adam with it is nadam, and AdamW nadamw"}
"""The reasons why arguments of optax do not exist in optstudy_jax."""

_MEANINGS = {
    "learning_rate": "a number, or a schedule: a function of the step count.",
    "mask": "the leaves with weight decay: a tree of booleans, or a function of the parameters "
    "that returns one.",
    "dialect": "which library's formulas and defaults to use. An argument that is ``None`` has the "
    "default of the dialect.",
    "step_dtype": '``"float32"``: float32 updates for bfloat16 and float16 parameters, so that '
    "``optax.apply_updates`` rounds only the sum.",
}
"""The meanings of the arguments that are no hyperparameters."""
_OF_AXES = (
    "a tree of ``MuonDimensionNumbers`` of optax, or a function of the parameters that returns "
    "one: ``output_axis`` and ``reduction_axis`` of each leaf; ``None`` for a leaf that is no "
    "matrix."
)
_RETURNS = "the optax transformation; its updates include the learning rate and the sign."
_ERRORS = """TypeError: for an argument of the wrong kind, or one that the algorithm does not have.
ValueError: for a value that is not allowed."""


def _documented(algorithm: Algorithm, signature: inspect.Signature) -> str:
    """Return the docstring of a function: the equations, and the meaning of each argument."""
    source = inspect.getmodule(algorithm.update)
    text = inspect.getdoc(algorithm.update) or ""
    meanings = {n: _MEANINGS.get(n) or meaning(text, n) for n in signature.parameters}
    if algorithm.name + _DIMENSIONS in meanings:
        meanings[algorithm.name + _DIMENSIONS] = _OF_AXES
    equations = source.__doc__ if source else None
    return with_arguments(equations, meanings, Returns=_RETURNS, Raises=_ERRORS)


def _make_function(algorithm: Algorithm) -> Callable[..., optax.GradientTransformationExtraArgs]:
    signature = _signature(algorithm)

    def function(*args: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        for name in kwargs.keys() - signature.parameters.keys():
            names = (_TORCH | _OPTAX).get(name, ())
            own = [n for n in names if n in signature.parameters]
            known = f"it is called {' and '.join(map(repr, own))} here" if own else None
            known = known or _OPTAX_ONLY.get(name)
            raise TypeError(
                f"{algorithm.name} has no argument {name!r}: "
                f"{known or nearest(name, signature.parameters)}"
            )
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        dialect = given.pop("dialect")
        options = {
            "mask": given.pop("mask", None),
            "dimension_numbers": given.pop(algorithm.name + _DIMENSIONS, None),
        }
        step_dtype = given.pop("step_dtype")
        if step_dtype not in (None, "float32"):
            raise ValueError(f"step_dtype = {step_dtype!r}: allowed are None and 'float32'")
        if "learning_rate" in given:
            given["lr"] = given.pop("learning_rate")
        schedules = {name: given.pop(name) for name, x in [*given.items()] if callable(x)}
        for name in schedules.keys() - {"lr"}:  # an array: what it is a factor of is never absent
            given[name] = np.asarray(at(schedules[name], jnp.zeros((), jnp.int32)))
        return transformation(
            algorithm, algorithm.resolve(dialect, given), schedules, step_dtype, dialect, **options
        )

    ours = ALGORITHMS.get(algorithm.name) is algorithm
    function.__name__ = function.__qualname__ = algorithm.name
    function.__module__ = "optstudy_jax" if ours else algorithm.update.__module__
    function.__doc__ = _documented(algorithm, signature) if ours else algorithm.update.__doc__
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


def from_core(
    algorithm: str | Algorithm,
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """Return a function that makes an optax transformation of an algorithm.

    The arguments of the function are the hyperparameters of the algorithm under the names of optax
    (``learning_rate``, ``b1``, ``b2``, ``eps``, …). Each is a number or a schedule. A schedule is
    one of ``optstudy_core.schedules``, which has the same bits in ``optstudy_torch``, or any
    function of the step count. Further arguments:

    - ``mask``, for algorithms with weight decay and without a sum over all leaves: the leaves with
      weight decay, as a tree of booleans or a function of the parameters that returns one;
    - ``dialect``: the library or source of the formulas and defaults (see
      ``optstudy_core.defaults``);
    - ``step_dtype``: ``"float32"`` makes float32 updates for bfloat16 and float16 parameters, so
      that ``optax.apply_updates`` rounds only the sum, instead of rounding the step first.

    The updates include the learning rate and the sign: ``optax.apply_updates`` adds them.

    Args:
        algorithm: a name of ``optstudy_core.ALGORITHMS``, or an ``Algorithm`` of your own.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if a rule of your own has a common mistake (see ``Algorithm.check_formula``).

    >>> import jax.numpy as jnp, optax
    >>> tx = from_core("sgd")(learning_rate=0.5)
    >>> params = jnp.ones(2)
    >>> updates, state = tx.update(2 * params, tx.init(params), params)
    >>> optax.apply_updates(params, updates).tolist()
    [0.0, 0.0]
    """
    algorithm = find(algorithm)
    if ALGORITHMS.get(algorithm.name) is not algorithm:
        algorithm.check_formula()
        return _make_function(algorithm)
    if algorithm.name not in _FUNCTIONS:
        _FUNCTIONS.setdefault(algorithm.name, _make_function(algorithm))  # one for all threads
    return _FUNCTIONS[algorithm.name]
