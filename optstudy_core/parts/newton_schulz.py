"""The Newton-Schulz iteration, which orthogonalizes a matrix, for Muon and related algorithms.

    X = M / max(‖M‖, ε)
    for (a, b, c): A = X·Xᵀ,  X ← a·X + (b·A + c·(A·A))·X

with the Frobenius norm and a triple of ``ns_coefficients`` for each iteration. X is transposed if
it has more rows than columns. The result X approximates the nearest orthogonal matrix: with the
default triple its singular values lie between about 0.7 and 1.2.

Source: Jordan et al. 2024 (`jordan2024muon`); the coefficients ``"polar_express"``: Amsel et al.
2025 (`amsel2025polar`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from optstudy_core.arrays.matrix import gram, matmul, transposed
from optstudy_core.arrays.namespace import Array, absent, namespace
from optstudy_core.arrays.numbers import is_number
from optstudy_core.arrays.reductions import leaf_norm

STEPS = 5
"""Iterations with one triple."""

_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)

COEFFICIENTS = {
    "simple": ((3.4445, -4.775, 2.0315),) * STEPS,
    "quintic": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "polar_express": (
        *((a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in _POLAR_EXPRESS),
        (1.875, -1.25, 0.375),
    ),
}
"""Triples by name.

``"quintic"`` is by Jiacheng You, with the name of NVIDIA Emerging-Optimizers (optax: ``"dion"``).
``"polar_express"`` is from Amsel et al., Algorithm 1, with the factor 1.01 against rounding errors.
"""


def orthogonal(
    m: Array, coefficients: Any, steps: Any, eps: Any, *, eps_added: bool = False
) -> Array:
    """Return the result of the iteration for any matrix.

    Args:
        m: the matrix.
        coefficients: as for :func:`triples`.
        steps: as for :func:`triples`.
        eps: ε ≥ 0, the smallest divisor of the matrix.
        eps_added: divide by ‖M‖ + ε.

    >>> import numpy as np
    >>> orthogonal(np.array([[4.0, 0.0], [0.0, -1.0]]), "simple", None, 0.0).round(2).tolist()
    [[0.74, 0.0], [0.0, -0.74]]
    """
    norm = leaf_norm(m)
    x = m / ((norm + eps) if eps_added else namespace(m).maximum(norm, eps))
    outputs, inputs = m.shape
    iterations = triples(coefficients, steps)
    if outputs <= inputs:
        return iterated(x, iterations)
    return transposed(iterated(transposed(x), iterations))


def iterated(x: Array, coefficients: Sequence[tuple[float, float, float]]) -> Array:
    """Return the result of the iteration for a matrix with singular values up to 1.

    >>> import numpy as np
    >>> cubic = [(1.5, -0.5, 0.0)] * 10  # converges
    >>> iterated(np.array([[0.3, 0.4], [0.0, 0.5]]), cubic).round(3).tolist()
    [[0.894, 0.447], [-0.447, 0.894]]
    """
    for a, b, c in coefficients:
        square = gram(x, rough=True)
        # A is symmetric, so A·A is A·Aᵀ.
        x = a * x + matmul(b * square + c * gram(square, rough=True), x, rough=True)
    return x


def stretch(shape: tuple[int, ...]) -> float:
    """Return √max(1, n/m) for a matrix with n rows and m columns.

    >>> stretch((8, 2)), stretch((2, 8))
    (2.0, 1.0)
    """
    outputs, inputs = shape
    return math.sqrt(max(1.0, outputs / max(inputs, 1)))


def factor(u: Array, x: Array, rms: Any, eps: Any) -> Array:
    """Return the factor of a step: r·√(n·m) / ‖U‖, or for r = 0 √max(1, n/m)·‖X‖ / ‖U‖.

    Args:
        u: the step U, a matrix with n rows and m columns.
        x: the orthogonal matrix of the step.
        rms: the root mean square r ≥ 0 of the elements; 0 gives the norm of the step of Muon.
        eps: ε ≥ 0, the smallest divisor.

    >>> import numpy as np
    >>> u = np.full((2, 8), 4.0)
    >>> float(factor(u, u, 0.5, 0.0)), float(factor(u, 2 * u, 0.0, 0.0))
    (0.125, 2.0)
    """
    norm = namespace(u).maximum(leaf_norm(u), eps)
    if absent(rms):
        return (stretch(u.shape) * leaf_norm(x)) / norm
    outputs, inputs = u.shape
    return (math.sqrt(outputs * inputs) * rms) / norm


def triples(coefficients: Any, steps: int | None = None) -> list[tuple[float, float, float]]:
    """Return the triple of each iteration.

    Raises:
        ValueError: for values other than a triple of finite numbers, a tuple of triples, or a name.

    >>> triples((1.5, -0.5, 0.0), 2)
    [(1.5, -0.5, 0.0), (1.5, -0.5, 0.0)]
    """
    known = isinstance(coefficients, str) and coefficients in COEFFICIENTS
    given = COEFFICIENTS[coefficients] if known else coefficients
    found = [given] * STEPS if _is_triple(given) else given
    if (
        not isinstance(found, tuple | list)
        or not all(_is_triple(t) for t in found)
        or (steps and not found)
    ):
        raise ValueError(
            f"ns_coefficients = {coefficients!r}: allowed are a triple of finite numbers, a tuple "
            f"with a triple for each iteration, and {', '.join(map(repr, COEFFICIENTS))}"
        )
    whole: list[Any] = [tuple(triple) for triple in found]
    if steps is None:
        return whole
    return [*whole[:steps], *whole[-1:] * (steps - len(whole))]


def check(hyperparameters: dict[str, Any]) -> None:
    """Refuse impossible ``ns_coefficients`` and ``ns_steps``.

    Raises:
        ValueError: if a value is impossible; the message names the argument.
    """
    steps = hyperparameters["ns_steps"]
    if not (steps is None or (type(steps) is int and 0 <= steps < 100)):
        raise ValueError(f"ns_steps = {steps!r}: allowed are None and whole numbers below 100")
    triples(hyperparameters["ns_coefficients"], steps)


def _is_triple(value: Any) -> bool:
    inside = isinstance(value, tuple | list) and len(value) == 3
    return inside and all(is_number(x) and math.isfinite(x) for x in value)
