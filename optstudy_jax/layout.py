"""Optimizers that get parameters with axes in the order of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from optstudy_core.travel.layers import kernel_axes

from ._paths import leaf_name

Axes = Callable[[str, Any], Sequence[int] | None]
"""A function of the name of a leaf (``layers/0/kernel``) and the leaf: its axes in PyTorch."""


def torch_axes(name: str, leaf: Any) -> tuple[int, ...] | None:
    """Return the order in PyTorch of the axes of a leaf of Flax; ``None``: the same.

    The ``kernel`` of a linear layer is (in, out) in Flax and (out, in) in PyTorch. The ``kernel``
    of a convolution is (…, in, out) in Flax and (out, in, …) in PyTorch. All other leaves have the
    same axes.

    Args:
        name: the name of the leaf, its path in the tree.
        leaf: an array, or anything with ``ndim``.

    >>> import numpy as np
    >>> torch_axes("layers/0/kernel", np.zeros((4, 8)))
    (1, 0)
    >>> torch_axes("conv/kernel", np.zeros((3, 5, 16, 32)))
    (3, 2, 0, 1)
    >>> torch_axes("layers/0/bias", np.zeros(8))
    """
    return kernel_axes(leaf.ndim) if name.rpartition("/")[2] == "kernel" else None


def in_torch_layout(
    tx: optax.GradientTransformation, axes: Axes = torch_axes
) -> optax.GradientTransformationExtraArgs:
    """Return an optimizer that gets every leaf with axes in the order of PyTorch.

    A rule that depends on rows and columns (Adafactor, AdaMuon, Muon, NorMuon, Shampoo, SM3, SOAP)
    takes another step for a transposed kernel. With this function it takes the same step as in
    PyTorch, to the last bit. The arrays of its state have the order of axes of PyTorch. Other rules
    do not need this function.

    Args:
        tx: the optimizer.
        axes: the order of the axes of a leaf in PyTorch. The default :func:`torch_axes` knows the
            layers ``Linear`` (``Dense``) and ``Conv`` of Flax. For other layers (for example
            attention) pass a function of your own.

    Returns:
        the optimizer, for parameters and gradients in the order of axes of Flax.

    Raises:
        ValueError: from ``init`` and ``update``, if the result of ``axes`` is no order of the axes
            of a leaf.

    >>> import jax.numpy as jnp
    >>> import optstudy_jax
    >>> tx = in_torch_layout(optstudy_jax.muon(1e-2))
    >>> tx.init({"kernel": jnp.zeros((4, 8))}).inner.b["kernel"].shape
    (8, 4)
    """
    inner = optax.with_extra_args_support(tx)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        orders, shapes = _orders(axes, updates), _shapes(updates)
        extra = {k: _transposed(x, orders) if _shapes(x) == shapes else x for k, x in extra.items()}
        if params is not None:
            params = _transposed(params, _orders(axes, params))
        updates, state = inner.update(_transposed(updates, orders), state, params, **extra)
        return _transposed(updates, [o if o is None else np.argsort(o) for o in orders]), state

    update.torch_axes = axes  # type: ignore[attr-defined]  # see travel
    if hasattr(tx.update, "takes_double"):
        update.takes_double = True  # type: ignore[attr-defined]  # of hyperparameters, see epoch
    if hasattr(tx.update, "parts"):
        update.parts = lambda params: tx.update.parts(  # type: ignore[attr-defined]
            _transposed(params, _orders(axes, params))
        )
    return optax.GradientTransformationExtraArgs(
        lambda params: inner.init(_transposed(params, _orders(axes, params))), update
    )


def _orders(axes: Axes, tree: Any) -> list[Sequence[int] | None]:
    """Return the order of the axes of each leaf."""
    orders = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = leaf_name(path)
        # What tools of optax put in the place of a parameter has no axes.
        order = axes(name, leaf) if hasattr(leaf, "ndim") else None
        if order is not None and sorted(order) != list(range(leaf.ndim)):
            raise ValueError(
                f"axes of {name!r} = {tuple(order)}: allowed are orders of its {leaf.ndim} axes"
            )
        orders.append(order)
    return orders


def _transposed(tree: Any, orders: Sequence[Any]) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    pairs = zip(leaves, orders, strict=True)
    turned = [x if o is None else _transposed_leaf(x, o) for x, o in pairs]
    return jax.tree.unflatten(structure, turned)


def _transposed_leaf(leaf: Any, order: Sequence[int]) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(lambda x: x.transpose(order), leaf)
    return leaf.transpose(order)


def _shapes(tree: Any) -> tuple[Any, list[tuple[int, ...]]]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [np.shape(x) for x in leaves]
