"""Conversion of states: trees for the caller, ``Leaves`` of one group for the core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optstudy_core.arrays.leaves import Leaves, Scalars, fields_of, map_leaves

from ._backend import BACKEND, working_dtype
from ._rounding import OUTSIDE, Node, counts, leaving


class TransformState(NamedTuple):
    """State of a transformation.

    Attributes:
        count: the number of steps taken, int32; the argument of a learning-rate schedule.
        inner: the state of the algorithm, e.g. ``AdamState``. Its fields are trees like the
            parameters, in float32 (float64 for float64 parameters). A field with one scalar for
            each leaf (a step count) is a :class:`PerLeaf`.
    """

    count: Any
    inner: Any


class PerLeaf(NamedTuple):
    """One scalar for each leaf, in a vector in the order of ``jax.tree.leaves``.

    Compilers make one loop for a vector, instead of several for each leaf.

    Attributes:
        float32: vector of the scalars of leaves with the working dtype float32, or None.
        float64: vector of the scalars of leaves with the working dtype float64, or None.
        int32: for step counts, instead: vector of the scalars of all leaves.

    >>> import jax.numpy as jnp
    >>> from optstudy_jax import from_core
    >>> state = from_core("adam")().init({"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)})
    >>> state.inner.t.int32.shape
    (2,)
    """

    float32: Any
    float64: Any
    int32: Any = None

    def tree(self, params: Any) -> Any:
        """Return the scalars as a tree like the parameters.

        Args:
            params: the parameters of the state, or a tree with the same structure and dtypes.

        Returns:
            the tree, with leaves of shape ().
        """
        leaves, treedef = jax.tree.flatten(params)
        if self.int32 is not None:
            return jax.tree.unflatten(treedef, list(self.int32))
        dtypes = [working_dtype(jnp.result_type(x)) for x in leaves]
        places = enumerate(_places(dtypes))
        return jax.tree.unflatten(treedef, [self._of(dtypes[i])[k] for i, k in places])

    @classmethod
    def of(cls, tree: Any) -> PerLeaf:
        """Return the scalars of a tree in vectors.

        Args:
            tree: a tree of arrays of shape (), each in the working dtype of its leaf.
        """
        leaves = list(map(jnp.asarray, jax.tree.leaves(tree)))
        columns = [[x for x in leaves if x.dtype.name == name] for name in cls._fields]
        return cls(*(jnp.stack(column) if column else None for column in columns))

    def _of(self, dtype: Any) -> Any:
        return getattr(self, jnp.dtype(dtype).name)


def by_leaf(inner: Any, params: Any) -> Any:
    """Return the state of an algorithm with every :class:`PerLeaf` as a tree like the parameters.

    Args:
        inner: the field ``inner`` of a :class:`TransformState`.
        params: the parameters of the state, or a tree with the same structure and dtypes.

    >>> import jax.numpy as jnp
    >>> from optstudy_jax import from_core
    >>> params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
    >>> by_leaf(from_core("adam")().init(params).inner, params).t["w"].shape
    ()
    """
    return jax.tree.map(
        lambda x: x.tree(params) if isinstance(x, PerLeaf) else x,
        inner,
        is_leaf=lambda x: isinstance(x, PerLeaf),
    )


def side_by_side(trees: Any, like: Any) -> Any:
    """Undo :func:`by_leaf`: return a state with every :class:`PerLeaf` as vectors.

    Args:
        trees: the state of an algorithm, with every field a tree like the parameters.
        like: a state in the wanted form.

    Returns:
        the state, with arrays of the shapes in ``like``.

    >>> import jax.numpy as jnp
    >>> from optstudy_jax import from_core
    >>> params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
    >>> inner = from_core("adam")().init(params).inner
    >>> side_by_side(by_leaf(inner, params), inner).t.int32.shape
    (2,)
    """
    return jax.tree.map(
        lambda x, tree: PerLeaf.of(tree) if isinstance(x, PerLeaf) else tree,
        like,
        trees,
        is_leaf=lambda x: isinstance(x, PerLeaf),
    )


def _places(dtypes: Sequence[Any]) -> list[int]:
    """Return the place of each leaf among those of its dtype."""
    seen: dict[str, int] = {}
    places = []
    for dtype in dtypes:
        name = jnp.dtype(dtype).name
        places.append(seen.get(name, 0))
        seen[name] = places[-1] + 1
    return places


# The core gets a state of Leaves instead of trees.


def _is_scalar(template: Leaves) -> bool:
    """Return whether a field is one scalar for each leaf, from the field of a matrix."""
    (x,) = template.values
    return x is not None and np.shape(x) == ()


def _is_count(template: Leaves) -> bool:
    """Return whether a field is a step count."""
    return bool(template.values[0].dtype == np.int32)


def merge(
    parts: list[tuple[list[int], Any]], skeleton: Any, treedef: Any, dtypes: Sequence[Any]
) -> Any:
    """Return a state of trees from the states of groups of leaves."""
    groups = [fields_of(state) for _, state in parts]
    taken: set[int] = set()

    def own(x: Any) -> Any:
        # The same array in two fields could not be donated.
        if id(x) in taken:
            x = jnp.copy(x)
        taken.add(id(x))
        return x

    number = iter(range(len(groups[0])))

    def merged(template: Leaves) -> Any:
        k = next(number)
        fields = [(indices, group[k]) for (indices, _), group in zip(parts, groups, strict=True)]
        if _is_scalar(template):
            if _is_count(template):
                return PerLeaf(None, None, own(_steps(fields, len(dtypes))))
            return jax.tree.map(own, _vectors(fields, [jnp.dtype(d).name for d in dtypes]))
        column: list[Any] = [None] * treedef.num_leaves
        for indices, field in fields:
            for i, node in zip(indices, field.values, strict=True):
                column[i] = None if node is None else own(leaving(node))
        return jax.tree.unflatten(treedef, column)

    return map_leaves(merged, skeleton)


def _steps(fields: list[tuple[list[int], Leaves]], count: int) -> Any:
    """Return the step counts of all leaves as one vector."""
    return _side_by_side(fields, range(count)) if count else jnp.zeros((0,), jnp.int32)


def _vectors(fields: list[tuple[list[int], Leaves]], kinds: Sequence[str]) -> Any:
    """Return the :class:`PerLeaf` of the scalars of all leaves."""
    if not kinds:
        # optax.tree_map_params makes the state of a tree without leaves, and compares it with a
        # state with leaves: it needs the same structure, or a leaf instead of the vectors.
        nothing = jnp.zeros((0,), jnp.float32)
        return nothing if jnp.result_type(float) == jnp.float64 else PerLeaf(nothing, None)
    columns = [[i for i, k in enumerate(kinds) if k == name] for name in PerLeaf._fields]
    return PerLeaf(*(_side_by_side(fields, own) if own else None for own in columns))


def _side_by_side(fields: list[tuple[list[int], Leaves]], wanted: Sequence[int]) -> Any:
    """Return the scalars of some leaves of one dtype as one vector."""
    order, vectors = [], []
    chosen = {*wanted}
    for indices, field in fields:
        places = [k for k, i in enumerate(indices) if i in chosen]
        if places:
            whole = len(places) == len(indices)
            own = None if whole else BACKEND.stacked([field.values[k] for k in places])
            vectors.append(leaving(own or field.vector))
            order += [indices[k] for k in places]
    vector = vectors[0] if len(vectors) == 1 else jnp.concatenate(vectors)
    return vector if order == [*wanted] else vector[np.argsort(order)]


def select(
    state: Any,
    skeleton: Any,
    treedef: Any,
    dtypes: Sequence[Any],
    indices: list[int],
    algorithm: str,
) -> Any:
    """Return the state of some of the leaves."""
    places = _places(dtypes)

    def refuse(name: str, part: Any, allowed: Any) -> ValueError:
        found = part if part is None else jax.tree.structure(part)
        return ValueError(f"state of {algorithm} with {name} of structure {found}: {allowed}")

    def steps(part: Any, name: str) -> Leaves:
        found = part.int32 if isinstance(part, PerLeaf) else None
        if found is None or jnp.shape(found) != (len(dtypes),):
            raise refuse(name, part, f"allowed is a PerLeaf with int32 of shape {(len(dtypes),)}")
        whole = len(indices) == len(dtypes)
        return counts(found if whole else found[np.array(indices, int)], BACKEND)

    def scalars(part: Any, name: str) -> Leaves:
        counts = {k: sum(jnp.dtype(d).name == k for d in dtypes) for k in PerLeaf._fields}
        shapes = {k: (n,) if n else None for k, n in counts.items()}
        if not isinstance(part, PerLeaf) or any(
            (None if x is None else jnp.shape(x)) != shapes[k]
            for k, x in zip(PerLeaf._fields, part, strict=True)
        ):
            raise refuse(name, part, f"allowed is a PerLeaf of vectors of shapes {shapes}")
        if len(indices) == len(dtypes) > 1 and len(set(dtypes)) == 1:
            vector = jnp.asarray(part._of(dtypes[0]))
            return Scalars(Node(vector, OUTSIDE, scalars=True), len(dtypes), BACKEND)
        return Leaves(
            [Node(jnp.asarray(part._of(dtypes[i])[places[i]]), OUTSIDE) for i in indices], BACKEND
        )

    def walk(template: Any, part: Any, name: str) -> Any:
        if isinstance(template, Leaves):
            if not dtypes:
                return Leaves([], BACKEND)
            if _is_scalar(template):
                return (steps if _is_count(template) else scalars)(part, name)
            try:
                leaves = treedef.flatten_up_to(part)
            except ValueError as error:
                raise refuse(name, part, f"allowed is {treedef}") from error
            own = (leaves[i] for i in indices)
            nodes = (None if x is None else Node(jnp.asarray(x), OUTSIDE) for x in own)
            return Leaves(nodes, BACKEND)
        if template is None:
            if part is not None:
                raise ValueError(
                    f"state of {algorithm} with {name}: these hyperparameters need a state without "
                    f"{name}"
                )
            return None
        return type(template)(*map(walk, template, part, template._fields))

    return walk(skeleton, state, "state")
