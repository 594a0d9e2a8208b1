"""Muon: momentum of matrices, made orthogonal by a Newton-Schulz iteration.

    Bₜ = μ·Bₜ₋₁ + (1 − μ)·Gₜ
    M = (1 − μ)·Gₜ + μ·Bₜ    (with ``nesterov``, else Bₜ)
    X = M / max(‖M‖, ε)
    for (a, b, c): A = X·Xᵀ,  X ← a·X + (b·A + c·(A·A))·X
    θₜ = θₜ₋₁ − lr·λ·θₜ₋₁ − lr·s·X

with the Frobenius norm, X turned so that it has at most as many rows as columns, and a triple of
``ns_coefficients`` for each iteration. X comes out near the nearest orthogonal matrix: its singular
values lie between about 0.7 and 1.2. The scale s is √max(1, rows/columns), or with
``consistent_rms`` r > 0 the size of AdamW's steps, r·√max(rows, columns).

A leaf that is no matrix takes :mod:`~optstudy_core.adamw`'s step with ``adam_b1`` and so on, as in
optax; embeddings and output layers do better with AdamW too: give them to another optimizer.

The products are those of :mod:`optstudy_core.matrix`, the same bits in every library.
torch.optim.Muon rounds X to bfloat16 (and has no step for other leaves); its
``adjust_lr_fn="match_rms_adamw"`` is ``consistent_rms=0.2``. optax adds ε to the norm instead of
the maximum (``eps_added``), corrects the bias of both terms of M (``debias``) and, as its matrices
stand to the right of the activations, has columns/rows in s (``rows_are_outputs=False``).

Source: Jordan et al. 2024 (`jordan2024muon`); ``consistent_rms``: Liu et al. 2025 (`liu2025muon`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from optstudy_core.arrays.leafwise import nothing, shapewise
from optstudy_core.arrays.matrix import matmul, transposed
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.arrays.reductions import leaf_norm
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import decoupled_decay, objective_gradient

from . import adamw
from .adamw import AdamWState

BIBTEX = ("jordan2024muon", "liu2025muon")

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    "optax": {
        "weight_decay": 0.0,
        "eps": 1e-8,
        "eps_added": True,
        "debias": True,
        "rows_are_outputs": False,
    },
    "paper": {"weight_decay": 0.0},
}

ELSEWHERE = {
    "torch.optim.Muon": {"b": "momentum_buffer"},
}
"""What the fields of the state are called elsewhere."""


class MuonState(NamedTuple):
    """What Muon carries. A field that a leaf does not need is ``None`` there.

    Attributes:
        b: of a matrix: momentum Bₜ, like the parameters; 0 at the start.
        m: of a leaf that is no matrix: AdamW's first moment; 0 at the start.
        v: of a leaf that is no matrix: AdamW's second moment; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    b: Array | None
    m: Array | None
    v: Array | None
    t: Array


@shapewise
def init(params: Array) -> MuonState:
    """Return the state before the first step."""
    zeros, none, t = namespace(params).zeros_like(params), nothing(params), no_steps(params)
    if len(params.shape) == 2:
        return MuonState(b=zeros, m=none, v=none, t=t)
    return MuonState(b=none, m=zeros, v=zeros, t=t)


def check(hyperparameters: dict[str, Any], dialect: str | None = None) -> None:
    """Refuse coefficients that are not a tuple of triples of numbers."""
    value = hyperparameters["ns_coefficients"]
    try:
        good = all(len(t) == 3 and all(map(math.isfinite, t)) for t in value)
    except TypeError:
        good = False
    if not good:
        raise ValueError(
            f"ns_coefficients = {value!r}: allowed are tuples with a triple of finite numbers for "
            "each iteration"
        )


@shapewise
def update(
    state: MuonState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    weight_decay: Any = 0.1,
    momentum: Any = 0.95,
    nesterov: bool = True,
    ns_coefficients: Any = ((3.4445, -4.775, 2.0315),) * 5,
    eps: Any = 1e-7,
    maximize: bool = False,
    consistent_rms: Any = 0.0,
    rows_are_outputs: bool = True,
    eps_added: bool = False,
    debias: bool = False,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_weight_decay: Any = 0.0,
) -> tuple[MuonState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: of :func:`init` or of the last update.
        grad: gradient Gₜ, like the parameters.
        params: parameters θₜ₋₁; read if there is weight decay.
        lr: learning rate, ≥ 0, also of leaves that are no matrices.
        weight_decay: λ ≥ 0 of matrices, decoupled.
        momentum: μ ≥ 0.
        nesterov: look ahead.
        ns_coefficients: a triple (a, b, c) for each iteration (torch: one triple and ``ns_steps``).
        eps: ε ≥ 0, the least that M is divided by.
        maximize: climb instead of descend.
        consistent_rms: r ≥ 0; with 0 the scale is √max(1, rows/columns).
        rows_are_outputs: whether a matrix has a row for each output, as torch's have; Flax's have a
            column.
        eps_added: divide by ‖M‖ + ε.
        debias: correct the bias of M.
        adam_b1: decay β₁ of AdamW's first moment, in [0, 1).
        adam_b2: decay β₂ of AdamW's second moment, in [0, 1).
        adam_eps: ε of AdamW.
        adam_weight_decay: λ ≥ 0 of AdamW.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is weight decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.zeros((2, 2))
    >>> _, step = update(init(theta), np.diag([4.0, 1.0]), theta, lr=1.0, weight_decay=0.0)
    >>> step.round(2).tolist()  # both directions count alike
    [[-0.74, -0.0], [-0.0, -0.74]]
    """
    if len(grad.shape) != 2:
        inner, step = adamw.update(
            AdamWState(state.m, state.v, state.t),
            grad,
            params,
            lr=lr,
            b1=adam_b1,
            b2=adam_b2,
            eps=adam_eps,
            weight_decay=adam_weight_decay,
            maximize=maximize,
        )
        return MuonState(state.b, inner.m, inner.v, inner.t), step
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    t = state.t + 1
    b = momentum * state.b + (1 - momentum) * g
    m = b
    if debias:
        m = b / correction(momentum, t + 1 if nesterov else t)
        g = g / correction(momentum, t)
    if nesterov:
        m = momentum * m + (1 - momentum) * g
    norm = leaf_norm(m)
    x = m / ((norm + eps) if eps_added else xp.maximum(norm, eps))
    rows, columns = grad.shape
    x = (
        orthogonalized(x, ns_coefficients)
        if rows <= columns
        else transposed(orthogonalized(transposed(x), ns_coefficients))
    )
    outputs, inputs = (rows, columns) if rows_are_outputs else (columns, rows)
    if absent(consistent_rms):
        scale = math.sqrt(max(1.0, outputs / max(inputs, 1)))
    else:
        scale = math.sqrt(max(rows, columns)) * consistent_rms
    step = decoupled_decay(-(lr * scale) * x, params, lr=lr, weight_decay=weight_decay)
    return MuonState(b, state.m, state.v, t), step


def orthogonalized(x: Array, coefficients: Any) -> Array:
    """Return what Newton and Schulz's iteration makes of a matrix with singular values up to 1.

    >>> import numpy as np
    >>> cubic = [(1.5, -0.5, 0.0)] * 10  # converges
    >>> orthogonalized(np.array([[0.3, 0.4], [0.0, 0.5]]), cubic).round(3).tolist()
    [[0.894, 0.447], [-0.447, 0.894]]
    """
    for a, b, c in coefficients:
        gram = matmul(x, transposed(x))
        x = a * x + matmul(b * gram + c * matmul(gram, gram), x)
    return x
