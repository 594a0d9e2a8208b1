"""The quantities of a training, by name.

A **quantity** is a pure function of a few sums over elements of vectors. It gets the sums from a
:class:`~optstudy_core.instruments.Measured`. A vector of norm 0 has no direction: its angles are
NaN. An **instrument** is a named set of quantities that are recorded together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from optstudy_core.arrays.numbers import nearest

from .activations import ACTIVATIONS
from .measured import FromReductions, Measured, Reduction
from .noise import grad_snr, micro_cosine, noise_scale
from .profiles import PROFILES


def loss(m: Measured) -> Any:
    """Return the loss L of the mini-batch of a step, or the mean loss of an epoch."""
    return m.given("loss")


def lr(m: Measured) -> Any:
    """Return the learning rate of the step (of the last step of an epoch)."""
    return m.given("lr")


def grad_norm(m: Measured) -> Any:
    """Return ‖g‖₂ of the gradient of the step (of the last step of an epoch)."""
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
    """Return the number of elements of g that are NaN or infinite."""
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
    """Return the fraction of elements with a mean gradient below its noise, |mᵢ| < √vᵢ."""
    return m.below("m", "v") / m.size("m")


def seconds(m: Measured) -> Any:
    """Return the wall-clock time in seconds since the last row of a step (or of an epoch).

    The time of a step ends when its commands are given; a device may still be computing.
    """
    return m.given("seconds")


def samples_per_second(m: Measured) -> Any:
    """Return the number of samples per second, from the numbers that the recorder is given."""
    return m.given("samples") / m.given("seconds")


def memory(m: Measured) -> Any:
    """Return the peak memory in MiB: of the device, or of the process on a CPU."""
    return m.given("memory")


def clip_factor(m: Measured) -> Any:
    """Return ‖ĝ‖ / ‖g‖ of a clipping wrapper: the factor that shortened the gradient, 1 if none.

    Cost: none, since the state of the wrapper has both norms. Source: Pascanu, Mikolov and Bengio
    2013.
    """
    return np.float64(m.given("clip_after")) / np.float64(m.given("clip_before"))


def skipped_steps(m: Measured) -> Any:
    """Return the number of steps that the wrapper ``skipping`` has skipped so far.

    Cost: none, since the state of the wrapper counts the steps.
    """
    return m.given("skipped")


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
            seconds,
            samples_per_second,
            memory,
            clip_factor,
            skipped_steps,
            noise_scale,
            grad_snr,
            micro_cosine,
        )
    }
)
"""Every quantity by name."""

_SUMS: Final = tuple(QUANTITIES)[: tuple(QUANTITIES).index("seconds")]

INSTRUMENTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "motion": ("step_size", "update_ratio", "angle", "cosine"),
        "gradients": ("grad_norm", "nonfinite_grads"),
        "usual": ("loss", "lr", "grad_norm", "step_size", "update_ratio", "angle"),
        "moments": ("m_mean", "m_min", "m_max", "v_mean", "v_min", "v_max", "below_noise"),
        "all": _SUMS,
        "cost": ("seconds", "samples_per_second", "memory"),
        "wrappers": ("clip_factor", "skipped_steps"),
        "noise": ("noise_scale", "grad_snr", "micro_cosine"),
        "activations": ACTIVATIONS,
        "distributions": tuple(n for n in PROFILES if not n.endswith("_spectrum")),
        "spectra": tuple(n for n in PROFILES if n.endswith("_spectrum")),
    }
)
"""Named sets of quantities. ``all`` has the quantities that the same few passes deliver."""

OF_THE_WHOLE: Final = ("loss", *INSTRUMENTS["cost"], *INSTRUMENTS["wrappers"])
"""Quantities that a layer does not have."""

OF_WRAPPERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "clip_before": ("clipped_norm", "norm"),
        "clip_after": ("clipped_norm", "clipped_norm"),
        "skipped": ("not_finite", "not_finite", "jumps"),
    }
)
"""Numbers in the states of wrappers: a field that identifies the state, then the fields to add."""

OF_STEPS: Final = (*INSTRUMENTS["noise"], *INSTRUMENTS["activations"])
"""Quantities that an epoch does not have."""

NAMES: Final = (*QUANTITIES, *PROFILES, *ACTIVATIONS)
"""All names that can be recorded, without the instruments."""


def select(names: Iterable[str], argument: str = "quantities") -> tuple[str, ...]:
    """Return the names of quantities, with instruments expanded, each once, in the given order.

    Args:
        names: names of quantities and instruments.
        argument: the name of the argument, for messages.

    Raises:
        TypeError: if ``names`` is a single string, or contains anything else than strings.
        ValueError: if a name is unknown.

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
        if name not in NAMES and name not in INSTRUMENTS:
            known = (*NAMES, *INSTRUMENTS)
            raise ValueError(f"{argument} = {name!r}: {nearest(name, known)}")
        found |= dict.fromkeys(INSTRUMENTS.get(name, (name,)))
    return tuple(found)


def reductions(names: Iterable[str]) -> tuple[Reduction, ...]:
    """Return the sums that quantities need, each once.

    >>> reductions(["step_size", "update_ratio"])
    (Reduction(kind='dot', vectors=('step', 'step')), Reduction(kind='dot', \
vectors=('params', 'params')))
    """
    return tuple(_asked(names).reductions)


def given(names: Iterable[str]) -> frozenset[str]:
    """Return the names of the given numbers that quantities need, such as ``loss``, ``seconds``.

    >>> sorted(given(["loss", "samples_per_second", "step_size"]))
    ['loss', 'samples', 'seconds']
    """
    return frozenset(_asked(names).numbers)


def _asked(names: Iterable[str]) -> _Asked:
    asked = _Asked()
    for name in names:
        if name in QUANTITIES:
            QUANTITIES[name](asked)
    return asked


def vectors(names: Iterable[str]) -> frozenset[str]:
    """Return the names of the vectors that quantities and profiles need.

    >>> sorted(vectors(["update_ratio", "lr", "grad_histogram"]))
    ['grad', 'params', 'step']
    """
    names = tuple(names)
    found = {u for reduction in reductions(names) for u in reduction.vectors}
    return frozenset(found | {PROFILES[name].vector for name in names if name in PROFILES})


class _Asked(FromReductions):
    """Notes the sums that quantities use, so that no second declaration is needed."""

    def __init__(self) -> None:
        self.reductions: dict[Reduction, None] = {}
        self.numbers: dict[str, None] = {}

    def reduction(self, kind: str, *names: str) -> Any:
        self.reductions[Reduction(kind, names)] = None
        return np.float64(1.0)

    def size(self, u: str) -> Any:
        return 1

    def given(self, name: str) -> Any:
        self.numbers[name] = None
        return math.nan
