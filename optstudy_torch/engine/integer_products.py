"""Products of matrices that keep 20 bits, on integer tensor cores.

The elements of a row of the first matrix, and of a column of the second, are integers times a power
of two. The integers are at most 2²⁰, which are three signed digits:

    k = d₀ + 2⁷·d₁ + 2¹⁴·d₂,    |dᵢ| ≤ 64

The products of digits i and j with i + j = s are one int8 product with sums in int32, as rows and
columns with their digits side by side. So there are five int8 products, of nine times the size of
the float64 product in all. Nothing is rounded: the result has the bits of the float64 product.

Source: Ootomo, Ozaki and Yokota 2024 (`ootomo2024dgemm`).
"""

from __future__ import annotations

import functools

import torch

from optstudy_core.arrays.bits import BIAS, biased_exponent, power_of_two

_BITS = 20
_DIGITS = 3
_BASE = 7
_FEWEST = 1 << 27
"""Products of elements from which a GPU saves more than it takes to find the digits."""

_MOST = 1 << 16
"""Columns of the first matrix: sums of more might not fit 32 bits."""

_EVEN = 32
"""cuBLAS needs shapes that are multiples of 8, with more than 16 rows."""


def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the product of float64 matrices that keep 20 bits.

    Args:
        x: a matrix of shape (m, n); in each row multiples of 2⁻²⁰ times the power of two at or
            above the largest magnitude. A row with NaN or infinities is NaN.
        y: a matrix of shape (n, k), with such columns.
    """
    left, x_scale = _digits(x, (0, 1, 2))
    right, y_scale = _digits(y.t(), (2, 1, 0))
    width = left.shape[1] // _DIGITS
    total: torch.Tensor | None = None
    for power in reversed(range(2 * _DIGITS - 1)):
        begin, end = max(0, power - _DIGITS + 1), min(power, _DIGITS - 1) + 1
        first = slice(begin * width, end * width)
        # The digit j of y is at the place 2 − j.
        shift = (_DIGITS - 1 - power) * width
        second = slice(first.start + shift, first.stop + shift)
        part = torch._int_mm(left[:, first], right[:, second].t()).to(torch.float64)
        total = part if total is None else total * 2.0**_BASE + part
    assert total is not None
    whole = total[: x.shape[0], : y.shape[1]]
    return whole * x_scale * y_scale.t()


def _digits(x: torch.Tensor, order: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return digits of the rows side by side, int8, and the scale of each row."""
    tops = x.abs().amax(1, keepdim=True)
    finite = tops.isfinite()
    exponent = biased_exponent(tops)
    exponent = exponent + (tops != power_of_two(exponent.clamp(1, 2 * BIAS))) - _BITS
    exponent = exponent.clamp(BIAS - 500, BIAS + 500)  # of float32 numbers; or all are 0
    scale = torch.where(finite, power_of_two(exponent), torch.nan)
    number = torch.where(finite, x * power_of_two(2 * BIAS - exponent), 0.0).to(torch.int32)
    digits = []
    for _ in range(_DIGITS - 1):
        rest = (number + (1 << (_BASE - 1))) >> _BASE
        digits.append(number - (rest << _BASE))
        number = rest
    digits.append(number)
    more = [-n % _EVEN for n in x.shape]
    padded = (torch.nn.functional.pad(digits[i], (0, more[1], 0, more[0])) for i in order)
    return torch.cat([own.to(torch.int8) for own in padded], 1), scale


def are_faster(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Return whether :func:`product` is faster than the float64 product."""
    if x.device.type != "cuda" or x.shape[1] > _MOST:
        return False
    return x.shape[0] * x.shape[1] * y.shape[1] >= _FEWEST and are_exact(x.device)


@functools.cache
def are_exact(device: torch.device) -> bool:
    """Return whether torch multiplies int8 matrices on a device; tried once."""
    x = torch.arange(-1600.0, 1600.0, dtype=torch.float64, device=device).view(64, 50)
    try:
        return torch.equal(product(x, x.t()), x @ x.t())
    except (AttributeError, RuntimeError):
        return False
