"""The optax transformation around the pure function of an algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optstudy_core import Algorithm
from optstudy_core.arrays.doubles import Doubles
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.catalogue.algorithm import INPUTS

from ._backend import BACKEND, working_dtype
from ._boxes import opened, starting, stepping
from ._mesh import laid_out, on_meshes, whole
from ._rounding import PLAIN, Node, isolate, outside, rounded, unknown
from ._stacks import in_stacks
from .schedules import at
from .states import TransformState, merge, select


class Part(NamedTuple):
    """Leaves with the same hyperparameters, as returned by ``parts`` of an ``update``.

    Attributes:
        leaves: the numbers of the leaves.
        algorithm: the algorithm of the transformation.
        dialect: the dialect.
        hyperparameters: all hyperparameters, by the names of the core.
        schedules: schedules of hyperparameters, functions of the step count.
    """

    leaves: list[int]
    algorithm: Algorithm
    dialect: str | None
    hyperparameters: dict[str, Any]
    schedules: Mapping[str, Callable[[Any], Any]]


def transformation(
    algorithm: Algorithm,
    hyperparameters: dict[str, Any],
    schedules: Mapping[str, Callable[[Any], Any]],
    step_dtype: str | None,
    dialect: str | None = None,
    mask: Any = None,
    dimension_numbers: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Return the optax transformation of an algorithm.

    Args:
        algorithm: the pure function.
        hyperparameters: all hyperparameters, by the names of the core.
        schedules: functions of the step count by the names of hyperparameters; at each step they
            give the values.
        step_dtype: ``"float32"`` for float32 updates of bfloat16 and float16 parameters.
        dialect: the dialect of the hyperparameters.
        mask: the leaves with weight decay, a tree of booleans or a function of the parameters that
            returns one; ``None``: all leaves.
        dimension_numbers: the axes of rows and columns of each leaf: a tree of objects with
            ``output_axis`` and ``reduction_axis`` (``None``: the leaf is no matrix), or a function
            of the parameters that returns one; ``None``: as in the hyperparameters.
    """

    def groups(
        params_like: Any, treedef: Any, hyperparameters: dict[str, Any] = hyperparameters
    ) -> list[tuple[list[int], dict[str, Any]]]:
        """Return the leaves and the hyperparameters of each group of equal hyperparameters."""
        count = treedef.num_leaves
        if not count:  # tools of optax pass trees without leaves instead of parameters
            return [([], hyperparameters)]
        decays = [True] * count if mask is None else [bool(m) for m in _spread(mask, params_like)]
        axes: list[Any] = [()] * count
        if dimension_numbers is not None:
            axes = [_axes(x) for x in _spread(dimension_numbers, params_like, _is_axes)]
        alike: dict[Any, list[int]] = {}
        for i, kind in enumerate(zip(decays, axes, strict=True)):
            alike.setdefault(kind, []).append(i)
        return [
            (leaves, hyperparameters | dict(own) | ({} if decay else {"weight_decay": 0.0}))
            for (decay, own), leaves in alike.items()
        ]

    def init(params: Any) -> TransformState:
        leaves, treedef = jax.tree.flatten(params)
        if any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves):
            return jax.eval_shape(init, params)
        dtypes = [working_dtype(jnp.result_type(x)) for x in leaves]
        parts = []
        for indices, values in groups(params, treedef):
            own = [whole(leaves[i]) if algorithm.leafwise else leaves[i] for i in indices]
            work = [outside(x, dtypes[i]) for x, i in zip(own, indices, strict=True)]
            parts.append((indices, algorithm.start(Leaves(work, BACKEND), _in_double(values))))
        # Within one jit the first update must not be simplified for a state of known zeros.
        merged = merge(parts, algorithm.skeleton(hyperparameters), treedef, dtypes)
        state = TransformState(jnp.zeros((), jnp.int32), unknown(merged))
        return laid_out(state, leaves, treedef)

    def update(
        updates: Any, state: TransformState, params: Any = None, **extra: Any
    ) -> tuple[Any, TransformState]:
        grads, treedef = jax.tree.flatten(updates)
        if not isinstance(state, TransformState) or type(state.inner) is not algorithm.state_type:
            found = type(getattr(state, "inner", state)).__name__
            raise TypeError(
                f"state of type {found}: allowed for {algorithm.name} is "
                f"{algorithm.state_type.__name__}"
            )
        # Other keyword arguments belong to other transformations in the chain.
        given = {k: extra[k] for k in algorithm.inputs if extra.get(k) is not None}
        algorithm.check_inputs(given, f": call update(grads, state, params, {_shown(algorithm)})")
        trees = {k: _leaves_like(k, given.pop(k), treedef) for k in [*given] if INPUTS[k]}
        param_leaves = (
            [None] * len(grads) if params is None else _leaves_like("params", params, treedef)
        )
        dtypes = [_check("gradient", g, p) for g, p in zip(grads, param_leaves, strict=True)]
        for name, leaves in trees.items():
            for x, g in zip(leaves, grads if params is None else param_leaves, strict=True):
                _check(name, x, g)
        given = {k: jnp.asarray(x) for k, x in given.items()}
        count = jnp.asarray(state.count)
        now = hyperparameters | {name: at(f, count) for name, f in schedules.items()}
        skeleton = algorithm.skeleton(hyperparameters)
        columns = {"grad": grads} | ({} if params is None else {"params": param_leaves}) | trees
        like = grads if params is None else param_leaves
        targets = [_step_dtype(jnp.result_type(x), step_dtype) for x in like]
        parts: list[tuple[list[int], Any]] = []
        steps: list[Any] = [None] * len(grads)
        for indices, values in groups(updates if params is None else params, treedef, now):
            values = _in_double(values)
            whole = select(state.inner, skeleton, treedef, dtypes, indices, algorithm.name)

            def advance(part: list[int], own: Any, arrays: Any, values: Any = values) -> Any:
                """Return the new state and the steps of some leaves."""
                kinds = [dtypes[i] for i in part]
                found = {k: Leaves(map(outside, x, kinds), BACKEND) for k, x in arrays.items()}
                grad, theta = found.pop("grad"), found.pop("params", None)
                numbers = {k: BACKEND.spread(_number(k, x), grad) for k, x in given.items()}
                values = dict.fromkeys(algorithm.inputs) | values | numbers | found
                new, step = algorithm.update(own, grad, theta, **values)
                pairs = zip(step.values, part, strict=True)
                return new, [rounded(isolate(node.value), targets[i]) for node, i in pairs]

            for part, new, own in in_stacks(advance, indices, whole, columns, algorithm):
                parts.append((part, new))
                for i, step in zip(part, own, strict=True):
                    steps[i] = step
        new_state = TransformState(
            count=optax.safe_increment(count), inner=merge(parts, skeleton, treedef, dtypes)
        )
        return jax.tree.unflatten(treedef, steps), new_state

    def parts(params: Any) -> list[Part]:
        own = groups(params, jax.tree.structure(params))
        return [Part(leaves, algorithm, dialect, values, schedules) for leaves, values in own]

    if algorithm.leafwise:
        update = on_meshes(update, algorithm)
    init_of_trees, update = starting(init), stepping(update)
    update.takes_double = True  # type: ignore[attr-defined]  # of hyperparameters, see epoch
    update.parts = parts  # type: ignore[attr-defined]  # see travel
    return optax.GradientTransformationExtraArgs(init_of_trees, update)


def _spread(given: Any, params: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    """Return the entry for each leaf of a tree, or of the tree that a function returns."""
    tree = opened(given(params) if callable(given) else given)
    found: list[Any] = []
    jax.tree.map(
        lambda x, sub: found.extend([x] * len(jax.tree.leaves(sub))), tree, params, is_leaf=is_leaf
    )
    return found


def _is_axes(value: Any) -> bool:
    return value is None or hasattr(value, "output_axis")


def _axes(value: Any) -> tuple[tuple[str, Any], ...]:
    """Return the hyperparameters for the axes of rows and columns of a leaf."""
    if value is None:
        return (("output_axis", ()),)
    names = ("output_axis", "reduction_axis")
    found = ((name, getattr(value, name)) for name in names)
    return tuple((name, tuple(x) if isinstance(x, list) else x) for name, x in found)


def _in_double(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """Return hyperparameters with arrays (traced, injected) as numbers in double precision."""
    return {
        name: _number(name, v)
        if isinstance(v, jax.Array | np.ndarray)
        else v.item()  # of a schedule in NumPy
        if isinstance(v, np.generic)
        else v
        for name, v in hyperparameters.items()
    }


def _number(name: str, value: Any) -> Doubles:
    """Return an array of the caller as a number in double precision."""
    if jnp.shape(value) != ():
        raise ValueError(f"{name} of shape {jnp.shape(value)}: allowed are numbers and 0-d arrays")
    with jax.enable_x64(True):
        return Doubles(Node(isolate(jnp.asarray(value).astype(jnp.float64)), PLAIN), BACKEND)


def _step_dtype(own: Any, wanted: str | None) -> Any:
    return jnp.float32 if wanted == "float32" and jnp.finfo(own).bits < 32 else own


def _shown(algorithm: Algorithm) -> str:
    return ", ".join(f"{name}=…" for name in algorithm.inputs)


def _leaves_like(name: str, tree: Any, treedef: Any) -> list[Any]:
    try:
        return list(treedef.flatten_up_to(tree))
    except ValueError as error:
        raise ValueError(
            f"{name} and the gradients have different structures: {jax.tree.structure(tree)} "
            f"and {treedef}"
        ) from error


def _check(name: str, grad: Any, param: Any) -> Any:
    """Refuse a gradient, or an input like it, that does not fit its parameter.

    Returns:
        the working dtype.
    """
    own = jnp.result_type(grad)
    if param is None:
        try:
            return working_dtype(own)
        except TypeError as error:
            raise TypeError(f"{name} of {error}") from None
    dtype = working_dtype(jnp.result_type(param))
    if not jnp.issubdtype(own, jnp.floating) or jnp.finfo(own).bits > jnp.finfo(dtype).bits:
        raise TypeError(
            f"{name} of dtype {own} for a parameter of dtype {jnp.result_type(param)}: allowed "
            f"are real dtypes with values that {jnp.dtype(dtype)} can hold"
        )
    if jnp.shape(grad) != jnp.shape(param):
        raise ValueError(f"{name} of shape {jnp.shape(grad)}: allowed is {jnp.shape(param)}")
    return dtype
