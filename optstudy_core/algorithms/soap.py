"""SOAP: Adam in the eigenbasis of the preconditioner of Shampoo.

    Mₜ = β₁·Mₜ₋₁ + (1 − β₁)·Gₜ
    G' = Q_Lᵀ·Gₜ·Q_R,  M' = Q_Lᵀ·Mₜ·Q_R
    Vₜ = β₂·Vₜ₋₁ + (1 − β₂)·G'²
    θₜ = θₜ₋₁ − lr·λ·θₜ₋₁ − lr·Q_L·((M'/(1 − β₁ᵗ)) / (√(Vₜ/(1 − β₂ᵗ)) + ε))·Q_Rᵀ
    L ← β₃·L + (1 − β₃)·Gₜ·Gₜᵀ,  R ← β₃·R + (1 − β₃)·Gₜᵀ·Gₜ
    Q_L ← QR(L·Q_L),  Q_R ← QR(R·Q_R)    every ``precondition_frequency`` steps

QR(·) is the orthonormal factor of the QR decomposition. First the columns of Q_L are sorted by the
diagonal of Q_Lᵀ·L·Q_L, the largest first, and Q_R likewise. Vₜ is permuted in the same way. The
first call takes no step. It computes L and R, and sets Q_L and Q_R to their eigenvectors. A vector
takes a step of Adam. A leaf with more than two axes becomes one matrix, whose rows are the output
axis (``output_axis``). ``reduction_axis`` and ``split`` can divide it into several matrices: see
:mod:`optstudy_core.arrays.blocks`. For an axis longer than 1024, Q is the identity. The formula
follows the authors' program, which has more detail than Algorithm 3 of the paper.

Products, eigenvectors and QR are those of :mod:`optstudy_core.matrix` and
:mod:`optstudy_core.eigen`, bitwise identical in every library. They cost far more than an
elementwise rule.

Source: Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson and Kakade 2025, Algorithm 3
(`vyas2025soap`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import blocks, doubles
from optstudy_core.arrays.axes import axis_sum, flattened, parts, reshaped
from optstudy_core.arrays.blocks import matrixwise
from optstudy_core.arrays.eigen import by_size, eigenvectors, orthonormal
from optstudy_core.arrays.leafwise import leafwise, nothing
from optstudy_core.arrays.matrix import gram, identity, matmul, transposed, when
from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import decoupled_decay, objective_gradient

from .shampoo import LONGEST, rows_and_columns

BIBTEX = ("vyas2025soap",)

DIALECTS: dict[str, dict[str, Any]] = {"paper": {}}


class SOAPState(NamedTuple):
    """The state of SOAP.

    Attributes:
        m: first moment Mₜ, like the parameters; 0 at the start.
        v: second moment Vₜ in the eigenbasis, like the parameters; 0 at the start.
        grams: L and R of the rotated axes, concatenated to a vector; 0 at the start; ``None`` if no
            axis is rotated.
        bases: Q_L and Q_R in the same order; identity matrices at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    v: Array
    grams: Array | None
    bases: Array | None
    t: Array


def check(hyperparameters: dict[str, Any], dialect: str | None = None) -> None:
    """Refuse impossible axes."""
    blocks.check(hyperparameters)


def _length(shape: tuple[int, ...]) -> int:
    return sum(n * n for n in shape if n <= LONGEST)


@leafwise
@matrixwise(length=_length)
def init(
    params: Array,
    *,
    output_axis: Any = None,
    reduction_axis: Any = None,
    split: Any = None,
) -> SOAPState:
    """Return the state before the first step."""
    xp = namespace(params)
    zeros = xp.zeros_like(params)
    matrix = reshaped(params, rows_and_columns(params.shape))
    units = [identity(x) for x in _turned_axes(matrix, params.shape)]
    bases = flattened(units) if units else nothing(params)
    grams = xp.zeros_like(bases) if units else bases
    return SOAPState(zeros, zeros, grams, bases, no_steps(params))


@leafwise
@matrixwise(length=_length)
def update(
    state: SOAPState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 3e-3,
    b1: Any = 0.95,
    b2: Any = 0.95,
    b3: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.01,
    maximize: bool = False,
    precondition_frequency: Any = 10.0,
    output_axis: Any = None,
    reduction_axis: Any = None,
    split: Any = None,
    cautious_decay: bool = False,
) -> tuple[SOAPState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient Gₜ, like the parameters.
        params: parameters θₜ₋₁; read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        b3: decay β₃ of L and R, in [0, 1).
        eps: ε ≥ 0, added outside the root.
        weight_decay: λ ≥ 0, decoupled.
        maximize: climb instead of descend.
        precondition_frequency: number ≥ 1 of steps between two updates of the bases.
        output_axis: axis or axes of the rows; ``None``: the first (as in PyTorch); -1: the last (as
            in Flax).
        reduction_axis: axis or axes of the columns; ``None``: all others. The remaining axes index
            a stack of matrices.
        split: number of blocks of outputs, or the outputs of each block. Each block is a matrix.
            ``None``: one block.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is weight decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> theta, g = np.zeros((2, 2)), np.array([[3.0, 1.0], [1.0, 3.0]])
    >>> state, step = update(init(theta), g, theta, lr=0.1)
    >>> step.tolist()  # the first call begins the preconditioner
    [[0.0, 0.0], [0.0, 0.0]]
    >>> _, step = update(state, g, theta, lr=0.1)
    >>> step.round(3).tolist()  # along both eigenvectors, (1, 1) and (1, -1), by 0.1
    [[-0.1, -0.0], [-0.0, -0.1]]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    shape, matrix = grad.shape, rows_and_columns(grad.shape)
    turned = [n if n <= LONGEST and len(shape) > 1 else 0 for n in matrix]
    squares = [(n, n) for n in turned if n]
    begins = doubles.of(state.t) == 0

    def in_basis(x: Array, bases: Array, back: bool = False) -> Array:
        """Return Q_Lᵀ·x·Q_R of a matrix; with ``back``, Q_L·x·Q_Rᵀ."""
        known = iter(parts(bases, squares))
        for n in turned:
            if n:
                q = next(known)
                x = matmul(q if back else transposed(q), x)
            x = transposed(x)
        return x

    g2 = reshaped(g, matrix)
    # The first call sets the preconditioner; the moments start at the second.
    steps = doubles.count(doubles.maximum(doubles.of(state.t), 1.0), state.t)
    c1, c2 = correction(b1, steps), correction(b2, steps)
    m = b1 * state.m + (1 - b1) * g
    rotated = in_basis(g2, state.bases)
    v = b2 * reshaped(state.v, matrix) + (1 - b2) * (rotated * rotated)
    direction = (in_basis(reshaped(m, matrix), state.bases) / c1) / (xp.sqrt(v / c2) + eps)
    u = reshaped(in_basis(direction, state.bases, back=True), shape)
    step = decoupled_decay(
        -lr * u, params, lr=lr, weight_decay=weight_decay, cautious=cautious_decay
    )
    step = doubles.where(begins, 0.0, step)
    v = doubles.where(begins, reshaped(state.v, matrix), v)
    m = doubles.where(begins, state.m, m)
    grams, bases = state.grams, state.bases
    if squares:
        own = [gram(x) for x in _turned_axes(g2, shape)]
        grams = b3 * grams + (1 - b3) * flattened(own)

        def first(grams: Array) -> tuple[Array]:
            return (flattened([eigenvectors(x) for x in parts(grams, squares)]),)

        def again(grams: Array, bases: Array, v: Array) -> tuple[Array, Array]:
            known = zip(parts(grams, squares), parts(bases, squares), strict=True)
            found = []
            for n in turned:
                if n:
                    own_gram, q = next(known)
                    turned_gram = matmul(own_gram, q)
                    sizes = axis_sum(q * turned_gram, 0)
                    v = by_size(v, sizes, 0)
                    found.append(orthonormal(by_size(turned_gram, sizes, 1)))
                v = transposed(v)
            return flattened(found), v

        (bases,) = when(begins, first, (grams,), (bases,))
        turn = doubles.remainder(doubles.of(state.t), precondition_frequency) < 1
        due = doubles.where(begins, False, turn)
        bases, v = when(due, again, (grams, bases, v), (bases, v))
    return SOAPState(m, reshaped(v, shape), grams, bases, state.t + 1), step


def _turned_axes(matrix: Array, shape: tuple[int, ...]) -> list[Array]:
    """Return, for each rotated axis, the matrix with the axis as rows."""
    if len(shape) < 2:
        return []
    return [x for x in (matrix, transposed(matrix)) if 0 < x.shape[0] <= LONGEST]
