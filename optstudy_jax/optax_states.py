"""States that travel: of optax's own optimizers, taken over and given back.

:func:`from_optax` makes the state of an optimizer here of one of optax's, :func:`to_optax` goes the
other way. What the fields are called in optax stands in each algorithm's file (``ELSEWHERE``; a
minus before a name: the sign is the other; a plus: a number of all leaves, of which ours are the
parts). A training goes on with the same mathematics, and other
roundings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optstudy_core import ALGORITHMS, Algorithm

from ._backend import working_dtype
from ._fields import nodes as _nodes
from .states import PerLeaf, TransformState

_PREFIX = "optax."
_SCHEDULE = "ScaleByScheduleState"


def from_optax(state: Any, params: Any, tx: optax.GradientTransformation) -> Any:
    """Return the state of an optimizer of ours that goes on where one of optax's is.

    Args:
        state: of the optimizer of optax, of the same algorithm with the same terms.
        params: tree of the parameters.
        tx: the optimizer of ``optstudy_jax`` that goes on; it may be within ``optax.chain``,
            ``masked``, ``inject_hyperparams`` and ``multi_transform``, as optax's was.

    Returns:
        a state of ``tx``. Where optax's state counts no steps, they are those of its schedule, or
        0.

    Raises:
        TypeError: if optax has no such state.
        ValueError: if the states do not fit each other.

    >>> from optstudy_jax import adamw
    >>> params = {"w": jnp.ones(2)}
    >>> theirs = optax.adamw(1e-3)
    >>> _, state = theirs.update(params, theirs.init(params), params)
    >>> from_optax(state, params, adamw(1e-3, dialect="optax")).inner.t.int32.tolist()
    [1]
    """
    nodes = list(_nodes(state))
    steps = next((x.count for x in nodes if type(x).__name__ == _SCHEDULE), None)

    def own(x: Any) -> Any:
        if not isinstance(x, TransformState):
            return None
        algorithm, names = _names_of(x.inner)
        found = _taken(nodes, algorithm, names)
        count = found.setdefault("t", 0 if steps is None else steps)
        fields = {k: v for k, v in x.inner._asdict().items() if v is not None}
        lacking = fields.keys() - found.keys()
        if lacking:
            raise ValueError(
                f"state of optax without {', '.join(sorted(lacking))} of {algorithm.name}: allowed "
                f"is one with {' and '.join(names)}"
            )
        parts = {k for own in names.values() for k, name in own.items() if name.startswith("+")}
        inner = {
            k: _like(v, found[k], f"{k} of {algorithm.name}", k in parts) for k, v in fields.items()
        }
        count = jnp.asarray(count if steps is None else steps, jnp.int32)
        return x._replace(count=count, inner=x.inner._replace(**inner))

    made = _rebuilt(tx.init(params), own, _injected(state))
    left = sorted({type(x).__name__ for x in nodes} & _known())
    if left:
        raise ValueError(f"state of optax has {', '.join(left)} besides, which tx has not")
    return made


def _taken(nodes: list[Any], algorithm: Algorithm, names: Any) -> dict[str, Any]:
    """Return the fields of one optimizer, and take the nodes that hold them off the list."""
    found: dict[str, Any] = {}
    used: set[str] = set()
    while nodes and type(nodes[0]).__name__ not in used:
        node = nodes.pop(0)
        kind = type(node).__name__
        if kind in names:
            used.add(kind)
            found |= {ours: _signed(name, node) for ours, name in names[kind].items()}
            for name in _counts(node):
                found.setdefault("t", getattr(node, name))
        elif kind in _known():
            raise ValueError(f"state of optax has {kind}, which {algorithm.name} has not")
    return found


def to_optax(state: Any, params: Any, tx: optax.GradientTransformation) -> Any:
    """Return the state of an optimizer of optax that goes on where one of ours is.

    Moments are rounded where optax's optimizer keeps them in a smaller dtype than ours.

    Args:
        state: of an optimizer of ``optstudy_jax``.
        params: tree of the parameters.
        tx: optax's optimizer of the same algorithm with the same terms; it may be within
            ``optax.chain``, ``masked``, ``inject_hyperparams`` and ``multi_transform``.

    Raises:
        TypeError: if optax has no such state.
        ValueError: if the states do not fit each other, or leaves have taken different numbers of
            steps: optax counts them once for all.

    >>> from optstudy_jax import adamw
    >>> params = {"w": jnp.ones(2)}
    >>> ours, theirs = adamw(1e-3), optax.adamw(1e-3)
    >>> _, state = ours.update(params, ours.init(params), params)
    >>> int(to_optax(state, params, theirs)[0].count)
    1
    """
    waiting = [(*_names_of(x.inner), x) for x in _nodes(state) if isinstance(x, TransformState)]
    used: dict[str, set[str]] = {}  # of the first that waits: kinds, and the fields that they took

    def theirs(node: Any) -> Any:
        kind = type(node).__name__
        if kind in used:
            _check_all_taken(*waiting.pop(0), used)
            used.clear()
        if waiting and kind == _SCHEDULE:
            return node._replace(count=waiting[0][2].count)
        if not waiting or kind not in waiting[0][1]:
            return None
        algorithm, names, x = waiting[0]
        used[kind] = {*names[kind]}
        fields = {}
        for field, name in names[kind].items():
            value = getattr(x.inner, field)
            if value is None:
                raise ValueError(f"state of {algorithm.name} without {field}, which optax's has")
            own = name.lstrip("+-")
            value = jax.tree.map(jnp.negative, value) if name.startswith("-") else value
            template = getattr(node, own)
            if isinstance(value, PerLeaf) and value.int32 is None and _is_number(template):
                value = _of_all(value, name.startswith("+"), f"{field} of {algorithm.name}")
            fields[own] = _of_optax(template, value, own, algorithm)
        counts = {name: x.count for name in _counts(node) if name not in fields}
        return node._replace(**fields, **counts)

    made = _rebuilt(tx.init(params), theirs, _injected(state))
    for algorithm, names, x in waiting:
        _check_all_taken(algorithm, names, x, used)
        used.clear()
    return made


def _check_all_taken(
    algorithm: Algorithm, names: Any, x: TransformState, used: dict[str, set[str]]
) -> None:
    there = {k for k, v in x.inner._asdict().items() if v is not None and k != "t"}
    lost = there.difference(*used.values())
    if lost:
        raise ValueError(
            f"state of {algorithm.name} has {', '.join(sorted(lost))}: allowed is a tx of "
            f"optax with {' and '.join(names)}"
        )


# What states are made of.


def _injected(state: Any) -> Iterator[Any]:
    """Yield the states of ``optax.inject_hyperparams``."""
    return (x for x in _nodes(state) if hasattr(x, "hyperparams"))


def _rebuilt(x: Any, change: Callable[[Any], Any], injected: Iterator[Any]) -> Any:
    """Return a state with its nodes changed.

    Args:
        x: of the transformation that goes on.
        change: returns what takes the place of a named tuple, or ``None``.
        injected: states of ``inject_hyperparams`` of the other library, in order.
    """

    def inside(part: Any) -> Any:
        return _rebuilt(part, change, injected)

    if hasattr(x, "_fields"):
        changed = change(x)
        if changed is not None:
            return changed
    if hasattr(x, "hyperparams"):
        other = next(injected, None)
        x = x._replace(inner_state=inside(x.inner_state))
        if other is None:
            return x
        same = {
            name: {k: getattr(other, name).get(k, v) for k, v in getattr(x, name).items()}
            for name in ("hyperparams", "hyperparams_states")
        }
        return x._replace(count=other.count, **same)
    if hasattr(x, "_fields"):
        return type(x)(*map(inside, x))
    if isinstance(x, tuple | list):
        return type(x)(map(inside, x))
    if isinstance(x, dict):  # in the order of _nodes
        return {k: inside(x[k]) for k in sorted(x, key=str)}
    return x


def _names_of(inner: Any) -> tuple[Algorithm, Mapping[str, Mapping[str, str]]]:
    """Return the algorithm of a state, and what optax calls its fields, by the kind of state."""
    name = type(inner).__module__.rpartition(".")[2]
    algorithm = ALGORITHMS.get(name)
    if algorithm is None or not isinstance(inner, algorithm.state_type):
        raise TypeError(f"state of {type(inner).__name__}: allowed are those of optstudy's own")
    names = {
        kind.removeprefix(_PREFIX): fields
        for kind, fields in algorithm.elsewhere.items()
        if kind.startswith(_PREFIX)
    }
    if not names:
        raise TypeError(f"no state of {name} in optax is known")
    return algorithm, names


def _signed(name: str, node: Any) -> Any:
    """Return a field of a state of optax, by its name in the table."""
    value = getattr(node, name.lstrip("+-"))
    return jax.tree.map(jnp.negative, value) if name.startswith("-") else value


def _counts(node: Any) -> list[str]:
    """Return the names of the fields of a state of optax that count steps."""
    return [k for k, v in node._asdict().items() if getattr(v, "dtype", None) == jnp.int32]


@functools.cache
def _known() -> frozenset[str]:
    """Return the kinds of optax's states that hold an algorithm's."""
    kinds = (kind for algorithm in ALGORITHMS.values() for kind in algorithm.elsewhere)
    return frozenset(k.removeprefix(_PREFIX) for k in kinds if k.startswith(_PREFIX))


# Fields.


def _like(template: Any, value: Any, what: str, parts: bool) -> Any:
    """Return a field of optax's state as one of ours; ``parts``: its leaves add up to optax's."""
    if not isinstance(template, PerLeaf):
        return _cast(template, value, what)
    if template.int32 is not None:
        return template._replace(int32=jnp.full_like(template.int32, value))
    if _is_number(value):  # of all leaves
        return _for_all(template, value, parts)
    made = PerLeaf.of(jax.tree.map(lambda x: x.astype(working_dtype(x.dtype)), value))
    return _cast(template, made, what)


def _for_all(template: PerLeaf, value: Any, parts: bool) -> PerLeaf:
    """Return one number as that of each leaf, or as the part of the first leaf."""
    rest = {}
    for name, x in template._asdict().items():
        if x is not None:
            rest[name] = jnp.zeros_like(x).at[0].set(value) if parts else jnp.full_like(x, value)
            value = jnp.zeros_like(value) if parts else value
    return template._replace(**rest)


def _is_number(template: Any) -> bool:
    return isinstance(template, jax.Array) and template.ndim == 0


def _of_all(value: PerLeaf, parts: bool, what: str) -> Any:
    """Return the one number of all leaves: the sum of the parts, or what is the same in each."""
    numbers = jnp.concatenate([jnp.asarray(x, float) for x in value if x is not None])
    if not parts and len({*numbers.tolist()}) > 1:
        raise ValueError(f"{what} differs between leaves: optax has one for all")
    return numbers.sum() if parts else numbers[0]


def _of_optax(template: Any, value: Any, name: str, algorithm: Algorithm) -> Any:
    """Return a field of our state as one of optax's."""
    if not isinstance(value, PerLeaf):
        return _cast(template, value, f"{name} of optax")
    if value.int32 is None:
        return _cast(template, value.tree(template), f"{name} of optax")
    counts = sorted({int(t) for t in np.asarray(value.int32)}) or [0]
    if len(counts) > 1:
        raise ValueError(
            f"leaves of {algorithm.name} have taken {', '.join(map(str, counts))} steps: optax "
            "counts them once for all"
        )
    return jnp.asarray(counts[0], template.dtype)


def _cast(template: Any, value: Any, what: str) -> Any:
    """Return a tree with the dtypes of another of the same structure and shapes."""

    def one(like: Any, x: Any) -> Any:
        if jnp.shape(like) != jnp.shape(x):
            raise ValueError(f"{what} of shape {jnp.shape(x)}: allowed is {jnp.shape(like)}")
        return jnp.asarray(x, like.dtype)

    allowed, found = map(jax.tree.structure, (template, value))
    if str(allowed) != str(found):
        raise ValueError(f"{what} of structure {found}: allowed is {allowed}")
    return jax.tree.map(one, template, value)
