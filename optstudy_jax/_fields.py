"""The states of optimizers by parameter: read from a tree, and written into a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optstudy_core import ALGORITHMS, Algorithm
from optstudy_core.arrays.leaves import Leaves

from ._paths import leaf_name
from .states import PerLeaf, TransformState

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


class Own(NamedTuple):
    """An optimizer of optstudy_jax inside a state.

    Attributes:
        algorithm: its algorithm.
        names: the names of its parameters, in the order of the tree.
        in_torch_layout: for each parameter, whether arrays have the order of axes of PyTorch.
    """

    algorithm: Algorithm
    names: list[str]
    in_torch_layout: dict[str, bool]


def nodes(state: Any) -> Iterator[Any]:
    """Yield the named tuples of a state, but not those inside a ``TransformState``."""
    if hasattr(state, "_fields"):
        yield state
    if isinstance(state, TransformState):
        return
    if isinstance(state, Mapping):
        parts: Any = [state[k] for k in sorted(state, key=str)]
    else:
        parts = state if isinstance(state, tuple | list) else ()
    for part in parts:
        yield from nodes(part)


def owns(
    tx: optax.GradientTransformation,
    params: Any,
    torch_shapes: Callable[[str, tuple[int, ...]], tuple[int, ...]],
    algorithms: Mapping[type, Algorithm],
) -> list[Own]:
    """Return the optimizers of optstudy_jax in a transformation, in the order of :func:`nodes`.

    The function makes a state for parameters with different lengths of all axes. The lengths show
    the order of the axes of arrays in the state, and the parameters of each optimizer.

    Args:
        tx: the transformation.
        params: the parameters.
        torch_shapes: a function of the name of a parameter and its shape in Flax, which returns the
            shape in PyTorch.
        algorithms: further algorithms by the type of their state.

    Raises:
        ValueError: if there is no optimizer of optstudy_jax, or if an order of axes is neither that
            of Flax nor that of PyTorch.
    """

    def probe(x: Any) -> Any:
        return jax.ShapeDtypeStruct(_PRIMES[: np.ndim(x)], jnp.result_type(x))

    asked = jax.tree.map(probe, params)
    shapes = {leaf_name(path): x.shape for path, x in jax.tree.leaves_with_path(asked)}
    state = jax.eval_shape(tx.init, asked)
    found = []
    for x in nodes(state):
        if not isinstance(x, TransformState):
            continue
        algorithm = _algorithm(x.inner, algorithms)
        seen: dict[str, bool] = {}
        scalars = 0
        for field, value in fields(x.inner, algorithm):
            if isinstance(value, PerLeaf):
                scalars = sum(0 if v is None else v.shape[0] for v in value)
                continue
            for name, leaf in named(value):
                flax, in_torch = shapes[name], torch_shapes(name, shapes[name])
                turned = leaf.shape == in_torch != flax
                if not algorithm.leafwise and leaf.shape not in (flax, in_torch):
                    raise ValueError(
                        f"{field} of {name} has axes in an order given to in_torch_layout; allowed "
                        "is the order of PyTorch"
                    )
                seen[name] = seen.get(name, False) or turned
        if not seen and scalars == len(shapes):
            seen = dict.fromkeys(shapes, False)
        if len(seen) < scalars:
            raise ValueError(f"the state of {algorithm.name} does not show its parameters")
        found.append(Own(algorithm, [name for name in shapes if name in seen], seen))
    if not found:
        raise ValueError(
            "optimizer without a state of optstudy_jax: convert the state with from_optax"
        )
    return found


def _algorithm(inner: Any, algorithms: Mapping[type, Algorithm]) -> Algorithm:
    kind = type(inner)
    found = algorithms.get(kind) or ALGORITHMS.get(kind.__module__.rpartition(".")[2])
    if found is None or found.state_type is not kind:
        raise ValueError(
            f"state of {kind.__name__}: expected is a state of an algorithm in ALGORITHMS"
        )
    return found


def fields(inner: Any, algorithm: Algorithm) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a state; a field of an inner state is named ``average.z``."""

    def walk(skeleton: Any, part: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, own, x in zip(part._fields, skeleton, part, strict=True):
            if own is not None and not isinstance(own, Leaves):
                yield from walk(own, x, f"{prefix}{name}.")
            elif x is not None:
                yield prefix + name, x

    return walk(algorithm.skeleton(algorithm.defaults()), inner, "")


def replaced(inner: Any, algorithm: Algorithm, new: Mapping[str, Any]) -> Any:
    """Return a state with other fields, by the names of :func:`fields`."""

    def walk(skeleton: Any, part: Any, prefix: str) -> Any:
        made = {}
        for name, own, x in zip(part._fields, skeleton, part, strict=True):
            if own is not None and not isinstance(own, Leaves):
                made[name] = walk(own, x, f"{prefix}{name}.")
            else:
                made[name] = new.get(prefix + name, x)
        return part._replace(**made)

    return walk(algorithm.skeleton(algorithm.defaults()), inner, "")


def named(tree: Any) -> list[tuple[str, Any]]:
    """Return the leaves of a tree like the parameters by name."""
    return [(leaf_name(path), x) for path, x in jax.tree.leaves_with_path(tree)]


def taken(x: TransformState, own: Own, like: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the state of each parameter.

    Args:
        x: the state.
        own: the optimizer of the state.
        like: the parameters by name.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in own.names}
    for field, value in fields(x.inner, own.algorithm):
        if isinstance(value, PerLeaf):
            scalars = value.tree([like[name] for name in own.names])
            entries = list(zip(own.names, scalars, strict=True))
        else:
            entries = named(value)
        for name, leaf in entries:
            found[name][field] = leaf
    return found


def filled(
    x: TransformState,
    own: Own,
    like: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Any]],
    steps: int | None,
) -> TransformState:
    """Return a state with the fields of parameters; parameters without a state do not change.

    Args:
        x: the state at the start.
        own: the optimizer of the state.
        like: the parameters by name.
        states: states of parameters by name, with arrays as in the tree.
        steps: the number of steps taken; ``None`` if it is not known.

    Raises:
        ValueError: if a state has other fields, or a field of another shape or dtype.
    """
    before = taken(x, own, like)
    for name in own.names:
        state = states.get(name)
        if state is None:
            continue
        if state.keys() != before[name].keys():
            raise ValueError(
                f"state of {name} has {', '.join(state) or 'nothing'}; expected for "
                f"{own.algorithm.name} are {', '.join(before[name])}"
            )
        for field, value in state.items():
            wanted = before[name][field]
            if (value.shape, value.dtype) != (wanted.shape, wanted.dtype):
                raise ValueError(
                    f"{field} of {name}: {value.dtype} of shape {value.shape}; expected is "
                    f"{wanted.dtype} of shape {wanted.shape}"
                )
    after = {name: before[name] | dict(states.get(name) or {}) for name in own.names}
    new = {}
    for field, value in fields(x.inner, own.algorithm):
        if isinstance(value, PerLeaf):
            new[field] = PerLeaf.of([after[name][field] for name in own.names])
        else:
            new[field] = jax.tree.map_with_path(
                lambda path, _, field=field: jnp.asarray(after[leaf_name(path)][field]), value
            )
    count = x.count if steps is None else jnp.asarray(steps, jnp.int32)
    return TransformState(count, replaced(x.inner, own.algorithm, new))


def rebuilt(state: Any, change: Callable[[Any], Any]) -> Any:
    """Return a state with its named tuples changed, in the order of :func:`nodes`.

    Args:
        state: the state of a transformation.
        change: a function that returns the new named tuple.
    """
    if isinstance(state, TransformState):
        return change(state)
    if hasattr(state, "_fields"):
        state = change(state)
        return type(state)(*(rebuilt(x, change) for x in state))
    if isinstance(state, Mapping):
        new = {k: rebuilt(state[k], change) for k in sorted(state, key=str)}
        return {k: new[k] for k in state}
    if isinstance(state, tuple | list):
        return type(state)(rebuilt(x, change) for x in state)
    return state
