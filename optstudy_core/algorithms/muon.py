"""Muon: momentum of matrices, orthogonalized by a Newton-Schulz iteration.

    Bₜ = μ·Bₜ₋₁ + (1 − μ)·Gₜ
    M = (1 − μ)·Gₜ + μ·Bₜ    (with ``nesterov``, else Bₜ)
    X = M / max(‖M‖, ε)
    for (a, b, c): A = X·Xᵀ,  X ← a·X + (b·A + c·(A·A))·X
    θₜ = θₜ₋₁ − lr·λ·θₜ₋₁ − lr·s·X

with the Frobenius norm and a triple of ``ns_coefficients`` for each iteration. X is transposed if
it has more rows than columns. The result X approximates the nearest orthogonal matrix: with the
default triple its singular values lie between about 0.7 and 1.2. The scale s is √max(1, n/m) for n
outputs and m inputs. With ``consistent_rms`` r > 0 it is r·√max(n, m), the size of the steps of
AdamW.

A leaf of two axes is a matrix with n rows and m columns. For a leaf of more axes (the kernel of a
convolution) the output axis gives the rows, and all other axes the columns. ``output_axis``,
``reduction_axis`` and ``split`` choose other matrices: see :mod:`optstudy_core.arrays.blocks`.
Every other leaf takes a step of :mod:`~optstudy_core.adamw` with ``adam_lr``, ``adam_b1`` and so
on. Use AdamW for embeddings and output layers too.

The products are those of :mod:`optstudy_core.matrix`, bitwise identical in every library. For
float32 leaves the products keep 20 bits (``rough``): X is within 1.3e-4 of the iteration in
float64. torch.optim.Muon rounds X to bfloat16 and is within 2e-2. torch.optim.Muon accepts only
leaves of two axes. optax adds ε to the norm instead of taking the maximum (``eps_added``), corrects
the bias of both terms of M (``debias``), has the outputs on the last axis, and uses AdamW for a
leaf of more than two axes (``flatten=False``).

An iteration has three products, in float64 on a CPU. Two of them multiply a matrix by its own
transpose, which is half the work in NumPy. CPU seconds of one core of a Xeon for a matrix of 1024 ×
1024: optstudy 0.64 in PyTorch and 1.07 in JAX; optax, in float32, 0.66; torch.optim.Muon 0.05 with
the matrix instructions of the processor (AMX), 0.48 without AMX, 1.4 also without bfloat16
instructions.

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
"""Names of the state fields in other libraries."""

ADJUSTED = {"original": 0.0, "match_rms_adamw": 0.2}
"""``consistent_rms`` for each ``adjust_lr_fn`` of torch."""


class MuonState(NamedTuple):
    """The state of Muon. A field that a leaf does not need is ``None``.

    Attributes:
        b: momentum Bₜ of a matrix, like the parameters; 0 at the start.
        m: first moment of AdamW for a leaf that is not a matrix; 0 at the start.
        v: second moment of AdamW for a leaf that is not a matrix; 0 at the start.
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
    """Refuse impossible coefficients and axes."""
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
    """Refuse a leaf that torch.optim.Muon refuses; a leaf of more axes is a matrix here."""
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
        state: from :func:`init` or from the last update.
        grad: gradient Gₜ, like the parameters.
        params: parameters θₜ₋₁; read if there is weight decay.
        lr: learning rate, ≥ 0.
        weight_decay: decoupled decay rate λ ≥ 0 of matrices.
        momentum: μ ≥ 0.
        nesterov: use Nesterov momentum.
        ns_coefficients: a triple (a, b, c) for all iterations, a tuple with a triple for each, or a
            name: ``"simple"``, ``"quintic"``, ``"polar_express"``.
        eps: ε ≥ 0, the smallest divisor of M.
        ns_steps: number of iterations, below 100; the last triple is repeated. ``None``: 5 with one
            triple, else one for each triple.
        adjust_lr_fn: name of the scale in torch: ``"original"``, or ``"match_rms_adamw"`` for
            ``consistent_rms=0.2``.
        maximize: climb instead of descend.
        consistent_rms: r ≥ 0; with 0 the scale is √max(1, n/m).
        output_axis: axis or axes of the rows; ``None``: the first (as in PyTorch); -1: the last (as
            in Flax); (): no leaf is a matrix.
        reduction_axis: axis or axes of the columns; ``None``: all others. The remaining axes index
            a stack of matrices, and each matrix is orthogonalized.
        split: number of blocks of outputs (such as heads), or the outputs of each block (queries,
            keys and values). Each block is orthogonalized. ``None``: one block.
        flatten: whether leaves of more than two axes are matrices without ``reduction_axis``.
        eps_added: divide by ‖M‖ + ε.
        debias: correct the bias of M.
        adam_lr: learning rate ≥ 0 of AdamW; ``None``: ``lr``.
        adam_b1: decay β₁ of the first moment in AdamW, in [0, 1).
        adam_b2: decay β₂ of the second moment in AdamW, in [0, 1).
        adam_eps: ε of AdamW.
        adam_weight_decay: λ ≥ 0 of AdamW.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is weight decay and ``params`` is ``None``; if a leaf lacks a
            given axis or cannot be split.

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
