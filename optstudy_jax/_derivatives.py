"""Derivatives of operations on bits: exact sums, sliced products, roots of matrices.

Operations on bits have no derivative, and a loop with a stopping test has none in reverse mode. So
an exact sum has the derivative of the plain sum, a sliced product that of the product, and a root
of a matrix that of its defining equation. Eigenvectors are refused, because they have no derivative
at equal eigenvalues. The derivative of √x at 0 is 0. All other operations of a formula have the
derivatives of JAX; that of a sign is 0.

Operations that are linear in the tangents use the dtypes of the arrays, so reverse mode does not
need float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optstudy_core.arrays.eigen import householder, jacobi
from optstudy_core.arrays.matrix import coupled_root, sliced_product

Rule = Callable[[Sequence[Any], Any, Sequence[Any]], Any]
"""A function of arrays, their result and their tangents: the tangent of the result."""


def with_derivative(function: Callable[..., Any], rule: Rule) -> Callable[..., Any]:
    """Return a function of arrays with the derivative of a rule."""
    known = jax.custom_jvp(function)

    @known.defjvp
    def _(arrays: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        result = known(*arrays)
        return result, rule(arrays, result, tangents)

    return known


def rule_of(function: Callable[..., Any]) -> Rule | None:
    """Return the rule of a function of matrices; ``None`` if its operations have derivatives."""
    own = function.func if isinstance(function, functools.partial) else function
    found = _RULES.get(own)
    if found is None:
        return None
    given = function.keywords if isinstance(function, functools.partial) else {}
    return functools.partial(found, **given)


def of_sum(plain: Callable[..., Any]) -> Rule:
    """Return the rule of a sum over columns of arrays.

    Args:
        plain: a function for the same sum of the same columns, with differentiable operations; it
            is called with float64 enabled.
    """

    def rule(columns: Sequence[Any], result: Any, tangents: Sequence[Any]) -> Any:
        with jax.enable_x64(True):
            found, pull = jax.vjp(plain, *columns)
            leaves, structure = jax.tree.flatten(found)
            made = []
            for i in range(len(leaves)):
                unit = [jnp.full_like(x, i == k) for k, x in enumerate(leaves)]
                slopes = pull(jax.tree.unflatten(structure, unit))
                made.append(_inner(slopes, tangents).astype(jnp.float64))
            return jax.tree.unflatten(structure, made)

    return rule


def of_root(arrays: Sequence[Any], result: Any, tangents: Sequence[Any]) -> Any:
    """Return the tangent of √x, and 0 where x is 0.

    √x has no derivative at 0, but formulas with √x do: a moment is 0 together with its gradient,
    and g / (|g| + ε) has the derivative 1 / ε at 0.
    """
    del arrays
    with jax.enable_x64(True):
        zero = result == 0
        slope = 0.5 / jnp.where(zero, jnp.ones_like(result), result)
        return jnp.where(zero, jnp.zeros_like(result), slope) * tangents[0]


def _inner(slopes: Any, tangents: Any) -> Any:
    """Return the inner product of two trees."""
    total: Any = 0.0
    pairs = zip(jax.tree.leaves(slopes), jax.tree.leaves(tangents), strict=True)
    for slope, tangent in pairs:
        if jnp.issubdtype(slope.dtype, jnp.floating):
            part = jnp.sum(slope * tangent)
            total = part if isinstance(total, float) else total + part.astype(total.dtype)
    return jnp.asarray(total)


def _product(arrays: Any, result: Any, tangents: Any, slices: int) -> Any:
    del result, slices
    if len(arrays) == 1:
        half = _times(tangents[0], arrays[0].T)
        return half + half.T
    return _times(tangents[0], arrays[1]) + _times(arrays[0], tangents[1])


def _root(arrays: Any, result: Any, tangents: Any, order: int) -> Any:
    """Return the tangent of A to the power −1/p.

    The root has the eigenvectors V and the eigenvalues r, and A has the eigenvalues r⁻ᵖ:

        V·(F ∘ (Vᵀ·dA·V))·Vᵀ,    Fᵢⱼ = −(rᵢ·rⱼ)ᵖ / Σₖ rᵢᵏ·rⱼᵖ⁻¹⁻ᵏ

    F has the divided differences, without cancellation.
    """
    del arrays
    with jax.enable_x64(True):
        r, v = jnp.linalg.eigh(result.astype(jnp.float64))
        a, b = r[:, None], r[None, :]
        below = sum(a**k * b ** (order - 1 - k) for k in range(order))
        factor, v = (x.astype(result.dtype) for x in (-((a * b) ** order) / below, v))
    return _times(v, _times(factor * _times(v.T, _times(tangents[0], v)), v.T))


def _refused(arrays: Any, result: Any, tangents: Any) -> Any:
    raise TypeError(
        "a derivative through eigenvectors, of which SOAP makes its step: there is none where two "
        "eigenvalues are equal"
    )


def _times(x: Any, y: Any) -> Any:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


_RULES: dict[Callable[..., Any], Any] = {
    sliced_product: _product,
    coupled_root: _root,
    jacobi: _refused,
    householder: _refused,
}
