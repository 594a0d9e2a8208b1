"""Shampoo: gradients of matrices, preconditioned from the left and from the right.

    L ← L + Gₜ·Gₜᵀ,  R ← R + Gₜᵀ·Gₜ    (εI at the start)
    Uₜ = L^(−1/4)·Gₜ·R^(−1/4)
    Mₜ = μ·Mₜ₋₁ + Uₜ
    θₜ = θₜ₋₁ − lr·Mₜ

with the L2 penalty of ``weight_decay`` in Gₜ. A vector has only L, with the power −1/2. A tensor of
more axes is a matrix with the output axis as rows, or several matrices (``output_axis``,
``reduction_axis``, ``split``: see :mod:`optstudy_core.arrays.blocks`). An axis longer than 1024
uses only the diagonal of its matrix. The roots are computed at the first step and then every
``update_interval`` steps.

Rounding errors in L exceed the small eigenvalues: in float32 eigenvalues below 1e-7 of the largest
may become negative. So the root is taken of L + ridge·‖L‖·I (Frobenius norm), as in Anil et al.;
the paper has no such term.

Products and roots are those of :mod:`optstudy_core.matrix`, bitwise identical in every library.
They cost far more than an elementwise rule: in practice, compute the roots every ten steps or more.
On a GPU the iteration for the roots waits for the device.

Source: Gupta, Koren and Singer 2018, Algorithms 1 and 2 (`gupta2018shampoo`); Anil, Gupta, Koren,
Regan and Singer 2020 (`anil2020scalable`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from optstudy_core.arrays import blocks, doubles
from optstudy_core.arrays.axes import axis_sum, flattened, parts, reshaped
from optstudy_core.arrays.blocks import matrixwise
from optstudy_core.arrays.leafwise import leafwise
from optstudy_core.arrays.matrix import gram, identity, inverse_root, matmul, transposed, when
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.arrays.reductions import leaf_norm
from optstudy_core.parts.terms import objective_gradient

BIBTEX = ("gupta2018shampoo", "anil2020scalable")

LONGEST = 1024
"""The longest axis with a full matrix."""

DIALECTS: dict[str, dict[str, Any]] = {"scalable": {}, "paper": {"ridge": 0.0}}


class ShampooState(NamedTuple):
    """The state of Shampoo.

    Attributes:
        m: momentum Mₜ, like the parameters; 0 at the start; ``None`` without momentum.
        sums: L and R, or their diagonals, concatenated to a vector; εI at the start.
        roots: inverse roots of L and R, in the same order; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array | None
    sums: Array
    roots: Array
    t: Array


def check(hyperparameters: dict[str, Any], dialect: str | None = None) -> None:
    """Refuse impossible axes."""
    blocks.check(hyperparameters)


def preconditioners(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the shapes of L and (not for a vector) of R: (n, n), or (n, 1) for a diagonal.

    >>> preconditioners((3, 5000))
    [(3, 3), (5000, 1)]
    """
    lengths = rows_and_columns(shape)[: 1 if len(shape) < 2 else 2]
    return [(n, n if n <= LONGEST else 1) for n in lengths]


def _length(shape: tuple[int, ...]) -> int:
    return sum(map(math.prod, preconditioners(shape)))


@leafwise
@matrixwise(length=_length)
def init(
    params: Array,
    *,
    eps: Any = 1e-4,
    momentum: Any = 0.0,
    output_axis: Any = None,
    reduction_axis: Any = None,
    split: Any = None,
) -> ShampooState:
    """Return the state before the first step; no momentum if it is the number 0."""
    xp = namespace(params)
    m = None if absent(momentum) else xp.zeros_like(params)
    matrix = reshaped(params, rows_and_columns(params.shape))
    sums = []
    for axis, shape in enumerate(preconditioners(params.shape)):
        ones = xp.ones_like(axis_sum(matrix, 1 - axis))
        unit = identity(matrix if axis == 0 else transposed(matrix)) if is_full(shape) else ones
        sums.append(eps * unit)
    start = flattened(sums)
    return ShampooState(m, start, xp.zeros_like(start), no_steps(params))


@leafwise
@matrixwise(length=_length)
def update(
    state: ShampooState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 0.1,
    momentum: Any = 0.0,
    weight_decay: Any = 0.0,
    eps: Any = 1e-4,
    maximize: bool = False,
    update_interval: Any = 1.0,
    ridge: Any = 1e-6,
    output_axis: Any = None,
    reduction_axis: Any = None,
    split: Any = None,
) -> tuple[ShampooState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient Gₜ, like the parameters.
        params: parameters θₜ₋₁; read if there is weight decay.
        lr: learning rate, ≥ 0.
        momentum: μ ≥ 0.
        weight_decay: L2 penalty ≥ 0, added to the gradient.
        eps: ε ≥ 0 of the initial L and R (read by :func:`init`).
        maximize: climb instead of descend (the penalty keeps its sign).
        update_interval: number ≥ 1 of steps between two computations of the roots.
        ridge: ≥ 0, added to the diagonal of L for the root, relative to the norm of L.
        output_axis: axis or axes of the rows; ``None``: the first (as in PyTorch); -1: the last (as
            in Flax).
        reduction_axis: axis or axes of the columns; ``None``: all others. The remaining axes index
            a stack of matrices.
        split: number of blocks of outputs, or the outputs of each block. Each block is a matrix.
            ``None``: one block.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is weight decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> g = np.diag([4.0, 1.0])
    >>> _, step = update(init(g), g, lr=1.0)
    >>> step.round(3).tolist()  # both directions count alike
    [[-1.0, -0.0], [-0.0, -1.0]]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, params, weight_decay=weight_decay, maximize=maximize)
    shapes = preconditioners(grad.shape)
    order = 2 * len(shapes)
    u = reshaped(g, rows_and_columns(grad.shape))
    grams = [
        (gram(x) if is_full(shape) else axis_sum(x * x, 1))
        for shape, x in zip(shapes, (u, transposed(u)), strict=False)
    ]
    sums = state.sums + flattened(grams)

    def renewed(sums: Array) -> tuple[Array]:
        roots = [
            _matrix_root(x, order, ridge) if is_full(shape) else _diagonal_root(x, order)
            for shape, x in zip(shapes, parts(sums, shapes), strict=True)
        ]
        return (flattened(roots),)

    due = doubles.remainder(doubles.of(state.t), update_interval) < 1
    (roots,) = when(due, renewed, (sums,), (state.roots,))
    for shape, root in zip(shapes, parts(roots, shapes), strict=True):
        u = transposed(matmul(root, u) if is_full(shape) else root * u)
    u = reshaped(u, grad.shape)  # a vector is one row, in the same order
    m = state.m
    if not absent(momentum):
        u = m = momentum * (xp.zeros_like(u) if m is None else m) + u
    return ShampooState(m, sums, roots, state.t + 1), -lr * u


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of a leaf as a matrix; a vector is one column."""
    rows = shape[0] if shape else 1
    return rows, math.prod(shape[1:])


def is_full(shape: tuple[int, int]) -> bool:
    """Return whether a preconditioner is a full matrix."""
    return shape[0] == shape[1]


def _matrix_root(x: Array, order: int, ridge: Any) -> Array:
    if not absent(ridge):
        x = x + (ridge * leaf_norm(x)) * identity(x)
    return inverse_root(x, order)


def _diagonal_root(x: Array, order: int) -> Array:
    xp = namespace(x)
    root = xp.sqrt(x)
    return 1 / (root if order == 2 else xp.sqrt(root))
