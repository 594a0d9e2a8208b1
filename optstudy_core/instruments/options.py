"""The options of a recorder: which quantities of which layers, and how often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Final, NamedTuple

from .activations import ACTIVATIONS
from .measured import Reduction
from .profiles import PROFILES
from .quantities import OF_STEPS, OF_THE_WHOLE, QUANTITIES, given, reductions, select, vectors

ALL_LAYERS: Final = ("*",)


class Only(NamedTuple):
    """The result of :func:`only`."""

    names: tuple[str, ...]
    layers: tuple[str, ...] | None
    every: int | None


def only(*names: str, layers: str | Sequence[str] | None = None, every: int | None = None) -> Only:
    """Return quantities for a recorder, restricted to some layers or to an interval.

    Args:
        *names: names of quantities, profiles and instruments.
        layers: patterns of names of layers, such as ``"encoder.*.weight"``. Each of these layers
            has an entry, and the network has none. ``None``: all layers, and the network.
        every: record every n-th step (or epoch): those with a number that is a multiple of
            ``every``. ``None``: the interval of the recorder.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a name is unknown or a value is not allowed.

    >>> only("spectra", layers="*.weight", every=50).names
    ('grad_spectrum', 'step_spectrum', 'param_spectrum')
    """
    patterns = (layers,) if isinstance(layers, str) else layers
    if patterns is not None:
        if not isinstance(patterns, list | tuple) or not all(isinstance(p, str) for p in patterns):
            raise TypeError(f"layers = {layers!r}: allowed are patterns of names and lists of them")
        patterns = tuple(patterns)
        for name in select(names):
            if name in OF_THE_WHOLE:
                raise ValueError(f"layers = {layers!r}: layers have no {name}, only the network")
    if every is not None:
        check_every(every)
    return Only(select(names), patterns, every)


def check_every(every: Any) -> None:
    """Refuse intervals other than integers ≥ 1.

    Raises:
        ValueError: if the interval is not allowed.
    """
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ValueError(f"every = {every!r}: allowed are whole numbers from 1")


class Part(NamedTuple):
    """A requested quantity: for which layers, whether for the network, and how often."""

    name: str
    layers: tuple[str, ...]
    whole: bool
    every: int


class Chosen:
    """The quantities that are recorded of epochs or of steps, and the sums that they need.

    Args:
        parts: the requested quantities.

    Attributes:
        names: names of quantities that are functions of sums.
        profiles: names of profiles.
        activations: names of quantities of activations.
        reductions: the sums that the quantities need.
        vectors: the vectors that the sums and the profiles need.
        given: the numbers that are given and not measured, such as ``loss``.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        every = tuple(dict.fromkeys(part.name for part in parts))
        self.names = tuple(name for name in every if name in QUANTITIES)
        self.profiles = tuple(name for name in every if name in PROFILES)
        self.activations = tuple(name for name in every if name in ACTIVATIONS)
        self.reductions: tuple[Reduction, ...] = reductions(every)
        self.vectors = vectors(every)
        self.given = given(every)
        self._by_name = {name: [p for p in parts if p.name == name] for name in every}
        self._intervals = tuple(dict.fromkeys(part.every for part in self.parts))
        self._due = {(True,) * len(self._intervals): self}

    @classmethod
    def of(
        cls, argument: str, names: Iterable[str | Only], *, per_layer: bool = True, every: int = 1
    ) -> Chosen:
        """Return the quantities for names of quantities and instruments.

        Args:
            argument: the name of the argument, for messages.
            names: names, and results of :func:`only`.
            per_layer: whether layers have entries if no patterns are given.
            every: the interval if none is given.

        Raises:
            TypeError, ValueError: as from :func:`select`.
        """
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise TypeError(f"{argument} = {names!r}: allowed are sequences of names")
        layers = ALL_LAYERS if per_layer else ()
        parts: dict[Part, None] = {}
        for entry in names:
            one = entry if isinstance(entry, Only) else Only(select((entry,), argument), None, None)
            for name in one.names:
                interval = every if one.every is None else one.every
                own = layers if one.layers is None else one.layers
                own = () if name in OF_THE_WHOLE else own
                parts[Part(name, own, one.layers is None, interval)] = None
        return cls(tuple(parts))

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of the quantities and profiles that need vectors."""
        return (*self.names, *self.profiles)

    @property
    def something(self) -> bool:
        """Whether anything is recorded."""
        return bool(self.parts)

    def at(self, number: int) -> Chosen:
        """Return the quantities that are recorded of the epoch or step with this number."""
        key = tuple(number % every == 0 for every in self._intervals)
        if key not in self._due:
            self._due[key] = Chosen([part for part in self.parts if number % part.every == 0])
        return self._due[key]

    def shows(self, name: str, layer: str | None) -> bool:
        """Return whether rows have a quantity, for a layer (its name) or the network (``None``)."""
        return any(
            part.whole if layer is None else _matches(part.layers, layer)
            for part in self._by_name[name]
        )


@lru_cache(maxsize=1 << 14)
def _matches(patterns: tuple[str, ...], layer: str) -> bool:
    return patterns == ALL_LAYERS or any(fnmatchcase(layer, pattern) for pattern in patterns)


class Options(NamedTuple):
    """The options of a recorder; see the recorders of the adapters.

    Attributes:
        epoch: the quantities of an epoch.
        step: the quantities of a step.
        exact: whether the sums for epochs are exact.
        config: the options as values for JSON.
    """

    epoch: Chosen
    step: Chosen
    exact: bool
    config: dict[str, Any]

    @classmethod
    def of(
        cls,
        *,
        epoch: Iterable[str | Only],
        step: Iterable[str | Only],
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
        check_every(every)
        of_epochs = Chosen.of("epoch", epoch, per_layer=per_layer)
        of_steps = Chosen.of("step", step, per_layer=per_layer, every=every)
        for name in (*of_epochs.names, *of_epochs.activations):
            if name in OF_STEPS:
                raise ValueError(f"epoch with {name!r}: allowed in step")
        config = {
            "epoch": _config(of_epochs, per_layer, 1),
            "step": _config(of_steps, per_layer, every),
            "per_layer": per_layer,
            "every": every,
            "exact": exact,
        }
        return cls(of_epochs, of_steps, exact, config)

    @property
    def displaced(self) -> bool:
        """Whether the distance to the start is recorded."""
        return "displacement" in self.epoch.vectors | self.step.vectors

    def recorded(self, number: int) -> bool:
        """Return whether a step has a row."""
        return self.step.at(number).something

    def turns(self, number: int) -> bool:
        """Return whether the angle of the next step needs Δ of this step."""
        return "previous" in self.step.vectors and "previous" in self.step.at(number + 1).vectors

    def moves(self, number: int) -> bool:
        """Return whether Δ of a step is needed, for the step itself or the angle of the next."""
        return "step" in self.step.at(number).vectors or self.turns(number)


def _config(chosen: Chosen, per_layer: bool, every: int) -> list[Any]:
    """Return the names; those with their own layers or interval as dictionaries."""
    usual = ALL_LAYERS if per_layer else ()
    found: list[Any] = []
    for name, layers, whole, own in chosen.parts:
        if whole and own == every and (layers == usual or name in OF_THE_WHOLE):
            found.append(name)
        else:
            found.append({"name": name, "layers": list(layers), "every": own})
    return found
