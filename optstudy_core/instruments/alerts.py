"""Alerts: rules over quantities, checked with each row."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from optstudy_core.arrays.numbers import is_number

_log = logging.getLogger(__name__)

Call = Callable[[str, dict[str, Any]], object]


@dataclass(frozen=True)
class Alert:
    """A rule: a quantity is above or below a limit, or not finite, in some consecutive rows.

    The alert goes off in the row in which the rule becomes true. It goes off again only after the
    rule was false. The row lists the alert under ``alerts``, a warning is logged, and ``call`` is
    called.

    Args:
        quantity: the name of a quantity, or of another number of the row, such as ``"test_loss"``;
            or a path, such as ``"grad_quantiles/100"``.
        above: the alert goes off above this number.
        below: the alert goes off below this number.
        nonfinite: the alert goes off if the quantity is NaN or infinite.
        rows: the number of consecutive rows, ≥ 1. Rows without the quantity do not count.
        of: ``"epochs"`` or ``"steps"``: the rows to check.
        layers: patterns of names of layers; each of these layers is checked by itself. ``None``:
            the network is checked.
        call: a function of the message and the row. It may raise an error to end the training.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is not allowed.

    >>> Alert("angle", above=90, rows=3).says
    'angle above 90 in 3 epochs in a row'
    """

    quantity: str
    above: float | None = None
    below: float | None = None
    nonfinite: bool = False
    rows: int = 1
    of: Literal["epochs", "steps"] = "epochs"
    layers: str | Sequence[str] | None = None
    call: Call | None = None

    def __post_init__(self) -> None:
        for name, value in {"above": self.above, "below": self.below}.items():
            if not (value is None or is_number(value)):
                raise TypeError(f"{name} = {value!r}: allowed are numbers and None")
        if self.above is None and self.below is None and not self.nonfinite:
            raise ValueError(f"Alert({self.quantity!r}) needs one of above, below and nonfinite")
        if not isinstance(self.rows, int) or isinstance(self.rows, bool) or self.rows < 1:
            raise ValueError(f"rows = {self.rows!r}: allowed are whole numbers from 1")
        if self.of not in ("epochs", "steps"):
            raise ValueError(f"of = {self.of!r}: allowed are 'epochs' and 'steps'")
        if not (self.call is None or callable(self.call)):
            raise TypeError(f"call = {self.call!r}: allowed are callables and None")

    @property
    def says(self) -> str:
        """The rule in words."""
        words = [
            f"{word} {value:g}"
            for word, value in (("above", self.above), ("below", self.below))
            if value is not None
        ]
        words += ["not finite"] if self.nonfinite else []
        often = "" if self.rows == 1 else f" in {self.rows} {self.of} in a row"
        return f"{self.quantity} {' or '.join(words)}{often}"

    def holds(self, value: float) -> bool:
        """Return whether the rule holds for a number.

        Args:
            value: the number of a row.

        Returns:
            whether the number is above or below the limit, or not finite, as the rule says.
        """
        if not math.isfinite(value) and self.nonfinite:
            return True
        over = self.above is not None and value > self.above
        return over or (self.below is not None and value < self.below)

    def values(self, row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        """Yield the numbers of a row that the rule checks, each with its layer (``""``: network).

        Args:
            row: numbers by name, also by layer.
        """
        patterns = (self.layers,) if isinstance(self.layers, str) else self.layers
        places: dict[str, Any] = {"": row}
        if patterns is not None:
            known = {**row.get("activations", {}), **row.get("layers", {})}
            places = {n: x for n, x in known.items() if any(fnmatchcase(n, p) for p in patterns)}
        for layer, place in places.items():
            value: Any = place
            for part in self.quantity.split("/"):
                value = value.get(part) if isinstance(value, Mapping) else None
            if isinstance(value, int | float):
                yield layer, float(value)


class Alerts:
    """Alerts, with the number of consecutive rows in which each rule has held.

    Args:
        alerts: the rules.

    Raises:
        TypeError: if an element is no :class:`Alert`.
    """

    def __init__(self, alerts: Iterable[Alert]) -> None:
        self._alerts = list(alerts)
        for alert in self._alerts:
            if not isinstance(alert, Alert):
                raise TypeError(f"alerts with {alert!r}: allowed are instances of Alert")
        self._held: list[dict[str, int]] = [{} for _ in self._alerts]
        self._to_call: list[tuple[Call, str, dict[str, Any]]] = []

    def look(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row, with the alerts that go off in it."""
        fired: list[dict[str, Any]] = []
        calls: list[tuple[Call, str]] = []
        kind = "steps" if "step" in row else "epochs"
        at = f"{kind[:-1]} {row[kind[:-1]]}"
        for alert, held in zip(self._alerts, self._held, strict=True):
            for layer, value in alert.values(row) if alert.of == kind else ():
                held[layer] = held.get(layer, 0) + 1 if alert.holds(value) else 0
                if held[layer] == alert.rows:
                    fired.append({"alert": alert.says, "layer": layer, "value": value})
                    text = f"{at}: {alert.says}{f', {layer}' if layer else ''} ({value:.4g})"
                    _log.warning(text)
                    calls += [] if alert.call is None else [(alert.call, text)]
        if not fired:
            return row
        made = {**row, "alerts": fired}
        self._to_call += [(call, text, made) for call, text in calls]
        return made

    def call(self) -> None:
        """Call the functions of the alerts that went off, after the rows are written."""
        while self._to_call:
            call, text, row = self._to_call.pop(0)
            call(text, row)

    def saved(self) -> list[dict[str, int]]:
        """Return the counts that a resumed recorder needs."""
        return [dict(held) for held in self._held]

    def load(self, saved: Sequence[Mapping[str, int]]) -> None:
        """Load counts from :meth:`saved`; ignore those of another number of rules."""
        if len(saved) == len(self._held):
            self._held = [dict(held) for held in saved]
