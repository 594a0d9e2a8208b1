"""AdaMuon: Muon on the signs of the momentum, with a second moment for each element.

    Bₜ = β·Bₜ₋₁ + (1 − β)·Gₜ
    Oₜ = Newton-Schulz iteration of sign(Bₜ)
    Vₜ = β·Vₜ₋₁ + (1 − β)·Oₜ²
    Ôₜ = Oₜ / (√Vₜ + ε)
    θₜ = θₜ₋₁ − lr·λ·θₜ₋₁ − lr·r·√(n·m)/‖Ôₜ‖ · Ôₜ

for n outputs and m inputs. r, ``consistent_rms``, is the root mean square of a step at the learning
rate 1, and close to that of Adam. β is ``momentum``. In the paper Bₜ is the sum β·Bₜ₋₁ + Gₜ, which
has the same signs. The iteration is :mod:`optstudy_core.newton_schulz`. Matrices and their rows are
chosen as in :mod:`~optstudy_core.muon`. Every other leaf takes a step of
:mod:`~optstudy_core.adamw`.

The authors' program uses Nesterov momentum (``nesterov=True``) and rounds O to bfloat16. Their
program for Megatron takes no signs, and uses another β for V.

Source: Si et al. 2025, Algorithm 1 of the third version (`si2025adamuon`); the iteration: Jordan et
al. 2024 (`jordan2024muon`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import blocks
from optstudy_core.arrays.blocks import matrixwise
from optstudy_core.arrays.leafwise import is_nothing, nothing, shapewise
from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts import newton_schulz
from optstudy_core.parts.newton_schulz import factor, orthogonal
from optstudy_core.parts.terms import decoupled_decay, objective_gradient

from . import adamw
from .adamw import AdamWState

BIBTEX = ("si2025adamuon", "jordan2024muon")

DIALECTS: dict[str, dict[str, Any]] = {"paper": {}}


class AdaMuonState(NamedTuple):
    """The state of AdaMuon. A field that a leaf does not need is ``None``.

    Attributes:
        b: momentum Bₜ of a matrix, like the parameters; 0 at the start.
        m: first moment of AdamW for a leaf that is not a matrix; 0 at the start.
        v: second moment Vₜ of a matrix, or that of AdamW, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    b: Array | None
    m: Array | None
    v: Array
    t: Array


@shapewise
def init(
    params: Array, *, output_axis: Any = None, reduction_axis: Any = None, split: Any = None
) -> AdaMuonState:
    """Return the state before the first step."""
    zeros, none, t = namespace(params).zeros_like(params), nothing(params), no_steps(params)
    if blocks.matrices_of(params.shape, output_axis, reduction_axis, split):
        return AdaMuonState(b=zeros, m=none, v=zeros, t=t)
    return AdaMuonState(b=none, m=zeros, v=zeros, t=t)


def check(hyperparameters: dict[str, Any], dialect: str | None = None) -> None:
    """Refuse impossible coefficients and axes."""
    newton_schulz.check(hyperparameters)
    blocks.check(hyperparameters)


@shapewise
@matrixwise
def update(
    state: AdaMuonState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    weight_decay: Any = 0.1,
    momentum: Any = 0.95,
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
) -> tuple[AdaMuonState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient Gₜ, like the parameters.
        params: parameters θₜ₋₁; read if there is weight decay.
        lr: learning rate, ≥ 0.
        weight_decay: decoupled decay rate λ ≥ 0 of matrices.
        momentum: β ≥ 0 of both moments.
        nesterov: use Nesterov momentum.
        ns_coefficients: a triple (a, b, c) for all iterations, a tuple with a triple for each, or a
            name: ``"simple"``, ``"quintic"``, ``"polar_express"``.
        eps: ε ≥ 0, added to the root of Vₜ, and the smallest divisor of sign(Bₜ) and Ôₜ.
        ns_steps: number of iterations, below 100; the last triple is repeated. ``None``: 5 with one
            triple, else one for each triple.
        maximize: climb instead of descend.
        consistent_rms: r ≥ 0; the number 0 gives the step size of Muon, ‖Oₜ‖·√max(1, n/m).
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
    >>> theta, grad = np.zeros((2, 2)), np.array([[3.0, 0.1], [-2.0, 7.0]])
    >>> update(init(theta), grad, theta, lr=1.0)[1].round(6).tolist()  # at first the signs
    [[-0.2, -0.2], [0.2, -0.2]]
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
        return AdaMuonState(state.b, inner.m, inner.v, inner.t), step
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    b = momentum * state.b + (1 - momentum) * g
    x = momentum * b + (1 - momentum) * g if nesterov else b
    o = orthogonal(xp.sign(x), ns_coefficients, ns_steps, eps)
    v = momentum * state.v + (1 - momentum) * (o * o)
    u = o / (xp.sqrt(v) + eps)
    step = decoupled_decay(
        -(lr * factor(u, o, consistent_rms, eps)) * u,
        params,
        lr=lr,
        weight_decay=weight_decay,
        cautious=cautious_decay,
    )
    return AdaMuonState(b, state.m, v, state.t + 1), step
