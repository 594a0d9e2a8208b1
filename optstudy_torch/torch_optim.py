"""Conversion of checkpoints from and to torch.optim.

``load_state_dict`` of a class of optstudy accepts a ``state_dict`` of the class of torch.optim with
the same algorithm. :func:`to_torch_optim` returns a ``state_dict`` that this class of torch.optim
can load. The file of each algorithm lists the names of the fields in torch (``ELSEWHERE``). The
training continues with the same formulas, but other roundings.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

from optstudy_core import ALGORITHMS, Algorithm, newton_schulz
from optstudy_core.arrays.numbers import is_number

from ._arguments import ON_TENSORS, TUPLES, arguments_of, completed, selected
from ._states import Layout, tensor_of

_PREFIX = "torch.optim."

_HOW_IT_RUNS = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""Arguments of torch.optim that change how a step runs, but not its formula."""

_ADAPTER = frozenset({"dialect", "compile", "step_dtype"})

_LATER = _HOW_IT_RUNS | {"maximize", "decoupled_weight_decay", "amsgrad"}
"""Arguments that older checkpoints lack."""

_DERIVED = {"asgd": ("mu",)}
"""Fields of states of torch.optim that follow from other fields."""


def to_torch_optim(optimizer: Any) -> dict[str, Any]:
    """Return the state of an optimizer as a ``state_dict`` for torch.optim.

    The class of torch.optim is that with the same algorithm: ``torch.optim.AdamW`` for ``AdamW``.
    For float32 and float64 parameters, a state that was loaded from torch.optim returns to
    torch.optim to the last bit. There are two exceptions: Rprop has only the sign of the last
    gradient, while torch has the gradient; and SGD and Muon of torch.optim do not count steps. The
    moments of bfloat16 and float16 parameters are rounded to the dtype of the parameter, as in
    torch.optim.

    Args:
        optimizer: an optimizer of a class of ``optstudy_torch`` that torch.optim also has.

    Raises:
        TypeError: if torch.optim does not have the class, or for a ``state_dict``.
        ValueError: if a group has a value that the class of torch.optim does not support.

    >>> model = torch.nn.Linear(2, 1)
    >>> from optstudy_torch import AdamW
    >>> ours, theirs = AdamW(model.parameters()), torch.optim.AdamW(model.parameters())
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> ours.step()
    >>> theirs.load_state_dict(to_torch_optim(ours))
    >>> theirs.state[model.bias]["step"]
    tensor(1.)
    """
    if isinstance(optimizer, Mapping):
        raise TypeError("optimizer = a state_dict: pass the optimizer itself")
    own = _algorithm_of(optimizer)
    title = _title(own)
    saved = optimizer.state_dict()
    ours = frozenset({"algorithm", *arguments_of(own), *_ADAPTER}) - _HOW_IT_RUNS
    groups, states = [], {}
    for kept, group in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        algorithm, values = selected(own, group)
        _check_known(title, algorithm, values)
        groups.append(_group_of_torch(title, kept, ours))
        for i, p in zip(kept["params"], group["params"], strict=True):
            if optimizer.state.get(p):  # a saved state has initial states as well
                states[i] = _state_of_torch(saved["state"][i], algorithm, values, p)
    return {"state": states, "param_groups": groups}


def from_torch_optim(optimizer: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """Return a ``state_dict`` of torch.optim in the form of optstudy.

    Args:
        optimizer: the optimizer that will load the state.
        saved: the state; its lists and dictionaries are already checked.

    Raises:
        ValueError: if the state belongs to another class, or has other fields.
    """
    named = _algorithm_of(optimizer)
    title = _title(named)
    groups, states = [], {}
    known = arguments_of(named)
    for number, theirs in enumerate(saved["param_groups"]):
        where = f"state_dict, group {number}"
        theirs = _checked_group(title, theirs, where)
        own = {k: v for k, v in theirs.items() if k in known and k not in _HOW_IT_RUNS}
        own |= {k: v for k, v in theirs.items() if k in ON_TENSORS and v}
        rest = {k: v for k, v in theirs.items() if k not in own and k not in _arguments(title)}
        try:
            group = completed(named, own | {"dialect": "torch"})
            algorithm, _ = selected(named, group)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{where}: {error}") from error
        groups.append(rest | group)
        for i in theirs["params"]:
            state = saved["state"].get(i)
            if state:
                states[i] = _state_of_ours(state, algorithm, f"state_dict, state {i}")
    return {"state": states, "param_groups": groups}


# Classes of torch.optim.


def _algorithm_of(optimizer: Any) -> Algorithm:
    """Return the algorithm of all groups; a class of torch.optim has only one."""
    rules = {rule.name: rule for rule in optimizer._rules()}
    if len(rules) > 1:
        raise TypeError(
            f"groups with {', '.join(rules)}: an optimizer of torch.optim has one algorithm only"
        )
    return next(iter(rules.values()), optimizer.algorithm)


def _title(algorithm: Algorithm) -> str:
    """Return the name of the class of torch.optim with this algorithm."""
    found = [name for name in algorithm.elsewhere if name.startswith(_PREFIX)]
    if not found:
        known = sorted({a.title for a in ALGORITHMS.values() if _of_torch(a)})
        raise TypeError(f"torch.optim has no {algorithm.title}; it has {', '.join(known)}")
    return found[0].removeprefix(_PREFIX)


def _of_torch(algorithm: Algorithm) -> bool:
    return any(name.startswith(_PREFIX) for name in algorithm.elsewhere)


def _names(algorithm: Algorithm) -> Mapping[str, str]:
    """Return the names in torch.optim of the fields of the state of an algorithm."""
    return algorithm.elsewhere[_PREFIX + _title(algorithm)]


@functools.cache
def _arguments(title: str) -> Mapping[str, Any]:
    """Return the arguments in the groups of a class of torch.optim, with defaults."""
    made = vars(torch.optim)[title]([torch.zeros(1, 1)])
    return {k: v for k, v in made.param_groups[0].items() if k != "params"}


@functools.cache
def _all_arguments() -> frozenset[str]:
    """Return the arguments of all classes of torch.optim with an algorithm in optstudy."""
    titles = {_title(a) for a in ALGORITHMS.values() if _of_torch(a)}
    there = (_arguments(title) for title in titles if hasattr(torch.optim, title))
    return frozenset().union(*there)


# From torch.optim.


def _checked_group(title: str, group: dict[str, Any], where: str) -> dict[str, Any]:
    """Refuse a group of another class; return its values."""
    arguments = _arguments(title)
    foreign = group.keys() & _all_arguments() - arguments.keys() - _HOW_IT_RUNS
    missing = arguments.keys() - _LATER - group.keys()
    if foreign or missing:
        what = f"with {', '.join(sorted(foreign))}" if foreign else ""
        lack = f"without {', '.join(sorted(missing))}" if missing else ""
        raise ValueError(
            f"{where} {' and '.join(filter(None, [what, lack]))}: allowed are groups of "
            f"torch.optim.{title}"
        )
    decoupled = group.get("decoupled_weight_decay")
    if title == "AdamW" and decoupled is False:
        raise ValueError(
            f"{where} with decoupled_weight_decay = False belongs to torch.optim.Adam: allowed is "
            "a group of torch.optim.AdamW"
        )
    return group


def _state_of_ours(state: Any, algorithm: Algorithm, where: str) -> dict[str, Any]:
    names = _names(algorithm)
    if not isinstance(state, dict):
        raise ValueError(f"{where} of type {type(state).__name__}: allowed are dictionaries")
    known = {*names.values(), *_DERIVED.get(algorithm.name, ()), "step"}
    unknown = sorted(map(str, state.keys() - known))
    if unknown:
        raise ValueError(
            f"{where} has {', '.join(unknown)}: allowed for torch.optim.{_title(algorithm)} are "
            f"{', '.join(sorted(known))}"
        )
    found = {ours: state[name] for ours, name in names.items() if state.get(name) is not None}
    if "t" in found:
        found["t"] = _count(found["t"], where)
    else:  # SGD and Muon of torch.optim count no steps; only "any or none" matters
        found["t"] = torch.tensor(int(bool(found)), dtype=torch.int32)
    if algorithm.name == "rprop" and isinstance(found.get("sign"), torch.Tensor):
        found["sign"] = torch.sign(found["sign"])
    return found


def _count(step: Any, where: str) -> torch.Tensor:
    """Return the step count of torch, a number or a tensor of any dtype, as an int32 tensor."""
    scalar = isinstance(step, torch.Tensor) and step.numel() == 1 and not step.is_complex()
    value = float(step) if scalar or is_number(step) else float("nan")
    if not (0 <= value < 2**31 and value == int(value)):
        raise ValueError(f"{where} has step = {step!r}: allowed are whole numbers below 2³¹")
    return torch.tensor(int(value), dtype=torch.int32)


# To torch.optim.


def _check_known(title: str, algorithm: Algorithm, values: dict[str, Any]) -> None:
    """Refuse values that change a step and that the class of torch.optim does not support."""
    usual = algorithm.defaults("torch")
    theirs = {*_arguments(title)} | ({"consistent_rms"} if title == "Muon" else set())
    known = theirs.union(*(inside for own, inside in TUPLES.items() if own in theirs))
    unknown = {k: v for k, v in values.items() if k not in known and not _equal(v, usual[k])}
    unknown.pop("decoupled_weight_decay", None)  # of AMSGrad: in torch it selects the class AdamW
    if unknown:
        shown = ", ".join(f"{k} = {v!r}" for k, v in unknown.items())
        raise ValueError(f"{shown}: torch.optim.{title} has no such argument")


def _equal(x: Any, y: Any) -> bool:
    return bool((x.item() if isinstance(x, torch.Tensor) else x) == y)


def _group_of_torch(title: str, group: dict[str, Any], ours: frozenset[str]) -> dict[str, Any]:
    """Return a group in the form of torch.optim; entries of a scheduler stay."""
    found = {k: group.get(k, v) for k, v in _arguments(title).items()}
    if title == "Adafactor":
        eps1, eps2 = group["eps"]
        found["eps"] = (eps1 or None, eps2)  # 0 is the machine epsilon
    if title == "AdamW":
        found["decoupled_weight_decay"] = True
    if title == "Muon":
        found |= _muon_of_torch(group)
    return found | {k: v for k, v in group.items() if k not in ours and k not in found}


def _state_of_torch(
    state: dict[str, Any], algorithm: Algorithm, values: dict[str, Any], p: torch.Tensor
) -> dict[str, Any]:
    layout = Layout.of(algorithm, values)
    found: dict[str, Any] = {}
    for ours, name in _names(algorithm).items():
        if ours not in state or ours not in layout.names:
            continue
        i, value = layout.names.index(ours), tensor_of(state[ours])
        if layout.counts[i]:
            found[name] = value.to(_scalar_dtype(), copy=True)
        elif layout.flat and not layout.full[i]:  # a scalar for each parameter
            small = value.to(_scalar_dtype(), copy=True)  # the dtype of torch, if it is exact
            found[name] = small if small == value else value.clone()
        else:
            found[name] = value.to(p.dtype, copy=True)
    if algorithm.name == "asgd":
        rest = float(state["t"]) - float(values["t0"])
        found["mu"] = torch.full_like(found["eta"], 1 / max(1.0, rest))
    return found


def _scalar_dtype() -> torch.dtype:
    """Return the dtype in which torch.optim counts steps."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


# Muon, with more coefficients and scales than in torch.optim.


def _muon_of_torch(group: dict[str, Any]) -> dict[str, Any]:
    iterations = newton_schulz.triples(group["ns_coefficients"], group["ns_steps"])
    rms, name = group["consistent_rms"], group["adjust_lr_fn"]
    names = {0.0: name, 0.2: "match_rms_adamw"}
    if len({*iterations}) != 1 or rms not in names:
        raise ValueError(
            f"ns_coefficients = {group['ns_coefficients']!r}, ns_steps = {group['ns_steps']!r} and "
            f"consistent_rms = {rms!r}: torch.optim.Muon has one triple for all iterations, and a "
            "consistent_rms of 0 or 0.2"
        )
    steps = {"ns_steps": len(iterations), "adjust_lr_fn": names[rms]}
    return {"ns_coefficients": iterations[0]} | steps
