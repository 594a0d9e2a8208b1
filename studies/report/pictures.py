"""Data for the pictures of the layers of a run, over epochs and over steps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from optstudy_core.instruments import PROFILES

MOST: Final = 200
"""The largest number of columns in a picture; more rows are thinned."""
_HISTOGRAMS: Final = tuple(name for name in PROFILES if name.endswith("_histogram"))
NETWORK: Final = "network"
"""The name of the whole network in the list of layers."""


def pictures(epochs: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the pictures of a run as JSON, which the page reads when it draws them.

    Args:
        epochs: rows of the epochs.
        steps: rows of the steps.

    Returns:
        a dictionary for ``"epochs"`` and one for ``"steps"``. ``x`` has the numbers of the rows.
        ``layers`` has ``{"names": […], "z": [[…]]}`` by quantity, with a line for each layer.
        ``spreads`` has a histogram by profile and layer, with a line for each bin.
    """
    made = {"epochs": _of("epoch", epochs), "steps": _of("step", steps)}
    return json.dumps({kind: found for kind, found in made.items() if found}, separators=(",", ":"))


def _of(word: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    having = [row for row in rows if _is_map(row.get("layers")) or _is_map(row.get("activations"))
              or any(name in row for name in _HISTOGRAMS)]  # fmt: skip
    some = having[:: max(1, math.ceil(len(having) / MOST))]
    layers: dict[str, dict[str, list[float | None]]] = {}
    spreads: dict[str, dict[str, list[list[float | None]]]] = {}
    for i, row in enumerate(some):
        for place, layer, entry in _places(row):
            if place != NETWORK:
                for quantity, value in _numbers(entry):
                    line = layers.setdefault(quantity, {}).setdefault(layer, [None] * len(some))
                    line[i] = short(value)
            for name in _HISTOGRAMS:
                if _is_map(entry.get(name)):
                    bins = spreads.setdefault(name, {}).setdefault(layer, _empty(name, len(some)))
                    for line, label in zip(bins, PROFILES[name].labels, strict=True):
                        line[i] = short(entry[name].get(label))
    if not (layers or spreads):
        return {}
    return {
        "x": [row.get(word) for row in some],
        "layers": {
            quantity: {"names": list(lines), "z": list(lines.values())}
            for quantity, lines in layers.items()
        },
        "spreads": spreads,
    }


def _places(row: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    yield NETWORK, NETWORK, row
    for kind in ("layers", "activations"):
        found: Any = row.get(kind)
        for layer, entry in found.items() if _is_map(found) else ():
            if _is_map(entry):
                yield kind, layer, entry


def _numbers(entry: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in entry.items():
        if _is_map(value):
            if name not in _HISTOGRAMS:
                yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, value


def _empty(name: str, length: int) -> list[list[float | None]]:
    return [[None] * length for _ in PROFILES[name].labels]


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def short(value: Any) -> float | None:
    """Return a number with few digits; ``None`` for other values, and for NaN and infinity.

    >>> short(0.123456), short(math.inf), short(None), short(10**400)
    (0.1235, None, None, None)
    """
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return float(f"{number:.4g}") if math.isfinite(number) else None


BUDGET: Final = 5_000_000
"""The approximate limit of characters for the pictures of all runs."""


def thinned(texts: Sequence[str]) -> list[str]:
    """Return the pictures of several runs with fewer columns, so that the page opens quickly.

    Args:
        texts: the texts from :func:`pictures`.
    """
    stride = math.ceil(sum(map(len, texts)) / BUDGET)
    return list(texts) if stride <= 1 else [_thinned(text, stride) for text in texts]


def _thinned(text: str, stride: int) -> str:
    found = json.loads(text)
    for picture in found.values():
        picture["x"] = picture["x"][::stride]
        for lines in picture["layers"].values():
            lines["z"] = [line[::stride] for line in lines["z"]]
        for layers in picture["spreads"].values():
            for name, lines in layers.items():
                layers[name] = [line[::stride] for line in lines]
    return json.dumps(found, separators=(",", ":"))
