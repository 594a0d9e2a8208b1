"""Optimizers that see parameters in PyTorch's order of axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from optstudy_core.travel.layers import kernel_axes

from ._paths import leaf_name

Axes = Callable[[str, Any], Sequence[int] | None]
"""From the name of a leaf (``layers/0/kernel``) and the leaf, the order of its axes in PyTorch."""


def torch_axes(name: str, leaf: Any) -> tuple[int, ...] | None:
    """Return the order that PyTorch has the axes of a leaf of Flax in; ``None``: the same.

    A ``kernel`` of a linear layer is (in, out) in Flax and (out, in) in PyTorch, one of a
    convolution (…, in, out) and (out, in, …). Everything else is taken as it is.

    Args:
        name: of the leaf, its path in the tree.
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
    """Return an optimizer to which every leaf has PyTorch's order of axes.

    What looks at rows and columns (Adafactor, AdaMuon, Muon, NorMuon, Shampoo, SM3, SOAP) is
    another rule for a transposed kernel. With this it makes the step that the same optimizer makes
    in PyTorch, to the last bit; its state is that of the arrays in PyTorch's order. Other rules do
    not need it.

    Args:
        tx: the optimizer.
        axes: the order of a leaf's axes in PyTorch, :func:`torch_axes` by default: it knows the
            layers ``Linear`` (``Dense``) and ``Conv`` of Flax. Of other layers' leaves (attention,
            say) give a function of your own.

    Returns:
        the optimizer, of parameters and gradients as Flax has them.

    Raises:
        ValueError: from ``init`` and ``update``, if an order is not one of the leaf's axes.

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
