"""Conversion of states from and to the optimizers of optax.

:func:`from_optax` converts a state of optax to a state of optstudy, and :func:`to_optax` does the
reverse. The file of each algorithm lists the names of the fields in optax (``ELSEWHERE``). In that
list, a minus before a name stands for the opposite sign. A plus stands for one number for all
leaves, the sum of the numbers of the leaves in optstudy. ``~`` stands for missing axes of length 1.
``[]`` after a name stands for a list for each leaf, and ``-1`` for a count that starts at 1. The
training continues with the same formulas, but other roundings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optstudy_core import ALGORITHMS, Algorithm

from ._backend import working_dtype
from ._fields import fields, nodes, rebuilt, replaced
from .functions import from_core
from .states import PerLeaf, TransformState

Names = Mapping[str, Mapping[str, str]]

_PREFIX = "optax."
_SCHEDULE = "ScaleByScheduleState"
_BEGUN = "begun"


def from_optax(state: Any, params: Any, tx: optax.GradientTransformation) -> Any:
    """Return a state of an optimizer of ``optstudy_jax`` from a state of optax.

    Args:
        state: the state of the optimizer of optax, with the same algorithm and the same terms.
        params: tree of the parameters.
        tx: the optimizer of ``optstudy_jax`` that continues. It may be inside ``optax.chain``,
            ``masked``, ``inject_hyperparams`` and ``multi_transform``, like that of optax.

    Returns:
        a state of ``tx``. If the state of optax counts no steps, the count is that of its schedule,
        or 0.

    Raises:
        TypeError: if optax has no state for the algorithm.
        ValueError: if the states do not match.

    >>> from optstudy_jax import adamw
    >>> params = {"w": jnp.ones(2)}
    >>> theirs = optax.adamw(1e-3)
    >>> _, state = theirs.update(params, theirs.init(params), params)
    >>> from_optax(state, params, adamw(1e-3, dialect="optax")).inner.t.int32.tolist()
    [1]
    """
    waiting = list(nodes(state))
    injected = _injected(waiting)
    steps = next((x.count for x in waiting if type(x).__name__ == _SCHEDULE), None)

    def own(x: Any) -> Any:
        if not isinstance(x, TransformState):
            return _as_injected(x, injected)
        algorithm, names = _names_of(x.inner)
        there = dict(fields(x.inner, algorithm))
        found = _taken(waiting, algorithm, names, there)
        derived = {k for name, k in _DERIVED if name == algorithm.name}
        lacking = {k for k in there if not _is_count(k)} - found.keys() - derived
        if lacking:
            raise ValueError(
                f"state of optax without {', '.join(sorted(lacking))} of {algorithm.name}: allowed "
                f"is a state with {' and '.join(names)}"
            )
        flag = found.pop(_BEGUN, 0)  # without a count, it is only known whether there were steps
        count = next(
            (v for k, v in found.items() if _is_count(k)), flag if steps is None else steps
        )
        parts = {k for own in names.values() for k, name in own.items() if name.startswith("+")}
        inner = {
            k: _like(v, found.get(k, count), f"{k} of {algorithm.name}", k in parts)
            for k, v in there.items()
            if k not in derived
        }
        inner |= {k: _DERIVED[algorithm.name, k](inner) for k in derived & there.keys()}
        count = jnp.asarray(count if steps is None else steps, jnp.int32)
        return TransformState(count, replaced(x.inner, algorithm, inner))

    made = rebuilt(tx.init(params), own)
    left = sorted({type(x).__name__ for x in waiting} & _known())
    if left:
        raise ValueError(f"state of optax also has {', '.join(left)}, which tx does not have")
    return made


def _taken(
    waiting: list[Any], algorithm: Algorithm, names: Names, there: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of one optimizer, and remove the nodes with them from the list."""
    found: dict[str, Any] = {}
    used: set[str] = set()
    while names and waiting:
        kind = type(waiting[0]).__name__
        is_own = kind in names and not names[kind].keys().isdisjoint(there)
        if kind in used or (used and kind in _known() and not is_own):
            break  # of the next optimizer
        if kind in _known() and not is_own:
            raise ValueError(f"state of optax has {kind}, which {algorithm.name} does not have")
        node = waiting.pop(0)
        if is_own:
            used.add(kind)
            found |= {ours: _named(node, name) for ours, name in names[kind].items()}
            for name in _counts(node, names[kind]):
                value = getattr(node, name)
                if value.dtype == bool:
                    found[_BEGUN] = 1 - value.astype(jnp.int32)
                else:
                    found.setdefault("t", value)
    return found


def to_optax(state: Any, params: Any, tx: optax.GradientTransformation) -> Any:
    """Return a state of an optimizer of optax from a state of ``optstudy_jax``.

    Moments are rounded if the optimizer of optax keeps them in a smaller dtype.

    Args:
        state: the state of an optimizer of ``optstudy_jax``.
        params: tree of the parameters.
        tx: the optimizer of optax, with the same algorithm and the same terms. It may be inside
            ``optax.chain``, ``masked``, ``inject_hyperparams`` and ``multi_transform``.

    Raises:
        TypeError: if optax has no state for the algorithm.
        ValueError: if the states do not match, or if leaves have taken different numbers of steps
            (optax has one count for all leaves).

    >>> from optstudy_jax import adamw
    >>> params = {"w": jnp.ones(2)}
    >>> ours, theirs = adamw(1e-3), optax.adamw(1e-3)
    >>> _, state = ours.update(params, ours.init(params), params)
    >>> int(to_optax(state, params, theirs)[0].count)
    1
    """
    held = [x for x in nodes(state) if isinstance(x, TransformState)]
    waiting = [_Waiting(x, *_names_of(x.inner)) for x in held]
    injected = _injected(list(nodes(state)))
    used: dict[str, set[str]] = {}  # of the first that waits: kinds, and the fields that they took

    def theirs(node: Any) -> Any:
        node, kind = _as_injected(node, injected), type(node).__name__
        if kind in used or (used and len(waiting) > 1 and waiting[1].has(kind, waiting[0])):
            _check_all_taken(waiting.pop(0), used)
            used.clear()
        if waiting and kind == _SCHEDULE:
            return node._replace(count=waiting[0].state.count)
        if not waiting or kind not in waiting[0].names:
            return node
        used[kind] = {*waiting[0].names[kind]}
        return _filled(node, *waiting[0])

    made = rebuilt(tx.init(params), theirs)
    for one in waiting:
        _check_all_taken(one, used)
        used.clear()
    return made


class _Waiting(NamedTuple):
    """A state of optstudy to convert to a state of optax.

    Attributes:
        state: the state of optstudy.
        algorithm: its algorithm.
        names: the names of its fields in optax, by the kind of state.
    """

    state: TransformState
    algorithm: Algorithm
    names: Names

    def has(self, kind: str, before: _Waiting) -> bool:
        """Return whether a state of optax belongs to this state, and not to the one before."""
        there = {k for k, _ in fields(before.state.inner, before.algorithm)}
        own = before.names.get(kind, {})
        return kind in self.names and there.isdisjoint(own)


def _filled(node: Any, x: TransformState, algorithm: Algorithm, names: Names) -> Any:
    """Return a state of optax with the fields of a state of optstudy."""
    there = dict(fields(x.inner, algorithm))
    found = {}
    for field, name in names[type(node).__name__].items():
        if field not in there:
            raise ValueError(f"state of {algorithm.name} without {field}, which optax has")
        value, own, what = there[field], _bare(name), f"{field} of {algorithm.name}"
        template = getattr(node, own)
        if isinstance(value, PerLeaf) and value.int32 is not None:
            value = _count_of_all(value, algorithm)
        elif isinstance(value, PerLeaf) and _is_number(template):
            value = _of_all(value, name.startswith("+"), what)
        elif isinstance(value, PerLeaf):
            value = value.tree(template)
        new = _cast(template, _renamed(value, name, template), f"{own} of optax")
        if int(x.count) or any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(value)):
            found[own] = new
        # A state without steps keeps the initial values of optax, which may differ from 0.
    counts = {
        k: jnp.asarray(x.count == 0 if getattr(node, k).dtype == bool else x.count)
        for k in _counts(node, names[type(node).__name__])
    }
    return node._replace(**found, **counts)


def _check_all_taken(one: _Waiting, used: dict[str, set[str]]) -> None:
    name = one.algorithm.name
    there = {k for k, _ in fields(one.state.inner, one.algorithm) if not _is_count(k)}
    lost = there.difference(*used.values(), {k for owner, k in _DERIVED if owner == name})
    if lost:
        raise ValueError(
            f"state of {name} has {', '.join(sorted(lost))}: allowed is a tx of optax with "
            f"{' and '.join(one.names)}"
        )


# Parts of states.


def _injected(found: list[Any]) -> Iterator[Any]:
    """Return the states of ``optax.inject_hyperparams`` among nodes."""
    return iter([x for x in found if hasattr(x, "hyperparams")])


def _as_injected(x: Any, injected: Iterator[Any]) -> Any:
    """Return a state of ``inject_hyperparams`` with the values of the next; others unchanged."""
    other = next(injected, None) if hasattr(x, "hyperparams") else None
    if other is None:
        return x
    same = {
        name: {k: getattr(other, name).get(k, v) for k, v in getattr(x, name).items()}
        for name in ("hyperparams", "hyperparams_states")
    }
    return x._replace(count=other.count, **same)


def _names_of(inner: Any) -> tuple[Algorithm, Names]:
    """Return the algorithm of a state, and the names of its fields in optax by kind of state."""
    name = type(inner).__module__.rpartition(".")[2]
    algorithm = ALGORITHMS.get(name)
    if algorithm is None or not isinstance(inner, algorithm.state_type):
        raise TypeError(f"{type(inner).__name__} cannot be converted: optax has no such state")
    names = {
        kind.removeprefix(_PREFIX): fields
        for kind, fields in algorithm.elsewhere.items()
        if kind.startswith(_PREFIX)
    }
    if not names and dict(fields(inner, algorithm)):
        raise TypeError(f"the state of {name} cannot be converted: optax has no such state")
    return algorithm, names


def _is_count(field: str) -> bool:
    return field.rpartition(".")[2] == "t"


def _counts(node: Any, names: Mapping[str, str]) -> list[str]:
    """Return the fields of a state of optax that count steps, or say whether there were any."""
    named = {_bare(name) for name in names.values()}
    return [
        k
        for k, v in node._asdict().items()
        if k not in named and getattr(v, "dtype", None) in (jnp.int32, bool)
    ]


@functools.cache
def _known() -> frozenset[str]:
    """Return the kinds of states of optax that hold the state of an algorithm."""
    kinds = (kind for algorithm in ALGORITHMS.values() for kind in algorithm.elsewhere)
    return frozenset(k.removeprefix(_PREFIX) for k in kinds if k.startswith(_PREFIX))


# Fields.

_DERIVED: Mapping[tuple[str, str], Callable[[Mapping[str, Any]], Any]] = {
    ("dog", "norm0"): lambda made: from_core("dog")().init(made["x0"]).inner.norm0,
    ("rprop", "sign"): lambda made: jax.tree.map(lambda x: -jnp.sign(x), made["last"]),
}
"""Fields that follow from other fields."""


def _bare(name: str) -> str:
    """Return the name of a field of optax without the marks of the table."""
    return name.lstrip("+-~").removesuffix("-1").removesuffix("[]")


def _named(node: Any, name: str) -> Any:
    """Return a field of a state of optax, by its name in the table, in the form of optstudy."""
    value = getattr(node, _bare(name))
    if name.startswith("-"):
        return jax.tree.map(jnp.negative, value)
    if name.endswith("-1"):
        return value - 1
    if name.endswith("[]"):
        lists = {"is_leaf": lambda x: isinstance(x, list)}
        return jax.tree.map(lambda x: jnp.concatenate(x) if x else jnp.zeros(()), value, **lists)
    return _Squeezed(value) if name.startswith("~") else value


def _renamed(value: Any, name: str, template: Any) -> Any:
    """Return a field of optstudy in the form of the field of optax with this name in the table."""
    if name.startswith("-"):
        return jax.tree.map(jnp.negative, value)
    if name.endswith("-1"):
        return value + 1
    if name.endswith("[]"):
        return jax.tree.map(_cut, value, template)
    return _squeezed(template, value) if name.startswith("~") else value


def _cut(x: Any, parts: list[Any]) -> list[Any]:
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return jnp.split(x, ends) if parts else []


class _Squeezed(NamedTuple):
    """A tree of leaves without axes of length 1; a leaf that optstudy lacks has one element."""

    tree: Any


def _squeezed(template: Any, value: Any) -> Any:
    """Return a tree with the axes of length 1 of another tree."""
    found = dict(jax.tree.leaves_with_path(value))

    def one(path: Any, like: Any) -> Any:
        x = found.get(path, like if like.shape == (1,) else None)
        if x is None or [n for n in x.shape if n != 1] != [n for n in like.shape if n != 1]:
            return x
        return x.reshape(like.shape)

    return jax.tree.map_with_path(one, template)


def _like(template: Any, value: Any, what: str, parts: bool) -> Any:
    """Return a field of optax in the form of optstudy; ``parts``: the leaves add up to it."""
    if isinstance(value, _Squeezed):
        value = _squeezed(template, value.tree)
    if not isinstance(template, PerLeaf):
        return _cast(template, value, what)
    if template.int32 is not None:
        return template._replace(int32=jnp.full_like(template.int32, value))
    if _is_number(value):  # of all leaves
        return _for_all(template, value, parts)
    made = PerLeaf.of(jax.tree.map(lambda x: x.astype(working_dtype(x.dtype)), value))
    return _cast(template, made, what)


def _for_all(template: PerLeaf, value: Any, parts: bool) -> PerLeaf:
    """Return one number as the number of each leaf, or as the part of the first leaf."""
    rest = {}
    for name, x in template._asdict().items():
        if x is not None:
            rest[name] = jnp.zeros_like(x).at[0].set(value) if parts else jnp.full_like(x, value)
            value = jnp.zeros_like(value) if parts else value
    return template._replace(**rest)


def _is_number(template: Any) -> bool:
    return isinstance(template, jax.Array) and template.ndim == 0


def _of_all(value: PerLeaf, parts: bool, what: str) -> Any:
    """Return one number for all leaves: the sum of the parts, or the number of each leaf."""
    numbers = jnp.concatenate([jnp.asarray(x, float) for x in value if x is not None])
    if not parts and len({*numbers.tolist()}) > 1:
        raise ValueError(f"{what} differs between leaves: optax has one number for all leaves")
    return numbers.sum() if parts else numbers[0]


def _count_of_all(value: PerLeaf, algorithm: Algorithm) -> Any:
    """Return the number of steps that all leaves have taken."""
    counts = sorted({int(t) for t in np.asarray(value.int32)}) or [0]
    if len(counts) > 1:
        raise ValueError(
            f"leaves of {algorithm.name} have taken {', '.join(map(str, counts))} steps: optax has "
            "one count for all leaves"
        )
    return jnp.asarray(counts[0])


def _cast(template: Any, value: Any, what: str) -> Any:
    """Return a tree with the dtypes of another tree of the same leaves and shapes."""
    found = dict(jax.tree.leaves_with_path(value))

    def one(path: Any, like: Any) -> Any:
        x = found.pop(path, None)
        if x is None:
            raise wrong()
        if jnp.shape(like) != jnp.shape(x):
            raise ValueError(f"{what} of shape {jnp.shape(x)}: allowed is {jnp.shape(like)}")
        return jnp.asarray(x, like.dtype)

    def wrong() -> ValueError:
        allowed, own = map(jax.tree.structure, (template, value))
        return ValueError(f"{what} of structure {own}: allowed is {allowed}")

    made = jax.tree.map_with_path(one, template)
    if found:
        raise wrong()
    return made
