"""What a recorder was asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from .measured import Reduction
from .quantities import reductions, select, vectors


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
