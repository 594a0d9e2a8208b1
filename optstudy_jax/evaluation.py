"""The parameters for evaluation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optstudy_core.arrays.leaves import Leaves
from optstudy_core.parts import evaluation

from ._backend import BACKEND, working_dtype
from ._fields import nodes
from ._nnx import trained
from ._rounding import isolate, outside, rounded
from .states import TransformState


class Held(NamedTuple):
    """A state that is an average."""

    average: Any


def eval_params(state: Any, params: Any, *, b1: Any = None) -> Any:
    """Return the parameters for evaluation: averages, if an optimizer keeps them.

    Optimizers with ``averaged`` and schedule-free algorithms keep averages. Other leaves do not
    change. The results have the bits of ``optimizer.eval()`` in PyTorch.

    Args:
        state: the state of a transformation that contains optimizers of ``optstudy_jax``, or an
            ``nnx.Optimizer``.
        params: the trained parameters, a tree, or a module of nnx.
        b1: β of a schedule-free algorithm, a number in (0, 1); other algorithms ignore it.

    Raises:
        ValueError: if a schedule-free algorithm needs β and ``b1`` is missing.

    >>> from optstudy_core import ALGORITHMS, averaged
    >>> from optstudy_jax import from_core
    >>> tx, params = from_core(averaged(ALGORITHMS["sgd"]))(0.25), jnp.ones(2)
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> eval_params(state, optax.apply_updates(params, updates)).tolist()
    [0.75, 0.75]
    """
    leaves, treedef = jax.tree.flatten(trained(params))
    for node in nodes(trained(state)):
        if isinstance(node, TransformState):
            leaves = _of_one(node.inner, leaves, treedef, b1)
    return jax.tree.unflatten(treedef, leaves)


def _of_one(inner: Any, leaves: list[Any], treedef: Any, b1: Any) -> list[Any]:
    """Return the leaves, with averages for those leaves that an optimizer averages."""
    average = evaluation.average_of(inner)
    if average is None:
        return leaves
    z = getattr(average, "z", None)
    found = []
    for leaf, kept in zip(leaves, treedef.flatten_up_to(average if z is None else z), strict=True):
        if isinstance(kept, optax.MaskedNode):  # a leaf of another optimizer
            found.append(leaf)
            continue
        dtype = working_dtype(jnp.result_type(leaf))
        theta, own = (Leaves([outside(x, dtype)], BACKEND) for x in (leaf, kept))
        held = Held(own if z is None else average._replace(z=own))
        result = evaluation.eval_params(held, theta, b1=b1)
        assert result is not None
        found.append(rounded(isolate(result.values[0].value), jnp.result_type(leaf)))
    return found
