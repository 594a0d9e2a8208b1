"""The outputs of the layers of a model, as returned by the training function."""

from __future__ import annotations

from typing import Any

import jax

from optstudy_core import instruments as core

from ._inputs import flatten

_sums = jax.jit(core.activation_sums)


def seen(chosen: core.Chosen, activations: Any, grads: Any) -> dict[str, Any]:
    """Return sums of activations and of their gradients, by the names of the layers.

    Args:
        chosen: the quantities of the step.
        activations: tree of arrays, or ``None``.
        grads: tree of the gradients, or ``None``.

    Raises:
        TypeError: if a quantity needs a tree that is missing.
    """
    if not chosen.activations:
        return {}
    found = {}
    for kind, argument, tree in (
        ("sums", "activations", activations),
        ("grads", "activation_grads", grads),
    ):
        users = [name for name in chosen.activations if ("grad" in name) == (kind == "grads")]
        if users and tree is None:
            raise TypeError(
                f"{argument} is missing: {', '.join(users)} cannot be measured without it"
            )
        found[kind] = _by_layer(tree, chosen) if users else {}
    return found


def _by_layer(tree: Any, chosen: core.Chosen) -> dict[str, list[Any]]:
    names, _ = flatten(tree)
    found: dict[str, list[Any]] = {}
    for path, x in zip(names, jax.tree.leaves(tree), strict=True):
        name = _layer(path)
        if any(chosen.shows(quantity, name) for quantity in chosen.activations):
            found.setdefault(name, []).append(_sums(x))
    return found


def _layer(path: str) -> str:
    """Return the name of a layer from the path of its output.

    Linen and nnx keep a tuple of the results of all calls, under the name of the method, or under
    the name given to ``sow``.

    >>> _layer("Dense_0/__call__/0"), _layer("__call__/value/0"), _layer("blocks/1/out/0")
    ('Dense_0', 'output', 'blocks/1/out')
    """
    parts = path.split("/")
    if "__call__" in parts:
        parts = parts[: parts.index("__call__")]
    elif len(parts) > 1 and parts[-1].isdigit():
        parts = parts[:-2] if parts[-2] == "value" else parts[:-1]
    return "/".join(parts) or "output"
