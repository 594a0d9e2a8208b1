"""What is measured of a training: quantities, and the instruments that record them.

θ are the parameters after a step (or at the end of an epoch), Δ is the step, Δ₋₁ the step before
it, θ₀ the parameters at the start of the training, g the gradient, and m and v the moments of an
optimizer like Adam, as they are stored (no bias correction). Each is one vector over all layers,
or that of one layer.

A **quantity** is a pure function of a few sums over elements of such vectors, which it asks a
:class:`Measured` for. Where the sums come from is the caller's business: exact sums of
:mod:`optstudy_core.geometry` (:class:`Exact`), or plain float64 sums of any library, on any
device, inside ``jit`` (:class:`Sums`). A vector of norm 0 has no direction: its angles are NaN.

An **instrument** is a named set of quantities: what is turned on together.

>>> measure(("step_size", "angle"), step=[np.array([0.0, 2.0])], previous=[np.array([3.0, 0.0])])
{'step_size': 2.0, 'angle': 90.0}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from . import geometry
from ._namespace import Array, namespace
from .exact_sum import to_numpy
from .hyperparameters import nearest


class Measured(Protocol):
    """What a quantity can ask for; ``u`` and ``v`` are names of vectors."""

    def norm(self, u: str) -> Any:
        """Return ‖u‖₂."""

    def cosine(self, u: str, v: str) -> Any:
        """Return u·v / (‖u‖·‖v‖)."""

    def angle(self, u: str, v: str) -> Any:
        """Return the angle between two vectors in degrees."""

    def total(self, u: str) -> Any:
        """Return Σ uᵢ."""

    def least(self, u: str) -> Any:
        """Return the least element."""

    def greatest(self, u: str) -> Any:
        """Return the greatest element."""

    def nonfinite(self, u: str) -> Any:
        """Return the number of elements that are NaN or infinite."""

    def below(self, u: str, v: str) -> Any:
        """Return the number of elements with uᵢ² < vᵢ."""

    def size(self, u: str) -> Any:
        """Return the number of elements."""

    def given(self, name: str) -> Any:
        """Return a number that is known and not measured: ``loss``, ``lr``."""


# Quantities.


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


def vectors(names: Iterable[str]) -> frozenset[str]:
    """Return the vectors that quantities are made of.

    >>> sorted(vectors(["update_ratio", "lr"]))
    ['params', 'step']
    """
    return frozenset(u for reduction in reductions(names) for u in reduction.vectors)


# Sums over elements.


class Reduction(NamedTuple):
    """A number made of all elements of one or two vectors.

    Attributes:
        kind: a name of :data:`REDUCE`.
        vectors: names of the vectors.
    """

    kind: str
    vectors: tuple[str, ...]


def _nonfinite(x: Array) -> Array:
    xp = namespace(x)
    return xp.sum(xp.astype(~xp.isfinite(x), x.dtype))


def _below(x: Array, y: Array) -> Array:
    xp = namespace(x)
    return xp.sum(xp.astype(x * x < y, x.dtype))


REDUCE: Final[Mapping[str, Callable[..., Array]]] = MappingProxyType(
    {
        "dot": lambda x, y: namespace(x).sum(x * y),
        "total": lambda x: namespace(x).sum(x),
        "least": lambda x: namespace(x).min(x),
        "greatest": lambda x: namespace(x).max(x),
        "nonfinite": _nonfinite,
        "below": _below,
    }
)
"""What is made of float64 arrays of one layer; not of empty ones."""


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


class Chosen(NamedTuple):
    """What is recorded of epochs or of steps, and what that takes.

    Attributes:
        names: of quantities.
        reductions: the sums that they need.
        vectors: what these are sums of.
    """

    names: tuple[str, ...]
    reductions: tuple[Reduction, ...]
    vectors: frozenset[str]

    @classmethod
    def of(cls, argument: str, names: Iterable[str]) -> Chosen:
        """Return what the names of quantities and instruments mean; errors as of :func:`select`."""
        chosen = select(names, argument)
        return cls(chosen, reductions(chosen), vectors(chosen))


class Options(NamedTuple):
    """What a recorder was asked for; see the recorders of the adapters.

    Attributes:
        epoch: what is recorded of an epoch.
        step: what is recorded of a step.
        per_layer: of each layer as well.
        every: the steps whose number is a multiple of it.
        exact: whether sums of epochs are.
    """

    epoch: Chosen
    step: Chosen
    per_layer: bool
    every: int
    exact: bool

    @classmethod
    def of(
        cls,
        *,
        epoch: Iterable[str],
        step: Iterable[str],
        per_layer: bool,
        every: int,
        exact: bool,
    ) -> Options:
        """Return checked options.

        Raises:
            TypeError: for an argument of the wrong kind.
            ValueError: for an unknown name, or ``every`` < 1.

        >>> made = Options.of(epoch=["loss"], step=["motion"], per_layer=False, every=2, exact=True)
        >>> made.config["step"]
        ['step_size', 'update_ratio', 'angle', 'cosine']
        """
        for name, value in {"per_layer": per_layer, "exact": exact}.items():
            if not isinstance(value, bool):
                raise TypeError(f"{name} = {value!r}: allowed are True and False")
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"every = {every!r}: allowed are whole numbers from 1")
        return cls(Chosen.of("epoch", epoch), Chosen.of("step", step), per_layer, every, exact)

    @property
    def config(self) -> dict[str, Any]:
        """The options as what JSON can hold."""
        chosen = {"epoch": list(self.epoch.names), "step": list(self.step.names)}
        return {**chosen, "per_layer": self.per_layer, "every": self.every, "exact": self.exact}

    @property
    def displaced(self) -> bool:
        """Whether the distance to the start is asked for."""
        return "displacement" in self.epoch.vectors | self.step.vectors

    def recorded(self, number: int) -> bool:
        """Tell whether a step has a row."""
        return bool(self.step.names) and number % self.every == 0

    def moves(self, number: int) -> bool:
        """Tell whether Δ of a step is needed: it is recorded, or the next one's angle needs it."""
        ahead = (number, number + 1) if "previous" in self.step.vectors else (number,)
        return "step" in self.step.vectors and any(n % self.every == 0 for n in ahead)


class _FromReductions:
    """What is made of reductions alone, the same for the plain sums of any library."""

    xp: Any = np

    def reduction(self, kind: str, *names: str) -> Any:
        raise NotImplementedError

    def norm(self, u: str) -> Any:
        return self.xp.sqrt(self.reduction("dot", u, u))

    def cosine(self, u: str, v: str) -> Any:
        value = self.reduction("dot", u, v) / (self.norm(u) * self.norm(v))
        one = self.xp.ones_like(value)
        return self.xp.maximum(self.xp.minimum(value, one), -one)

    def angle(self, u: str, v: str) -> Any:
        # The chords of the unit vectors; within about 1e-6° of 0° and 180° from plain sums.
        cosine = self.cosine(u, v)
        between, across = (self.xp.sqrt(2.0 + sign * 2.0 * cosine) for sign in (-1.0, 1.0))
        return 2.0 * self.xp.atan2(between, across) * (180.0 / math.pi)

    def total(self, u: str) -> Any:
        return self.reduction("total", u)

    def least(self, u: str) -> Any:
        return self.reduction("least", u)

    def greatest(self, u: str) -> Any:
        return self.reduction("greatest", u)

    def nonfinite(self, u: str) -> Any:
        return self.reduction("nonfinite", u)

    def below(self, u: str, v: str) -> Any:
        return self.reduction("below", u, v)


class _Asked(_FromReductions):
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


class Sums(_FromReductions):
    """Plain sums.

    Args:
        values: of each reduction, for each layer an entry (or one number, of one vector).
        sizes: number of elements of each vector, for each layer an entry (or one number).
        given: ``loss``, ``lr``.
        xp: the namespace of ``values``.
    """

    def __init__(
        self,
        values: Mapping[Reduction, Any],
        sizes: Mapping[str, Any],
        given: Mapping[str, Any],
        xp: Any = np,
    ) -> None:
        self._values, self._sizes, self._given, self.xp = values, sizes, given, xp

    def reduction(self, kind: str, *names: str) -> Any:
        return self._values[Reduction(kind, names)]

    def size(self, u: str) -> Any:
        return self._sizes[u]

    def given(self, name: str) -> Any:
        return self._given.get(name, math.nan)

    def whole(self, present: Mapping[str, np.ndarray[Any, Any]], given: Mapping[str, Any]) -> Sums:
        """Return the sums over all layers as one vector.

        Args:
            present: for each vector, which layers have it; a truth value each. A pair of vectors
                is of the layers that have both.
            given: ``loss``, ``lr`` of the whole.
        """
        xp, values = self.xp, {}
        for reduction, column in self._values.items():
            there = np.logical_and.reduce([present[u] for u in reduction.vectors])
            if reduction.kind not in EMPTY:  # a layer without elements has none that is least
                there = there & (self._sizes[reduction.vectors[0]] > 0)
            values[reduction] = xp.asarray(math.nan, dtype=xp.float64)
            if there.any():
                kept = column[np.flatnonzero(there)]
                join = {"least": xp.min, "greatest": xp.max}.get(reduction.kind, xp.sum)
                values[reduction] = join(kept)
        sizes = {u: int(np.sum(n[present[u]])) for u, n in self._sizes.items()}
        return Sums(values, sizes, given, xp)


class Exact:
    """Norms, cosines and angles from exact sums; other sums are plain, on the host.

    Args:
        vectors: each a list of arrays, of NumPy, torch or JAX.
        given: ``loss``, ``lr``.
        measures: has ``norm``, ``cosine`` and ``angle``; every library's have the same bits.
    """

    def __init__(
        self,
        vectors: Mapping[str, Sequence[Array]],
        given: Mapping[str, Any],
        measures: Any = geometry,
    ) -> None:
        self._vectors, self._given, self._measures = vectors, given, measures

    def norm(self, u: str) -> Any:
        leaves = self._list(u)
        return np.float64(float(self._measures.norm(leaves)) if leaves else math.nan)

    def cosine(self, u: str, v: str) -> Any:
        return float(self._measures.cosine(*self._pair(u, v)))

    def angle(self, u: str, v: str) -> Any:
        return self._measures.angle(*self._pair(u, v), degrees=True)

    def total(self, u: str) -> Any:
        return self._reduce("total", np.sum, u)

    def least(self, u: str) -> Any:
        return self._reduce("least", np.min, u)

    def greatest(self, u: str) -> Any:
        return self._reduce("greatest", np.max, u)

    def nonfinite(self, u: str) -> Any:
        return self._reduce("nonfinite", np.sum, u)

    def below(self, u: str, v: str) -> Any:
        return self._reduce("below", np.sum, u, v)

    def size(self, u: str) -> Any:
        return np.float64(sum(math.prod(x.shape) for x in self._vectors[u] if x is not None))

    def given(self, name: str) -> Any:
        return self._given.get(name, math.nan)

    def _list(self, u: str) -> list[Array]:
        return [x for x in self._vectors[u] if x is not None]

    def _pair(self, u: str, v: str) -> tuple[list[Array], list[Array]]:
        both = zip(self._vectors[u], self._vectors[v], strict=True)
        kept = [(x, y) for x, y in both if x is not None and y is not None]
        return [x for x, _ in kept], [y for _, y in kept]

    def _reduce(self, kind: str, join: Callable[[Any], Any], *names: str) -> Any:
        columns = geometry.leaves(*(self._list(u) for u in names))
        parts = [
            float(REDUCE[kind](*(to_numpy(x).astype(np.float64, copy=False) for x in row)))
            for row in zip(*columns, strict=True)
        ]
        return join(np.array(parts)) if parts else np.float64(EMPTY.get(kind, math.nan))


EMPTY: Final[Mapping[str, float]] = MappingProxyType(
    dict.fromkeys(("dot", "total", "nonfinite", "below"), 0.0)
)
"""What a reduction makes of no elements; NaN where it is not named."""


# Rows.


Vectors = Mapping[str, Sequence[Array | None]]
"""Vectors by name: an array for each layer, or ``None`` where the layer has none."""


@np.errstate(all="ignore")
def row(
    head: Mapping[str, int],
    names: Sequence[str],
    whole: Measured,
    layers: Mapping[str, Measured] | tuple[Sequence[str], Sums] | None = None,
) -> dict[str, Any]:
    """Return the row of an epoch or a step, the same from every framework.

    Args:
        head: ``epoch`` and ``step``, their numbers.
        names: of quantities.
        whole: the sums over all layers.
        layers: those of each layer by name, or the names and the sums with an entry for each; no
            layers without.

    Returns:
        ``{"epoch": 3, "loss": …, "step_size": …, "layers": {"fc1.weight": {"step_size": …}}}``;
        the values are floats.
    """
    made = {**head, **{name: float(QUANTITIES[name](whole)) for name in names}}
    own = [name for name in names if name not in OF_THE_WHOLE]
    if layers is None or not own:
        return made
    if isinstance(layers, tuple):
        known, sums = layers
        columns = [np.broadcast_to(QUANTITIES[n](sums), len(known)).tolist() for n in own]
        entries = zip(*columns, strict=True) if known else ()
        cells = [dict(zip(own, entry, strict=True)) for entry in entries]
        return {**made, "layers": dict(zip(known, cells, strict=True))}
    return {
        **made,
        "layers": {
            layer: {name: float(QUANTITIES[name](m)) for name in own} for layer, m in layers.items()
        },
    }


def exact_row(
    head: Mapping[str, int],
    names: Sequence[str],
    vectors: Vectors,
    given: Mapping[str, Any],
    layers: Mapping[str, Mapping[str, Any]] | None,
    measures: Any = geometry,
) -> dict[str, Any]:
    """Return a row from exact sums.

    Args:
        head: ``epoch`` and ``step``, their numbers.
        names: of quantities.
        vectors: those that :func:`vectors` names.
        given: ``loss``, ``lr`` of the whole.
        layers: for each layer, by name and in order, what is given of it; ``None`` for no layers.
        measures: see :class:`Exact`.
    """
    each = None
    if layers is not None:
        each = {
            layer: Exact({u: [column[i]] for u, column in vectors.items()}, own, measures)
            for i, (layer, own) in enumerate(layers.items())
        }
    return row(head, names, Exact(vectors, given, measures), each)


def plain_row(
    head: Mapping[str, int],
    names: Sequence[str],
    sums: Sums,
    present: Mapping[str, np.ndarray[Any, Any]],
    given: Mapping[str, Any],
    layers: Sequence[str] | None,
) -> dict[str, Any]:
    """Return a row from plain sums that were brought to the host.

    Args:
        head: ``epoch`` and ``step``, their numbers.
        names: of quantities.
        sums: with an entry for each layer.
        present: see :meth:`Sums.whole`.
        given: ``loss``, ``lr`` of the whole.
        layers: their names; ``None`` for no layers.
    """
    return row(head, names, sums.whole(present, given), None if layers is None else (layers, sums))


def plain_sums(
    wanted: Sequence[Reduction], vectors: Vectors, xp: Any = np
) -> tuple[dict[Reduction, Any], dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Return plain sums, the sizes of the vectors, and which layers have them (see :class:`Sums`).

    Args:
        wanted: the reductions.
        vectors: arrays that ``xp`` computes with, in any real dtype.
        xp: a namespace with float64.
    """
    present = {u: np.array([x is not None for x in column]) for u, column in vectors.items()}
    sizes = {
        u: np.array([0 if x is None else math.prod(x.shape) for x in column])
        for u, column in vectors.items()
    }
    values = {}
    for reduction in wanted:
        columns = [vectors[u] for u in reduction.vectors]
        entries = []
        for leaves in zip(*columns, strict=True):
            if any(x is None for x in leaves):
                entry = math.nan
            elif math.prod(leaves[0].shape) == 0:
                entry = EMPTY.get(reduction.kind, math.nan)
            else:
                entry = REDUCE[reduction.kind](*(xp.astype(x, xp.float64) for x in leaves))
            entries.append(xp.asarray(entry, dtype=xp.float64))
        values[reduction] = xp.stack(entries) if entries else xp.zeros(0, dtype=xp.float64)
    return values, sizes, present


@np.errstate(all="ignore")
def measure(
    names: Iterable[str],
    *,
    exact: bool = True,
    given: Mapping[str, float] | None = None,
    **arrays: Sequence[Array | None],
) -> dict[str, float]:
    """Return quantities of arrays.

    Args:
        names: of quantities and instruments.
        exact: from exact sums; else from plain float64 sums, of NumPy arrays.
        given: ``loss``, ``lr``.
        **arrays: the vectors ``grad``, ``params``, ``step``, ``previous``, ``displacement``
            (θ − θ₀), ``m``, ``v``: a list with an array for each layer, all in one order.

    Raises:
        TypeError: if a vector is missing that a quantity is made of.
        ValueError: if there is no such quantity.

    >>> measure(["update_ratio"], params=[np.float32([3.0, 4.0])], step=[np.float32([0.0, 0.5])])
    {'update_ratio': 0.1}
    """
    chosen = select(names, "names")
    for u in sorted(vectors(chosen) - arrays.keys()):
        needed = [name for name in chosen if u in vectors([name])]
        raise TypeError(f"{u} is missing: {', '.join(needed)} cannot be measured without it")
    known = dict(given or {})
    whole: Measured = Exact(arrays, known)
    if not exact:
        values, sizes, present = plain_sums(reductions(chosen), arrays)
        whole = Sums(values, sizes, known).whole(present, known)
    return row({}, chosen, whole)
