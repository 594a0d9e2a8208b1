"""The arguments of torch's classes: what they are called there, and what they say of a group."""

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
    """What truth values of torch.optim select instead of the algorithm of the class."""

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
"""Flags of torch's classes that are set, by the algorithm of the class."""

TUPLES = {
    "betas": ("b1", "b2", "b3"),
    "eps": ("eps1", "eps2"),
    "etas": ("etaminus", "etaplus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}
"""Arguments of torch's classes that hold several hyperparameters: those that the algorithm has."""

ELSEWHERE = {name: own for own, inside in TUPLES.items() for name in inside} | {
    "learning_rate": "lr",
}
"""What optax's arguments are called here."""

POSITIONAL = {
    "adam": ("amsgrad",),
    "adamw": ("amsgrad",),
    "adamax": ("foreach",),
    "adagrad": ("foreach",),
    "adadelta": ("foreach",),
    "asgd": ("foreach", "maximize", "differentiable", "capturable"),
    "rmsprop": ("capturable", "foreach", "maximize", "differentiable"),
}
"""What torch's classes take by position after the hyperparameters, by the algorithm."""

ADAPTER = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
ON_TENSORS = ("capturable", "differentiable")
"""Flags with which all numbers of a step are tensors; a group has those that are set."""

SHARED = ("compile", "step_dtype", "maximize", *ON_TENSORS)
"""What a group of another algorithm has of the class: the rest is that algorithm's own."""


# Groups.


def rule_of(group: Mapping[str, Any], own: Algorithm) -> Algorithm:
    """Return the algorithm that a group names.

    Args:
        group: its values.
        own: the algorithm of the class: that of groups that name none.

    Raises:
        TypeError, ValueError: if it names none of ``ALGORITHMS``.
    """
    named = group.get("algorithm", own.name)
    if named is own or named == own.name:
        return own
    found = find(named)
    if not is_ours(found):
        raise TypeError(
            f"algorithm = {found.name!r} of your own: allowed are names of ALGORITHMS, and "
            f"{own.name!r}"
        )
    return found


def group_of(group: dict[str, Any], own: Algorithm, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group with all of its values (see :func:`values_of`) and what else it has.

    Raises:
        TypeError: also for an argument that the class has and the algorithm of the group has not.
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
    """Return all values of a group; those it does not have are the class's.

    A group of another algorithm has that algorithm's defaults, and of the class only what says how
    a step runs, and for what: :data:`SHARED`.

    Args:
        group: its own values, and others, which are left out.
        own: the algorithm of the class.
        defaults: what the class was given.

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
    """Return a group's values for the arguments of a class, the dialect's for ``None``.

    Args:
        algorithm: of the group.
        arguments: as the class takes them; those of a group may lack some.

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
                    "and tensors of one real number"
                )
            check_value(name, value.item(), algorithm.defaults()[name])
    group = {"algorithm": algorithm.name} | join_tuples(values) | flags
    group |= {"dialect": dialect, "compile": compiled, "step_dtype": step_dtype}
    group |= {name: True for name in ON_TENSORS if on_tensors[name]}
    check_on_tensors(selected(algorithm, group)[0], group)
    return group


def check_on_tensors(algorithm: Algorithm, group: Mapping[str, Any]) -> None:
    """Refuse a step that cannot be recorded or differentiated, where a group asks for it.

    Raises:
        NotImplementedError: for a rule whose sums or branches do not allow it.
        ValueError: with ``compile=True``.
    """
    asked = [name for name in ON_TENSORS if group.get(name)]
    if not asked:
        return
    if group["compile"]:
        raise ValueError(
            f"compile = True with {asked[0]} = True: allowed are None and False, because a kernel "
            "is handed numbers that the host has read"
        )
    if "differentiable" in asked and (algorithm.has_sums or algorithm.leafwise):
        raise NotImplementedError(
            f"differentiable = True for {algorithm.name}: allowed are rules without sums over "
            "elements, whose exact sums are whole numbers to torch, and carry no gradient"
        )
    if "capturable" in asked and algorithm.one_by_one:
        raise NotImplementedError(
            f"capturable = True for {algorithm.name}: allowed are rules that do the same at every "
            "step, and this one looks at values to decide"
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
            raise TypeError(f"{name} of type ndarray: allowed are numbers and tensors of one")
    differentiable = group.get("differentiable", False)

    def scalar(x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(differentiable):
            return x.reshape(())

    return algorithm, {
        k: scalar(v) if isinstance(v, torch.Tensor) else v for k, v in values.items()
    }


def compiled_of(compiled: Any, fused: Any) -> bool | None:
    """Return what a group's ``compile`` is; ``fused`` is torch's word for it.

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
    """Return the arguments that the class of an algorithm has, those of groups."""
    return frozenset(signature_of(algorithm, None).parameters) - {"params"}


def is_ours(algorithm: Algorithm) -> bool:
    return ALGORITHMS.get(algorithm.name) is algorithm


def flags_of(algorithm: Algorithm) -> tuple[str, ...]:
    """Return the names of the flags that torch's class of this algorithm has."""
    table = FLAGS.get(algorithm.name, {}) if is_ours(algorithm) else {}
    return tuple(dict.fromkeys(name for names in table for name in names))


def names_of(algorithm: Algorithm) -> set[str]:
    """Return the names of an algorithm's hyperparameters as torch has them."""
    return set(join_tuples(algorithm.defaults()))


def tuples_of(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return which of torch's tuples hold which of these hyperparameters: two at least."""
    known = set(names)
    found = {t: tuple(n for n in inside if n in known) for t, inside in TUPLES.items()}
    return {t: inside for t, inside in found.items() if len(inside) > 1}


def join_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Replace ``b1``, ``b2`` by ``betas`` and so on, where the first of them stood."""
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
    """Return the arguments of the class: torch.optim's order, keywords from maximize on."""
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
    "dialect": "which library's formulas and defaults to use; an argument that is ``None`` has the "
    "dialect's value.",
    "compile": "run the step as one kernel for all parameters; ``None``: where one can be made, "
    "``False``: nowhere. The bits are the same.",
    "step_dtype": '``"float32"``: add the float32 step to a bfloat16 or float16 parameter with one '
    "rounding.",
    "amsgrad": "run AMSGrad instead, as torch does.",
    "decoupled_weight_decay": "run AdamW instead, as torch does.",
    "foreach": "accepted, without effect.",
    "capturable": "``True``: the step can be recorded in a CUDA graph; it runs as torch's "
    "operations, with the same bits.",
    "differentiable": "``True``: autograd goes through the step; it runs as torch's operations, "
    "with the same bits.",
    "fused": "the same as ``compile``.",
}
"""What the arguments mean that are the classes' own."""
_ERRORS = """TypeError: for an argument of the wrong kind, or one that the algorithm does not have.
ValueError: for a value that is not allowed."""


def documented(algorithm: Algorithm, signature: inspect.Signature) -> str | None:
    """Return the docstring of a class: the equations, and what each argument means."""
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
    meanings["params"] = _MEANINGS["params"]  # not those of the formula
    return with_arguments(source.__doc__, meanings, Raises=_ERRORS)
