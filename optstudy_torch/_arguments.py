"""The arguments of the classes, under the names of torch, and the values of parameter groups."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from optstudy_core import ALGORITHMS, Algorithm
from optstudy_core.catalogue.docstring import meaning, with_arguments
from optstudy_core.catalogue.hyperparameters import check_value
from optstudy_core.catalogue.table import find


class Flagged(NamedTuple):
    """The algorithm that flags of torch.optim select instead of the algorithm of the class."""

    algorithm: str
    hyperparameters: dict[str, Any]


FLAGS: dict[str, dict[tuple[str, ...], Flagged]] = {
    "adam": {
        ("amsgrad",): Flagged("amsgrad", {}),
        ("decoupled_weight_decay",): Flagged("adamw", {}),
        ("amsgrad", "decoupled_weight_decay"): Flagged("amsgrad", {"decoupled_weight_decay": True}),
    },
    "adamw": {("amsgrad",): Flagged("amsgrad", {"decoupled_weight_decay": True})},
}
"""For the algorithm of a class, the algorithm that each set of flags of torch selects."""

TUPLES = {
    "betas": ("b1", "b2", "b3"),
    "eps": ("eps1", "eps2"),
    "etas": ("etaminus", "etaplus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}
"""Arguments of torch that hold several hyperparameters: all of them that the algorithm has."""

ELSEWHERE = {name: own for own, inside in TUPLES.items() for name in inside} | {
    "learning_rate": "lr",
}
"""The names in optstudy of arguments of optax."""

POSITIONAL = {
    "adam": ("amsgrad",),
    "adamw": ("amsgrad",),
    "adamax": ("foreach",),
    "adagrad": ("foreach",),
    "adadelta": ("foreach",),
    "asgd": ("foreach", "maximize", "differentiable", "capturable"),
    "rmsprop": ("capturable", "foreach", "maximize", "differentiable"),
}
"""The positional arguments of the classes of torch after the hyperparameters, by algorithm."""

ADAPTER = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
ON_TENSORS = ("capturable", "differentiable")
"""Flags that make all numbers of a step tensors; a group contains those that are set."""

SHARED = ("compile", "step_dtype", "maximize", *ON_TENSORS)
"""The arguments that a group with another algorithm takes from the class."""


# Groups.


def rule_of(group: Mapping[str, Any], own: Algorithm) -> Algorithm:
    """Return the algorithm that a group names.

    Args:
        group: the values of the group.
        own: the algorithm of the class, for groups that name no algorithm.

    Raises:
        TypeError, ValueError: if the group names no algorithm of ``ALGORITHMS``.
    """
    named = group.get("algorithm", own.name)
    if named is own or named == own.name:
        return own
    found = find(named)
    if not is_ours(found):
        raise TypeError(
            f"algorithm = {found.name!r} is not one of ALGORITHMS: allowed are their names, and "
            f"{own.name!r}"
        )
    return found


def group_of(group: dict[str, Any], own: Algorithm, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group with all of its values (see :func:`values_of`) and its other entries.

    Raises:
        TypeError: also for an argument of the class that the algorithm of the group does not have.
    """
    algorithm = rule_of(group, own)
    known = arguments_of(algorithm)
    ours = {"cautious_decay", *defaults}.union(*TUPLES.values())  # other entries are the user's
    for name in sorted(group.keys() & ours - known):
        where = "a group" if algorithm is own else f"a group of {algorithm.name}"
        raise TypeError(f"{name} in {where}: allowed are {', '.join(sorted(known))}")
    rest = {k: v for k, v in group.items() if k not in known}
    return rest | values_of(group, own, defaults)


def values_of(
    group: Mapping[str, Any], own: Algorithm, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all values of a group; the class gives those that the group does not have.

    A group with another algorithm has the defaults of that algorithm. It takes only the arguments
    in :data:`SHARED` from the class.

    Args:
        group: the values of the group; entries that are no arguments are left out.
        own: the algorithm of the class.
        defaults: the arguments of the class.

    Raises:
        TypeError, ValueError, NotImplementedError: for a value that is not allowed.
    """
    algorithm = rule_of(group, own)
    known = arguments_of(algorithm)
    if algorithm is not own:
        shared = {k: defaults[k] for k in SHARED if k in defaults.keys() & known}
        defaults = {"dialect": algorithm.default_dialect} | shared
    given = {k: v for k, v in group.items() if k in known}
    return completed(algorithm, {**defaults, **given})


def completed(algorithm: Algorithm, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a group for the arguments of a class; ``None`` selects the default.

    Args:
        algorithm: the algorithm of the group.
        arguments: arguments of the class; a group may lack some of them.

    Raises:
        TypeError, ValueError, NotImplementedError: for a value that is not allowed.
    """
    arguments = dict(arguments)
    arguments.pop("foreach", None)
    compiled = compiled_of(arguments.pop("compile", None), arguments.pop("fused", None))
    on_tensors = {name: arguments.pop(name, False) for name in ON_TENSORS}
    dialect = arguments.pop("dialect", None)
    step_dtype = arguments.pop("step_dtype", None)
    if step_dtype not in (None, "float32"):
        raise ValueError(f"step_dtype = {step_dtype!r}: allowed are None and 'float32'")
    flags = {name: arguments.pop(name, False) for name in flags_of(algorithm)}
    for name, value in (flags | on_tensors).items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} = {value!r}: allowed are True and False")
    values = algorithm.resolve(dialect, split_tuples(algorithm, arguments))
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            if value.numel() != 1 or value.is_complex() or value.is_meta or value.is_sparse:
                raise ValueError(
                    f"{name} of shape {tuple(value.shape)} and {value.dtype}: allowed are numbers "
                    "and tensors with one real element"
                )
            check_value(name, value.item(), algorithm.defaults()[name])
    group = {"algorithm": algorithm.name} | join_tuples(values) | flags
    group |= {"dialect": dialect, "compile": compiled, "step_dtype": step_dtype}
    group |= {name: True for name in ON_TENSORS if on_tensors[name]}
    check_on_tensors(selected(algorithm, group)[0], group)
    return group


def check_on_tensors(algorithm: Algorithm, group: Mapping[str, Any]) -> None:
    """Refuse ``capturable`` and ``differentiable`` for groups that do not support them.

    Raises:
        NotImplementedError: for a rule with sums or branches that do not allow it.
        ValueError: with ``compile=True``.
    """
    asked = [name for name in ON_TENSORS if group.get(name)]
    if not asked:
        return
    if group["compile"]:
        raise ValueError(
            f"compile = True with {asked[0]} = True: allowed are None and False, because the host "
            "passes numbers to a kernel"
        )
    if "differentiable" in asked and (algorithm.has_sums or algorithm.leafwise):
        raise NotImplementedError(
            f"differentiable = True for {algorithm.name}: allowed are rules without sums over "
            "elements. Exact sums use integers, which carry no gradient in torch."
        )
    if "capturable" in asked and algorithm.one_by_one:
        raise NotImplementedError(
            f"capturable = True for {algorithm.name}: allowed are rules with the same operations "
            "at every step. This rule has a branch that depends on values."
        )


def selected(algorithm: Algorithm, group: dict[str, Any]) -> tuple[Algorithm, dict[str, Any]]:
    """Return the algorithm of a group and its hyperparameters, checked."""
    given = split_tuples(algorithm, {k: v for k, v in group.items() if k in names_of(algorithm)})
    flags = tuple(name for name in flags_of(algorithm) if group[name])
    if flags:
        neutral = algorithm.defaults()
        flagged = FLAGS[algorithm.name][flags]
        algorithm = ALGORITHMS[flagged.algorithm]
        known = algorithm.defaults()
        lost = {k: v for k, v in given.items() if k not in known and v != neutral[k]}
        if lost:
            raise ValueError(
                f"{' and '.join(flags)} = True: allowed without "
                f"{', '.join(f'{k} = {v!r}' for k, v in lost.items())}"
            )
        given = {k: v for k, v in given.items() if k in known} | flagged.hyperparameters
    values = algorithm.resolve(group["dialect"], given)
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            raise TypeError(
                f"{name} of type ndarray: allowed are numbers and tensors with one element"
            )
    differentiable = group.get("differentiable", False)

    def scalar(x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(differentiable):
            return x.reshape(())

    return algorithm, {
        k: scalar(v) if isinstance(v, torch.Tensor) else v for k, v in values.items()
    }


def compiled_of(compiled: Any, fused: Any) -> bool | None:
    """Return the value of ``compile`` in a group; torch calls the argument ``fused``.

    Raises:
        TypeError: for another kind of value.
    """
    for name, value in (("compile", compiled), ("fused", fused)):
        if not (value is None or isinstance(value, bool)):
            raise TypeError(f"{name} = {value!r}: allowed are True, False and None")
    return fused or (fused if compiled is None else compiled)


# Names.


@functools.cache
def arguments_of(algorithm: Algorithm) -> frozenset[str]:
    """Return the arguments of the class of an algorithm that a group may have."""
    return frozenset(signature_of(algorithm, None).parameters) - {"params"}


def is_ours(algorithm: Algorithm) -> bool:
    return ALGORITHMS.get(algorithm.name) is algorithm


def flags_of(algorithm: Algorithm) -> tuple[str, ...]:
    """Return the names of the flags of the class of this algorithm in torch."""
    table = FLAGS.get(algorithm.name, {}) if is_ours(algorithm) else {}
    return tuple(dict.fromkeys(name for names in table for name in names))


def names_of(algorithm: Algorithm) -> set[str]:
    """Return the names of the hyperparameters of an algorithm as in torch."""
    return set(join_tuples(algorithm.defaults()))


def tuples_of(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the tuples of torch that hold two or more of these hyperparameters."""
    known = set(names)
    found = {t: tuple(n for n in inside if n in known) for t, inside in TUPLES.items()}
    return {t: inside for t, inside in found.items() if len(inside) > 1}


def join_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Replace ``b1``, ``b2`` by ``betas`` and so on, at the place of the first one."""
    joined = dict(values)
    for name, inside in tuples_of(values).items():
        whole = tuple(values[n] for n in inside)
        renamed = {(name if n == inside[0] else n): v for n, v in joined.items()}
        joined = {n: v for n, v in renamed.items() if n not in inside} | {name: whole}
    return joined


def split_tuples(algorithm: Algorithm, values: dict[str, Any]) -> dict[str, Any]:
    """Replace ``betas`` by ``b1``, ``b2`` and so on."""
    values = dict(values)
    for name, inside in tuples_of(algorithm.defaults()).items():
        whole = values.pop(name, None)
        if whole is not None:
            if not isinstance(whole, tuple | list) or len(whole) != len(inside):
                raise TypeError(f"{name} = {whole!r}: allowed are tuples of {len(inside)} numbers")
            values |= dict(zip(inside, whole, strict=True))
    return values


def signature_of(algorithm: Algorithm, dialect: str | None) -> inspect.Signature:
    """Return the arguments of the class, in the order of torch.optim; keywords from maximize."""
    differing = algorithm.differing()
    parameter = inspect.Parameter
    values = join_tuples(algorithm.defaults(dialect))
    names = list(values)
    keywords = names.index("maximize") if "maximize" in names else len(names)
    tuples = tuples_of(algorithm.defaults())

    def default(name: str) -> Any:
        return None if differing & {name, *tuples.get(name, ())} else values[name]

    rest = {n: default(n) for n in names[keywords:]} | dict.fromkeys(flags_of(algorithm), False)
    extra = {"dialect": dialect, "compile": None, "step_dtype": None} | ADAPTER
    rest |= {n: v for n, v in extra.items() if n not in values}
    positional = POSITIONAL.get(algorithm.name, ()) if is_ours(algorithm) else ()
    parameters: dict[str, Any] = {"params": parameter.empty}
    parameters |= {n: default(n) for n in names[:keywords]} | {n: rest.pop(n) for n in positional}
    kinds = dict.fromkeys(parameters, parameter.POSITIONAL_OR_KEYWORD)
    parameters |= rest
    return inspect.Signature(
        [
            parameter(n, kinds.get(n, parameter.KEYWORD_ONLY), default=v)
            for n, v in parameters.items()
        ]
    )


_MEANINGS = {
    "params": "the tensors to train, or dictionaries of groups, as for any optimizer of torch.",
    "dialect": "which library's formulas and defaults to use. An argument that is ``None`` has the "
    "default of the dialect.",
    "compile": "run the step as one kernel for all parameters, with the same bits. ``None``: if a "
    "kernel is possible; ``False``: never.",
    "step_dtype": '``"float32"``: add the float32 step to a bfloat16 or float16 parameter with one '
    "rounding.",
    "amsgrad": "run AMSGrad instead, as torch does.",
    "decoupled_weight_decay": "run AdamW instead, as torch does.",
    "foreach": "accepted, without effect.",
    "capturable": "``True``: a CUDA graph can capture the step, which runs as operations of torch, "
    "with the same bits.",
    "differentiable": "``True``: autograd goes through the step, which runs as operations of "
    "torch, with the same bits.",
    "fused": "the same as ``compile``.",
}
"""The meanings of the arguments that are no hyperparameters."""
_ERRORS = """TypeError: for an argument of the wrong kind, or one that the algorithm does not have.
ValueError: for a value that is not allowed."""


def documented(algorithm: Algorithm, signature: inspect.Signature) -> str | None:
    """Return the docstring of a class: the equations, and the meaning of each argument."""
    source = inspect.getmodule(algorithm.update)
    if not is_ours(algorithm) or source is None:
        return algorithm.update.__doc__
    text = inspect.getdoc(algorithm.update) or ""
    tuples = tuples_of(algorithm.defaults())

    def told(name: str) -> str:
        if name in tuples:
            inside = (f"``{n}``, {meaning(text, n)}" for n in tuples[name])
            return "; ".join(part.rstrip(".") for part in inside) + "."
        return meaning(text, name) or _MEANINGS.get(name, "")

    meanings = {name: told(name) for name in signature.parameters}
    meanings["params"] = _MEANINGS["params"]  # not the meaning in the formula
    return with_arguments(source.__doc__, meanings, Raises=_ERRORS)
