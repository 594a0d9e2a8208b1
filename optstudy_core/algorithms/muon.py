"""Muon: momentum of matrices, made orthogonal by a Newton-Schulz iteration.

    Bₜ = μ·Bₜ₋₁ + (1 − μ)·Gₜ
    M = (1 − μ)·Gₜ + μ·Bₜ    (with ``nesterov``, else Bₜ)
    X = M / max(‖M‖, ε)
    for (a, b, c): A = X·Xᵀ,  X ← a·X + (b·A + c·(A·A))·X
    θₜ = θₜ₋₁ − lr·λ·θₜ₋₁ − lr·s·X

with the Frobenius norm, X turned so that it has at most as many rows as columns, and a triple of
``ns_coefficients`` for each iteration. X comes out near the nearest orthogonal matrix: with the
default triple its singular values lie between about 0.7 and 1.2. The scale s is √max(1, n/m) for
n outputs and m inputs, or with ``consistent_rms`` r > 0 the size of AdamW's steps, r·√max(n, m).

A leaf of two axes is a matrix with n rows and m columns, a leaf of more (the kernel of a
convolution) one whose rows are its output axis, and whose columns are all others. ``output_axis``,
``reduction_axis`` and ``split`` say what else is a matrix: see :mod:`optstudy_core.arrays.blocks`.
Every other leaf takes :mod:`~optstudy_core.adamw`'s step with ``adam_lr``, ``adam_b1`` and so on.
Embeddings and output layers do better with AdamW too.

The products are those of :mod:`optstudy_core.matrix`, the same bits in every library. For float32
leaves they keep 20 bits (``rough``): X is within 1.3e-4 of the same iteration in float64, where
torch.optim.Muon, which rounds X to bfloat16, is within 2e-2. torch.optim.Muon refuses leaves that
are not of two axes. optax adds ε to the norm instead of the maximum (``eps_added``), corrects the
bias of both terms of M (``debias``), has the outputs as the last axis, and takes AdamW's step for a
leaf of more than two axes (``flatten=False``).

A step multiplies three times in each iteration, in float64 on a CPU. Two of the three products are
of a matrix with its own transpose, half the work in NumPy. Measured, CPU seconds of one core of a
Xeon for a matrix of 1024 × 1024: ours 0.64 in PyTorch and 1.07 in JAX; optax, in float32, 0.66;
torch.optim.Muon 0.05 with the processor's matrix unit (AMX), 0.48 without it, 1.4 without its
bfloat16 instructions either.

Source: Jordan et al. 2024 (`jordan2024muon`); ``consistent_rms``: Liu et al. 2025 (`liu2025muon`);
the coefficients ``"polar_express"``: Amsel et al. 2025 (`amsel2025polar`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from optstudy_core.arrays import blocks
from optstudy_core.arrays.blocks import matrixwise
from optstudy_core.arrays.leafwise import is_nothing, nothing, shapewise
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.parts import newton_schulz
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.newton_schulz import orthogonal, stretch
from optstudy_core.parts.terms import decoupled_decay, objective_gradient

from . import adamw
from .adamw import AdamWState

BIBTEX = ("jordan2024muon", "liu2025muon", "amsel2025polar")

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    "optax": {
        "weight_decay": 0.0,
        "eps": 1e-8,
        "eps_added": True,
        "debias": True,
        "output_axis": (-1,),
        "flatten": False,
    },
    "paper": {"weight_decay": 0.0},
}

ELSEWHERE = {
    "torch.optim.Muon": {"b": "momentum_buffer"},
    "optax.MuonState": {"b": "mu", "t": "count"},
    "optax.ScaleByAdamState": {"m": "mu", "v": "nu", "t": "count"},
}
"""What the fields of the state are called elsewhere."""

ADJUSTED = {"original": 0.0, "match_rms_adamw": 0.2}
"""What ``consistent_rms`` is by torch's ``adjust_lr_fn``."""


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
def init(
    params: Array,
    *,
    output_axis: Any = None,
    reduction_axis: Any = None,
    split: Any = None,
    flatten: bool = True,
) -> MuonState:
    """Return the state before the first step."""
    zeros, none, t = namespace(params).zeros_like(params), nothing(params), no_steps(params)
    if blocks.matrices_of(params.shape, output_axis, reduction_axis, split, flatten):
        return MuonState(b=zeros, m=none, v=none, t=t)
    return MuonState(b=none, m=zeros, v=zeros, t=t)


def check(hyperparameters: dict[str, Any], dialect: str | None = None) -> None:
    """Refuse coefficients and axes that cannot be."""
    newton_schulz.check(hyperparameters)
    name = hyperparameters["adjust_lr_fn"]
    if not (name is None or (isinstance(name, str) and name in ADJUSTED)):
        raise ValueError(
            f"adjust_lr_fn = {name!r}: allowed are None, {' and '.join(map(repr, ADJUSTED))}"
        )
    if name is not None and not absent(hyperparameters["consistent_rms"]):
        raise ValueError(f"adjust_lr_fn = {name!r} and consistent_rms: allowed is one of both")
    blocks.check(hyperparameters)


def check_shape(shape: tuple[int, ...], dialect: str | None) -> None:
    """Refuse a leaf that torch.optim.Muon does not take; one of more axes is a matrix here."""
    if dialect == "torch" and len(shape) < 2:
        raise ValueError(
            f"a parameter of shape {shape} for Muon in torch's dialect: allowed are matrices and "
            'tensors of more axes; give others to AdamW, or take them too with dialect="paper"'
        )


@shapewise
@matrixwise
def update(
    state: MuonState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    weight_decay: Any = 0.1,
    momentum: Any = 0.95,
    nesterov: bool = True,
    ns_coefficients: Any = (3.4445, -4.775, 2.0315),
    eps: Any = 1e-7,
    ns_steps: Any = None,
    adjust_lr_fn: Any = None,
    maximize: bool = False,
    consistent_rms: Any = 0.0,
    output_axis: Any = None,
    reduction_axis: Any = None,
    split: Any = None,
    flatten: bool = True,
    eps_added: bool = False,
    debias: bool = False,
    adam_lr: Any = None,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_weight_decay: Any = 0.0,
    cautious_decay: bool = False,
) -> tuple[MuonState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: of :func:`init` or of the last update.
        grad: gradient Gₜ, like the parameters.
        params: parameters θₜ₋₁; read if there is weight decay.
        lr: learning rate, ≥ 0.
        weight_decay: λ ≥ 0 of matrices, decoupled.
        momentum: μ ≥ 0.
        nesterov: look ahead.
        ns_coefficients: a triple (a, b, c) of all iterations, a tuple of triples, one for each, or
            a name of them: ``"simple"``, ``"quintic"``, ``"polar_express"``.
        eps: ε ≥ 0, the least that M is divided by.
        ns_steps: number of iterations, below 100; the last triple is repeated. ``None``: 5 with one
            triple, else one for each triple.
        adjust_lr_fn: torch's name of the scale: ``"original"``, or ``"match_rms_adamw"`` for
            ``consistent_rms=0.2``.
        maximize: climb instead of descend.
        consistent_rms: r ≥ 0; with 0 the scale is √max(1, n/m).
        output_axis: the axis, or the axes, that are rows; ``None``: the first, as PyTorch's layers
            have it; -1: the last, as Flax's have it; (): no leaf is a matrix.
        reduction_axis: the axis, or the axes, that are columns; ``None``: all others. What is
            neither numbers the matrices of a stack, each of which is made orthogonal.
        split: the number of blocks of outputs (heads, say), or the outputs of each block (queries,
            keys and values): each is made orthogonal. ``None``: one.
        flatten: whether leaves of more than two axes are matrices without ``reduction_axis``.
        eps_added: divide by ‖M‖ + ε.
        debias: correct the bias of M.
        adam_lr: learning rate ≥ 0 of AdamW; ``None``: ``lr``.
        adam_b1: decay β₁ of AdamW's first moment, in [0, 1).
        adam_b2: decay β₂ of AdamW's second moment, in [0, 1).
        adam_eps: ε of AdamW.
        adam_weight_decay: λ ≥ 0 of AdamW.
        cautious_decay: decay only what the step brings towards 0, or leaves
            (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is weight decay and ``params`` is ``None``; if a leaf lacks an axis
            that is named, or cannot be split.

    >>> import numpy as np
    >>> theta = np.zeros((2, 2))
    >>> _, step = update(init(theta), np.diag([4.0, 1.0]), theta, lr=1.0, weight_decay=0.0)
    >>> step.round(2).tolist()  # both directions count alike
    [[-0.74, -0.0], [-0.0, -0.74]]
    """
    if not grad.shape or is_nothing(state.b):
        inner, step = adamw.update(
            AdamWState(state.m, state.v, state.t),
            grad,
            params,
            lr=lr if adam_lr is None else adam_lr,
            b1=adam_b1,
            b2=adam_b2,
            eps=adam_eps,
            weight_decay=adam_weight_decay,
            maximize=maximize,
            cautious_decay=cautious_decay,
        )
        return MuonState(state.b, inner.m, inner.v, inner.t), step
    g = objective_gradient(grad, None, maximize=maximize)
    t = state.t + 1
    b = momentum * state.b + (1 - momentum) * g
    m = b
    if debias:
        m = b / correction(momentum, t + 1 if nesterov else t)
        g = g / correction(momentum, t)
    if nesterov:
        m = momentum * m + (1 - momentum) * g
    x = orthogonal(m, ns_coefficients, ns_steps, eps, eps_added=eps_added)
    rms = consistent_rms if adjust_lr_fn is None else ADJUSTED[adjust_lr_fn]
    scale = stretch(grad.shape) if absent(rms) else math.sqrt(max(grad.shape)) * rms
    step = decoupled_decay(
        -(lr * scale) * x, params, lr=lr, weight_decay=weight_decay, cautious=cautious_decay
    )
    return MuonState(b, state.m, state.v, t), step
