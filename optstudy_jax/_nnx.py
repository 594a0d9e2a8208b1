"""Modules and optimizers of nnx (Flax) as arguments: read as trees, written in place."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any


def is_of_nnx(x: Any) -> bool:
    """Return whether an object is a module or an optimizer of nnx."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(x, nnx.Module | nnx.Optimizer)


def whole(x: Any) -> Any:
    """Return all arrays of a module or an optimizer of nnx as a tree; other objects unchanged."""
    return _pure(x) if is_of_nnx(x) else x


def trained(x: Any, wrt: Any = None) -> Any:
    """Return the trained variables of a module, or the state of an optimizer; others unchanged.

    Args:
        x: an object of any type.
        wrt: the trained variables of a module; ``None``: ``nnx.Param``.
    """
    if not is_of_nnx(x):
        return x
    nnx = sys.modules["flax.nnx"]
    if isinstance(x, nnx.Optimizer):
        return nnx.as_pure(x.opt_state)
    return _pure(x, wrt or nnx.Param)


def _pure(x: Any, *filters: Any) -> Any:
    nnx = sys.modules["flax.nnx"]
    return nnx.as_pure(nnx.state(x, *filters))


def update(x: Any, tree: Any) -> Any:
    """Write a tree of :func:`whole` into a module or an optimizer, which is returned."""
    sys.modules["flax.nnx"].update(x, tree)
    return x


def _update_trained(x: Any, tree: Any) -> Any:
    nnx = sys.modules["flax.nnx"]
    if isinstance(x, nnx.Optimizer):
        nnx.update(x.opt_state, nnx.state(tree))
        return x
    return update(x, tree)


def in_place(*results: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function of trees to accept modules and optimizers of nnx, and update them.

    The function gets the trained variables (``wrt`` of the optimizer, else ``nnx.Param``). The
    function of parameters ``value_fn`` gets a module with the parameters.

    Args:
        *results: for each result in order, the name of the argument to update, or "".
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            own = {name: x for name, x in given.items() if is_of_nnx(x)}
            if not own:
                return function(*args, **kwargs)
            nnx = sys.modules["flax.nnx"]
            wrt = next((x.wrt for x in own.values() if isinstance(x, nnx.Optimizer)), None)
            trees = {
                name: nnx.as_pure(x) if isinstance(x, nnx.State) else trained(x, wrt)
                for name, x in given.items()
            }
            if "value_fn" in given and "params" in own:
                trees["value_fn"] = _of_module(given["value_fn"], own["params"])
            made = function(**trees)
            parts = made if len(results) > 1 else (made,)
            pairs = zip(results, parts, strict=True)
            done = [_update_trained(own[k], x) if k in own else x for k, x in pairs]
            return tuple(done) if len(results) > 1 else done[0]

        return run

    return decorate


def _of_module(value_fn: Callable[[Any], Any], module: Any) -> Callable[[Any], Any]:
    """Return a function of parameters that calls ``value_fn`` with a copy of the module."""

    def function(params: Any) -> Any:
        return value_fn(update(sys.modules["flax.nnx"].clone(module), params))

    return function
