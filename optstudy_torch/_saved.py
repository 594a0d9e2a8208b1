"""Saved states: missing entries are added, and wrong ones refused before any part is loaded."""

from __future__ import annotations

from typing import Any

import torch

from ._arguments import rule_of, selected, values_of
from ._meshes import started
from ._states import Layout, check_fields


@torch.no_grad()
def complete_states(optimizer: Any, saved: dict[str, Any]) -> None:
    """Add initial states once there is any state, so that all processes save the same fields."""
    states = saved["state"]
    if not any(states.values()):
        return
    for group, own in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        pairs = zip(own["params"], group["params"], strict=True)
        fresh = [(i, p) for i, p in pairs if p.requires_grad and not states.get(i)]
        if fresh:
            rule = selected(rule_of(group, optimizer.algorithm), group)
            states.update({i: started(p, *rule) for i, p in fresh})


def check_saved(optimizer: Any, state_dict: dict[str, Any]) -> None:
    """Refuse a saved state of another algorithm or of other parameters.

    Raises:
        ValueError: if an entry does not fit. (torch refuses other numbers of groups and
            parameters.)
    """
    groups, states = parts_of(state_dict)
    left = set(states)
    pairs = list(zip(groups, optimizer.param_groups, strict=False))
    for number, (saved, group) in enumerate(pairs):
        own, found = rule_of(group, optimizer.algorithm).name, saved.get("algorithm")
        if not isinstance(found, str) or found != own:
            where = f" in group {number}" if len(optimizer.param_groups) > 1 else ""
            raise ValueError(
                f"state_dict of algorithm {found!r}{where}: allowed for "
                f"{type(optimizer).__name__} is {own!r}{' there' if where else ''}"
            )
    for number, (saved, group) in enumerate(pairs):
        try:
            values = values_of(saved, optimizer.algorithm, optimizer.defaults)
            rule = selected(rule_of(group, optimizer.algorithm), values)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(f"state_dict, group {number}: {error}") from error
        layout = Layout.of(*rule)
        for i, p in zip(saved["params"], group["params"], strict=False):
            left.discard(i)
            if i in states:
                if not isinstance(states[i], dict):
                    raise ValueError(
                        f"state_dict, state {i} of type {type(states[i]).__name__}: allowed are "
                        "dictionaries"
                    )
                if states[i]:
                    try:
                        layout.shapes(p)
                    except ValueError as error:  # an axis that the parameter lacks
                        raise ValueError(f"state_dict, group {number}: {error}") from error
                    check_fields("state_dict", states[i], layout, p)
    sizes = ([len(g["params"]) for g in x] for x in (groups, optimizer.param_groups))
    if left and next(sizes) == next(sizes):
        raise ValueError(
            f"state_dict has states for {left}, which are in no group: allowed are states for "
            "parameters of its groups"
        )


def parts_of(state_dict: Any) -> tuple[list[dict[str, Any]], dict[Any, Any]]:
    """Return the groups and the states of a saved state.

    Raises:
        ValueError: if the lists and dictionaries are not those of a ``state_dict``.
    """
    for name, kind in (("param_groups", list), ("state", dict)):
        if not isinstance(state_dict.get(name), kind):
            raise ValueError(
                f"state_dict without a {kind.__name__} {name!r}: allowed is the result of "
                "state_dict()"
            )
    groups = state_dict["param_groups"]
    numbers: list[Any] = []
    for i, group in enumerate(groups):
        params = group.get("params") if isinstance(group, dict) else None
        if not isinstance(params, list):
            raise ValueError(
                f"state_dict, group {i}: allowed are dictionaries with a list 'params'"
            )
        numbers += params
    if not all(type(i) in (int, str) for i in numbers) or len(set(numbers)) != len(numbers):
        raise ValueError("state_dict, params of the groups: allowed are numbers, each only once")
    return groups, state_dict["state"]


DEEPEST = 64
"""The largest depth of dictionaries and lists in a saved state; states of torch have depth four."""


def check_depth(state_dict: Any) -> None:
    """Refuse a state with values that are nested too deeply.

    Raises:
        ValueError: if the depth is larger than ``DEEPEST``.
    """
    waiting = [(state_dict, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError(
                f"state_dict with more than {DEEPEST} levels: allowed is the result of state_dict()"
            )
        if isinstance(value, dict):
            waiting += [(x, depth + 1) for x in value.values()]
        elif isinstance(value, list | tuple):
            waiting += [(x, depth + 1) for x in value]


def with_tuples(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state with tuples instead of lists as values of hyperparameters."""

    def of_lists(x: Any) -> Any:
        return tuple(map(of_lists, x)) if isinstance(x, list) else x

    def group(saved: dict[str, Any]) -> dict[str, Any]:
        numbers = {k: v for k, v in saved.items() if k in ("params", "param_names")}
        return {k: of_lists(v) for k, v in saved.items()} | numbers

    groups, _ = parts_of(state_dict)
    return state_dict | {"param_groups": [group(saved) for saved in groups]}
