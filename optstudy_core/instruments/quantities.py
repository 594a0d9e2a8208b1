"""The quantities that are measured of a training, by name.

A **quantity** is a pure function of a few sums over elements of vectors, which it asks a
:class:`~optstudy_core.instruments.Measured` for. A vector of norm 0 has no direction: its angles
are NaN. An **instrument** is a named set of quantities: what is turned on together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from optstudy_core.arrays.numbers import nearest

from .measured import FromReductions, Measured, Reduction


def loss(m: Measured) -> Any:
    """Return the loss L, of the step's mini-batch, or the mean of the epoch."""
    return m.given("loss")


def lr(m: Measured) -> Any:
    """Return the learning rate that the (last) step was made with."""
    return m.given("lr")


def grad_norm(m: Measured) -> Any:
    """Return ‖g‖₂ of the (last) step's gradient."""
    return m.norm("grad")


def param_norm(m: Measured) -> Any:
    """Return ‖θ‖₂."""
    return m.norm("params")


def step_size(m: Measured) -> Any:
    """Return ‖Δ‖₂."""
    return m.norm("step")


def update_ratio(m: Measured) -> Any:
    """Return ‖Δ‖₂ / ‖θ‖₂."""
    return m.norm("step") / m.norm("params")


def angle(m: Measured) -> Any:
    """Return φ, the angle between Δ and Δ₋₁ in degrees, from 0 to 180."""
    return m.angle("step", "previous")


def cosine(m: Measured) -> Any:
    """Return cos φ = Δ·Δ₋₁ / (‖Δ‖₂·‖Δ₋₁‖₂)."""
    return m.cosine("step", "previous")


def distance(m: Measured) -> Any:
    """Return ‖θ − θ₀‖₂."""
    return m.norm("displacement")


def nonfinite_grads(m: Measured) -> Any:
    """Return how many elements of g are NaN or infinite."""
    return m.nonfinite("grad")


def m_mean(m: Measured) -> Any:
    """Return Σ mᵢ / n."""
    return m.total("m") / m.size("m")


def m_min(m: Measured) -> Any:
    """Return min mᵢ."""
    return m.least("m")


def m_max(m: Measured) -> Any:
    """Return max mᵢ."""
    return m.greatest("m")


def v_mean(m: Measured) -> Any:
    """Return Σ vᵢ / n."""
    return m.total("v") / m.size("v")


def v_min(m: Measured) -> Any:
    """Return min vᵢ."""
    return m.least("v")


def v_max(m: Measured) -> Any:
    """Return max vᵢ."""
    return m.greatest("v")


def below_noise(m: Measured) -> Any:
    """Return the share of elements whose mean gradient is below its noise, |mᵢ| < √vᵢ."""
    return m.below("m", "v") / m.size("m")


QUANTITIES: Final[Mapping[str, Callable[[Measured], Any]]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            loss,
            lr,
            grad_norm,
            param_norm,
            step_size,
            update_ratio,
            angle,
            cosine,
            distance,
            nonfinite_grads,
            m_mean,
            m_min,
            m_max,
            v_mean,
            v_min,
            v_max,
            below_noise,
        )
    }
)
"""Every quantity by name."""

INSTRUMENTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "motion": ("step_size", "update_ratio", "angle", "cosine"),
        "gradients": ("grad_norm", "nonfinite_grads"),
        "usual": ("loss", "lr", "grad_norm", "step_size", "update_ratio", "angle"),
        "moments": ("m_mean", "m_min", "m_max", "v_mean", "v_min", "v_max", "below_noise"),
        "all": tuple(QUANTITIES),
    }
)
"""Named sets of quantities."""

OF_THE_WHOLE: Final = ("loss",)
"""Quantities that a layer does not have."""


def select(names: Iterable[str], argument: str = "quantities") -> tuple[str, ...]:
    """Return the quantities meant, instruments spelled out, each once, in the order given.

    Args:
        names: names of quantities and instruments.
        argument: its name, for the message.

    Raises:
        TypeError: if ``names`` is a single string, or holds something else.
        ValueError: if there is no such name.

    >>> select(("loss", "gradients"))
    ('loss', 'grad_norm', 'nonfinite_grads')
    >>> select(["step_sise"], "epoch")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: epoch = 'step_sise': did you mean 'step_size' or ...
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{argument} = {names!r}: allowed are sequences of names")
    found: dict[str, None] = {}
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{argument} with {name!r}: allowed are names")
        if name not in QUANTITIES and name not in INSTRUMENTS:
            known = (*QUANTITIES, *INSTRUMENTS)
            raise ValueError(f"{argument} = {name!r}: {nearest(name, known)}")
        found |= dict.fromkeys(INSTRUMENTS.get(name, (name,)))
    return tuple(found)


def reductions(names: Iterable[str]) -> tuple[Reduction, ...]:
    """Return the sums that quantities need, each once.

    >>> reductions(["step_size", "update_ratio"])
    (Reduction(kind='dot', vectors=('step', 'step')), Reduction(kind='dot', \
vectors=('params', 'params')))
    """
    asked = _Asked()
    for name in names:
        QUANTITIES[name](asked)
    return tuple(asked.reductions)


def vectors(names: Iterable[str]) -> frozenset[str]:
    """Return the vectors that quantities are made of.

    >>> sorted(vectors(["update_ratio", "lr"]))
    ['params', 'step']
    """
    return frozenset(u for reduction in reductions(names) for u in reduction.vectors)


class _Asked(FromReductions):
    """Notes what quantities ask for, so that it need not be declared a second time."""

    def __init__(self) -> None:
        self.reductions: dict[Reduction, None] = {}

    def reduction(self, kind: str, *names: str) -> Any:
        self.reductions[Reduction(kind, names)] = None
        return np.float64(1.0)

    def size(self, u: str) -> Any:
        return 1

    def given(self, name: str) -> Any:
        return math.nan
