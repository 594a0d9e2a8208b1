"""The backend of the core in JAX: operations, exact sums, loops and branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp

from optstudy_core.arrays.leaves import Leaves, Reduction, Step, Trees

from ._derivatives import rule_of, with_derivative
from ._maxima import is_maximum, over_devices
from ._mesh import is_traced, whole, whole_along
from ._parts import are_on_a_mesh
from ._rounding import OUTSIDE, PLAIN, Node, Operations, leaving
from ._sums import each_on_device, on_device


class JAX(Operations):
    """All operations that a rule needs."""

    def scalar_of(self, function: Reduction, vectors: Sequence[Sequence[Node]]) -> Any:
        return on_device(function, True, [[leaving(x) for x in vector] for vector in vectors])

    def scalars_of(self, function: Reduction, rows: Sequence[tuple[Node, ...]]) -> list[Any]:
        return each_on_device(function, [[[leaving(x)] for x in row] for row in rows])

    def rearranged(self, function: Callable[..., Any], *leaves: Node) -> Node:
        arrays = [leaving(x) for x in leaves]
        if is_maximum(function) and is_traced(arrays[0]) and are_on_a_mesh(arrays):
            return Node(over_devices(function, arrays[0]), PLAIN)
        result = function(*arrays)
        # All devices have the vector of rows and columns, so each can cut it.
        return Node(whole(result) if arrays[0].ndim == 1 else result, PLAIN)

    def in_double(
        self, function: Callable[..., Leaves], *trees: Leaves, axis: int | None = None
    ) -> Leaves:
        if axis is not None:  # the order of the terms is fixed, so one device needs all of them
            trees = tuple(
                Leaves([x._replace(value=whole_along(x.value, axis)) for x in tree.values], self)
                for tree in trees
            )
        return super().in_double(function, *trees, axis=axis)

    def doubled(self, function: Callable[..., Leaves], *leaves: Node) -> Node:
        dtype = leaves[0].dtype  # JAX keeps `compute`, which must not hold a traced array

        def compute(*arrays: Any) -> Any:
            with jax.enable_x64(True):
                wide = [Leaves([Node(x.astype(jnp.float64), PLAIN)], self) for x in arrays]
                return leaving(function(*wide).values[0]).astype(dtype)

        rule = rule_of(function)
        known = compute if rule is None else with_derivative(compute, rule)
        return Node(known(*map(leaving, leaves)), PLAIN)

    def when(self, condition: Leaves, function: Step, trees: Trees, otherwise: Trees) -> Trees:
        def yes(values: Any) -> Any:
            return self._left(function(*self._entered(values)))

        def no(values: Any) -> Any:
            return self._left(otherwise)

        (truth,) = condition.values
        return self._entered(jax.lax.cond(truth.value, yes, no, self._left(trees)))

    def repeat(
        self, function: Step, go_on: Callable[..., Leaves], trees: Trees, most: int
    ) -> Trees:
        def body(carry: Any) -> Any:
            count, values = carry
            return count + 1, self._left(function(*self._entered(values)))

        def condition(carry: Any) -> Any:
            count, values = carry
            (truth,) = go_on(*self._entered(values)).values
            return jnp.logical_and(count < most, truth.value)

        start = jnp.zeros((), jnp.int32), self._left(trees)
        return self._entered(jax.lax.while_loop(condition, body, start)[1])

    def _left(self, trees: Trees) -> tuple[Any, ...]:
        return tuple(leaving(tree.values[0]) for tree in trees)

    def _entered(self, values: Any) -> Trees:
        return tuple(Leaves([Node(x, OUTSIDE)], self) for x in values)


BACKEND: Final = JAX()


def working_dtype(dtype: Any) -> Any:
    """Return the working dtype of a parameter, for its step and state.

    Raises:
        TypeError: if the dtype has no working dtype.
    """
    if dtype == jnp.float64:
        return jnp.float64
    if dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        return jnp.float32
    raise TypeError(
        f"dtype {dtype}: allowed are float32, float64, bfloat16 and float16; optax.masked leaves "
        "other leaves out"
    )
