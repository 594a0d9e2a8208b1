"""Adafactor: second moments of a matrix, estimated from the means of rows and of columns.

    wₜ = t^β₂_decay  (= 1 − β₂ₜ),    qₜ = gₜ²             (gₜ² + ε₁ with ``eps_in_square``)
    Rₜ = (1 − wₜ)·Rₜ₋₁ + wₜ·mean of qₜ over columns,    Cₜ the same over rows
    Vₜ = Rₜ / max(mean of Rₜ, ε₁) · Cₜ
    uₜ = gₜ / √max(Vₜ, ε₁²)                               (gₜ / √Vₜ with ``eps_in_square``)
    αₜ = max(ε₂, RMS(θₜ₋₁))·min(lr, 1/√t)
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·αₜ·uₜ / max(1, RMS(uₜ)/d)
    θₜ = θₜ₋₁ − mₜ − lr·λ·θₜ₋₁                            (− λ·θₜ₋₁ without ``lr_in_decay``)

RMS is the root mean square of a leaf, and β₁ is ``momentum``. Vectors and scalars are not factored:
Vₜ = (1 − wₜ)·Vₜ₋₁ + wₜ·qₜ. For more than two axes the last two axes form the matrix. In optax these
are the two largest axes (``largest_axes``), and only if both have 128 entries (``large_only``).
ε₁ = 0 means the machine epsilon of the dtype, as None does in torch.optim.

In optax the rate is not bounded by 1/√t. The arguments factored and decay_offset of optax do not
exist here. wₜ is accurate to a few units in the last place; optax computes it in float32.

Source: Shazeer and Stern 2018, Algorithms 4 and 5 (`shazeer2018adafactor`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.axes import axis_mean
from optstudy_core.arrays.leafwise import nothing, shapewise
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.arrays.reductions import leaf_rms
from optstudy_core.parts.power import machine_epsilon, power1p
from optstudy_core.parts.terms import decoupled_decay, needed, objective_gradient

BIBTEX = ("shazeer2018adafactor",)

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    "optax": {
        "eps1": 1e-30,
        "eps_in_square": True,
        "relative_step": False,
        "largest_axes": True,
        "large_only": True,
        "lr_in_decay": False,
    },
    "keras": {"lr": 1e-3, "eps1": 1e-30, "eps_in_square": True},
    "paper": {"eps1": 1e-30, "eps_in_square": True},
}

ELSEWHERE = {
    "torch.optim.Adafactor": {"row": "row_var", "column": "col_var", "v": "variance", "t": "step"},
    "optax.FactoredState": {"row": "~v_row", "column": "~v_col", "v": "~v", "t": "count"},
    "optax.EmaState": {"m": "ema"},
    "keras.optimizers.Adafactor": {"v": "velocity", "t": "iteration"},
}
"""Names of the state fields in other libraries."""


class AdafactorState(NamedTuple):
    """The state of Adafactor. A field that a leaf does not need is ``None``.

    Attributes:
        t: number of steps; shape () per leaf, int32; 0 at the start.
        row: means of the rows Rₜ, like the parameters with a column axis of length 1; 0 at the
            start.
        column: means of the columns Cₜ, like the parameters with a row axis of length 1; 0 at the
            start.
        v: second moment Vₜ of a leaf that is not factored, like the parameters; 0 at the start.
        m: average of steps mₜ, like the parameters; 0 at the start; ``None`` without momentum.
    """

    t: Array
    row: Array | None
    column: Array | None
    v: Array | None
    m: Array | None


def matrix_axes(
    shape: tuple[int, ...], largest_axes: bool, large_only: bool
) -> tuple[int, int] | None:
    """Return the axes of rows and of columns, or ``None`` if the leaf is not factored.

    >>> matrix_axes((130, 2, 140), largest_axes=True, large_only=True)
    (0, 2)
    """
    axes = list(range(len(shape)))
    if largest_axes:
        axes.sort(key=shape.__getitem__)
    if len(axes) < 2 or (large_only and min(shape[i] for i in axes[-2:]) < 128):
        return None
    return axes[-2], axes[-1]


@shapewise
def init(
    params: Array, *, momentum: Any = 0.0, largest_axes: bool = False, large_only: bool = False
) -> AdafactorState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like(params)
    row, column, v = nothing(params), nothing(params), zeros
    axes = matrix_axes(params.shape, largest_axes, large_only)
    if axes:
        of_rows, of_columns = axes
        row, column, v = axis_mean(zeros, of_columns), axis_mean(zeros, of_rows), nothing(params)
    m = None if absent(momentum) else zeros
    return AdafactorState(t=no_steps(params), row=row, column=column, v=v, m=m)


@shapewise
def update(
    state: AdafactorState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-2,
    beta2_decay: Any = -0.8,
    eps1: Any = 0.0,
    eps2: Any = 1e-3,
    d: Any = 1.0,
    weight_decay: Any = 0.0,
    maximize: bool = False,
    momentum: Any = 0.0,
    eps_in_square: bool = False,
    relative_step: bool = True,
    scale_parameter: bool = True,
    largest_axes: bool = False,
    large_only: bool = False,
    lr_in_decay: bool = True,
    cautious_decay: bool = False,
) -> tuple[AdafactorState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁.
        lr: learning rate, ≥ 0.
        beta2_decay: power of t, from above −2 to 0.
        eps1: ε₁ ≥ 0; the number 0 means the machine epsilon.
        eps2: ε₂ ≥ 0, the lower bound of the size of the parameters.
        d: threshold ≥ 1 for the root mean square of uₜ.
        weight_decay: decoupled decay rate λ ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).
        momentum: β₁ ≥ 0.
        eps_in_square: add ε₁ to the squares instead of bounding the divisors by ε₁.
        relative_step: bound the rate by 1/√t.
        scale_parameter: multiply the rate by the size of the parameters.
        largest_axes: factor the two largest axes instead of the last two.
        large_only: factor only where both axes have 128 entries or more.
        lr_in_decay: multiply the decay rate by the learning rate.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None`` and the formula reads them.

    >>> import numpy as np
    >>> theta = np.array([[3.0, 4.0], [3.0, 4.0]])
    >>> grad = np.array([[1.0, 2.0], [3.0, 6.0]])
    >>> state, step = update(init(theta), grad, theta, lr=0.1, d=2.0)
    >>> step.round(6).tolist()  # the squares are a product of rows and columns: signs, and the size
    [[-0.353553, -0.353553], [-0.353553, -0.353553]]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    t = state.t + 1
    w = 1 / power1p(doubles.of(state.t), -beta2_decay)
    q = g * g
    if eps_in_square:
        q = q + eps1
    elif absent(eps1):
        eps1 = machine_epsilon(grad)
    row, column, v = state.row, state.column, state.v
    axes = matrix_axes(grad.shape, largest_axes, large_only)
    if axes:
        of_rows, of_columns = axes
        row = (1 - w) * state.row + w * axis_mean(q, of_columns)
        column = (1 - w) * state.column + w * axis_mean(q, of_rows)
        variance = (row / xp.maximum(axis_mean(row, of_rows), eps1)) * column
    else:
        variance = v = (1 - w) * state.v + w * q
    u = g / xp.sqrt(variance if eps_in_square else xp.maximum(variance, eps1 * eps1))
    rate = doubles.minimum(1 / doubles.sqrt(doubles.of(t)), lr) if relative_step else lr
    if scale_parameter:
        rate = xp.maximum(leaf_rms(needed(params, "adafactor")), eps2) * rate
    step = (rate / xp.maximum(leaf_rms(u) / d, 1.0)) * u
    m = state.m
    if not absent(momentum):
        m = step = (1 - momentum) * step if m is None else momentum * m + (1 - momentum) * step
    step = decoupled_decay(
        -step,
        params,
        lr=lr if lr_in_decay else 1.0,
        weight_decay=weight_decay,
        cautious=cautious_decay,
    )
    return AdafactorState(t, row, column, v, m), step
