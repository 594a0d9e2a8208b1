"""NorMuon: Muon with rows, one for each neuron, normalized to the same size.

    Bₜ = β₁·Bₜ₋₁ + (1 − β₁)·Gₜ
    Oₜ = Newton-Schulz iteration of Bₜ                      (as in Muon)
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·mean of Oₜ² over columns        (one for each row)
    Ôₜ = Oₜ / (√vₜ + ε)
    θₜ = θₜ₋₁ − lr·λ·θₜ₋₁ − lr·r·√(n·m)/‖Ôₜ‖ · Ôₜ

for n outputs and m inputs. r, ``consistent_rms``, is the root mean square of a step at the learning
rate 1, and close to that of Adam. β₁ is ``momentum``, β₂ is ``b2``. The iteration is
:mod:`optstudy_core.newton_schulz`. Matrices and their rows are chosen as in
:mod:`~optstudy_core.muon`. Every other leaf takes a step of :mod:`~optstudy_core.adamw`.

The authors' program uses Nesterov momentum (``nesterov=True``) and the step size of Muon
(``consistent_rms=0``: ‖Oₜ‖·√max(1, n/m) instead of r·√(n·m)). It rounds O to bfloat16, and adds
1e-7 to the norm of B instead of bounding the norm by ε.

Source: Li et al. 2025, Algorithm 1 (`li2025normuon`); the iteration: Jordan et al. 2024
(`jordan2024muon`).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from optstudy_core.arrays import blocks
from optstudy_core.arrays.axes import axis_mean, rearranged, reshaped
from optstudy_core.arrays.blocks import matrixwise
from optstudy_core.arrays.leafwise import is_nothing, nothing, shapewise
from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts import newton_schulz
from optstudy_core.parts.newton_schulz import factor, orthogonal
from optstudy_core.parts.terms import decoupled_decay, objective_gradient

from . import adamw
from .adamw import AdamWState

BIBTEX = ("li2025normuon", "jordan2024muon")

DIALECTS: dict[str, dict[str, Any]] = {"paper": {}}


class NorMuonState(NamedTuple):
    """The state of NorMuon. A field that a leaf does not need is ``None``.

    Attributes:
        b: momentum Bₜ of a matrix, like the parameters; 0 at the start.
        m: first moment of AdamW for a leaf that is not a matrix; 0 at the start.
        v: for a matrix, the second moments vₜ, a vector with one element for each row; for another
            leaf, the second moment of AdamW; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    b: Array | None
    m: Array | None
    v: Array
    t: Array


@shapewise
def init(
    params: Array, *, output_axis: Any = None, reduction_axis: Any = None, split: Any = None
) -> NorMuonState:
    """Return the state before the first step."""
    zeros, none, t = namespace(params).zeros_like(params), nothing(params), no_steps(params)
    found = blocks.matrices_of(params.shape, output_axis, reduction_axis, split)
    if found is None:
        return NorMuonState(b=none, m=zeros, v=zeros, t=t)
    v = rearranged(functools.partial(_rows_of, reductions=found.reductions), zeros)
    return NorMuonState(b=zeros, m=none, v=v, t=t)


def _rows_of(zeros: Any, reductions: tuple[int, ...]) -> Any:
    """Return a vector of zeros, one for each row of each matrix."""
    return namespace(zeros).sum(zeros, axis=reductions).reshape(-1)


def check(hyperparameters: dict[str, Any], dialect: str | None = None) -> None:
    """Refuse impossible coefficients and axes."""
    newton_schulz.check(hyperparameters)
    blocks.check(hyperparameters)


def _rows(shape: tuple[int, int]) -> int:
    return shape[0]


@shapewise
@matrixwise(length=_rows)
def update(
    state: NorMuonState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    weight_decay: Any = 0.1,
    momentum: Any = 0.95,
    b2: Any = 0.95,
    nesterov: bool = False,
    ns_coefficients: Any = (3.4445, -4.775, 2.0315),
    eps: Any = 1e-8,
    ns_steps: Any = None,
    maximize: bool = False,
    consistent_rms: Any = 0.2,
    output_axis: Any = None,
    reduction_axis: Any = None,
    split: Any = None,
    adam_lr: Any = None,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_weight_decay: Any = 0.0,
    cautious_decay: bool = False,
) -> tuple[NorMuonState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient Gₜ, like the parameters.
        params: parameters θₜ₋₁; read if there is weight decay.
        lr: learning rate, ≥ 0.
        weight_decay: decoupled decay rate λ ≥ 0 of matrices.
        momentum: β₁ ≥ 0.
        b2: decay β₂ of the second moments of rows, in [0, 1).
        nesterov: use Nesterov momentum.
        ns_coefficients: a triple (a, b, c) for all iterations, a tuple with a triple for each, or a
            name: ``"simple"``, ``"quintic"``, ``"polar_express"``.
        eps: ε ≥ 0, added to the root of vₜ, and the smallest divisor of Bₜ and Ôₜ.
        ns_steps: number of iterations, below 100; the last triple is repeated. ``None``: 5 with one
            triple, else one for each triple.
        maximize: climb instead of descend.
        consistent_rms: r ≥ 0; the number 0 gives the step size of Muon.
        output_axis: axis or axes of the rows; ``None``: the first (as in PyTorch); -1: the last (as
            in Flax); (): no leaf is a matrix.
        reduction_axis: axis or axes of the columns; ``None``: all others. The remaining axes index
            a stack of matrices, and each matrix is orthogonalized.
        split: number of blocks of outputs (such as heads), or the outputs of each block (queries,
            keys and values). Each block is orthogonalized. ``None``: one block.
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
    >>> theta, grad = np.zeros((2, 2)), np.array([[3.0, 1.0], [0.0, 0.1]])
    >>> _, step = update(init(theta), grad, theta, lr=1.0)
    >>> np.linalg.norm(step, axis=1).round(6).tolist()  # rows of one size
    [0.282843, 0.282843]
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
        return NorMuonState(state.b, inner.m, inner.v, inner.t), step
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    b = momentum * state.b + (1 - momentum) * g
    x = momentum * b + (1 - momentum) * g if nesterov else b
    o = orthogonal(x, ns_coefficients, ns_steps, eps)
    rows = (grad.shape[0], 1)
    v = b2 * state.v + (1 - b2) * reshaped(axis_mean(o * o, 1), rows[:1])
    u = o / reshaped(xp.sqrt(v) + eps, rows)
    step = decoupled_decay(
        -(lr * factor(u, o, consistent_rms, eps)) * u,
        params,
        lr=lr,
        weight_decay=weight_decay,
        cautious=cautious_decay,
    )
    return NorMuonState(b, state.m, v, state.t + 1), step
