"""Find and read the runs of a report, and convert them to the data of the page."""

from __future__ import annotations

import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from optstudy_core.records import Run as Folder
from studies import figures, records

from .pictures import pictures, short

DIGITS: Final = 5
"""Significant digits of drawn values."""
_HIDDEN: Final = frozenset({"out", "overwrite", "parameters", "hyperparameters", "platform"})


@dataclass(frozen=True)
class Problem:
    """A folder or file that could not be read.

    Attributes:
        place: the folder.
        what: the expected and the actual content.
    """

    place: str
    what: str


def find(folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Return the folders of all runs in some folders, at any depth, each once.

    Raises:
        FileNotFoundError: if a folder does not exist or has no run.
        NotADirectoryError: if a folder is a file.
    """
    found: dict[pathlib.Path, None] = {}
    for folder in folders:
        if not folder.exists():
            raise FileNotFoundError(f"folder = {str(folder)!r}: does not exist")
        if not folder.is_dir():
            raise NotADirectoryError(f"folder = {str(folder)!r}: is a file; allowed are folders")
        below = [folder, *sorted((x for x in folder.rglob("*") if x.is_dir()), key=_in_order)]
        here = [part for part in below if Folder.is_run(part)]
        if not here:
            raise FileNotFoundError(
                f"folder = {str(folder)!r}: holds no run; expected is a file records.sqlite in it "
                "or below it"
            )
        found |= dict.fromkeys(here)
    return list(found)


def _in_order(folder: pathlib.Path) -> list[tuple[bool, float | str]]:
    """Return a key that sorts numbers in names by size: ``seed2`` is before ``seed10``."""
    words = re.split(r"([0-9]+(?:\.[0-9]+)?)", str(folder))
    return [(i % 2 == 1, float(word) if i % 2 else word) for i, word in enumerate(words)]


def read(folders: Iterable[pathlib.Path]) -> tuple[list[records.Run], list[Problem]]:
    """Return the runs of some folders, and the problems of reading them."""
    runs, problems = [], []
    for folder in folders:
        try:
            run = records.read(folder)
        except (OSError, ValueError, KeyError) as error:
            problems.append(Problem(str(folder), str(error)))
            continue
        if not run.rows:
            problems.append(Problem(str(folder), "the run has no epoch yet"))
            continue
        if run.is_unfinished:
            problems.append(Problem(str(folder), f"the run ended after {len(run.rows)} epochs"))
        runs.append(run)
    return runs, problems


def describe(runs: Sequence[records.Run]) -> list[dict[str, Any]]:
    """Return the data of each run for the page, as JSON values."""
    return with_names(runs, map(entry_of, runs))


def with_names(
    runs: Sequence[Labelled], entries: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the data of runs with their names."""
    found = zip(labels(runs), families(runs), entries, strict=True)
    return [{"label": label, "family": family, **entry} for label, family, entry in found]


class Labelled(Protocol):
    """The attributes of a run that its label needs."""

    @property
    def config(self) -> dict[str, Any]: ...

    @property
    def folder(self) -> pathlib.Path: ...


def labels(runs: Sequence[Labelled]) -> list[str]:
    """Return a name for each run, with the settings that distinguish it from other runs."""
    names = _names(runs)
    # Runs with the same name get the folder in the name.
    return [
        f"{name} · {run.folder}" if names.count(name) > 1 else name
        for name, run in zip(names, runs, strict=True)
    ]


def families(runs: Sequence[Labelled]) -> list[str]:
    """Return a name for each run that does not tell seeds apart."""
    return _names(runs, _HIDDEN | {"seed"})


def _names(runs: Sequence[Labelled], hidden: frozenset[str] = _HIDDEN) -> list[str]:
    own = dict.fromkeys(key for run in runs if _is_own(run) for key in run.config)
    keys = {True: list(dict.fromkeys((*_KEYS, *own))), False: list(_KEYS)}
    differing = {
        kind: {key for key in keys[kind] if _differs(key, [r for r in runs if _is_own(r) == kind])}
        for kind in keys
    }
    names = []
    for run in runs:
        kind = _is_own(run)
        words = [
            _word(key, run.config[key], kind)
            for key in keys[kind]
            if (key in differing[kind] or key in _ALWAYS)
            and isinstance(run.config.get(key), str | int | float)
            and key not in hidden
        ]
        names.append(" · ".join(words[:_MOST]) or run.folder.name)
    return names


def _is_own(run: Labelled) -> bool:
    return "study" not in run.config


def _differs(key: str, runs: Sequence[Labelled]) -> bool:
    return len({json.dumps(run.config.get(key)) for run in runs}) > 1


_KEYS: Final = ("study", "algorithm", "method", "dialect", "lr", "backend", "seed")
_ALWAYS: Final = frozenset({"algorithm", "backend"})
_MOST: Final = 6
"""The largest number of configuration entries in a name."""


def _word(key: str, value: Any, own: bool) -> str:
    """Return the text of a configuration entry in a name; ``lr`` and own entries have the key."""
    if key == "backend":
        return figures.FRAMEWORKS.get(value, str(value))
    if key not in _KEYS[:4]:
        return f"{key} {value}"
    return str(value) if own else str(value).replace("_", " ")


def entry_of(run: records.Run) -> dict[str, Any]:
    """Return the data of a run for the page, without the label; JSON values."""
    config = {k: v for k, v in run.config.items() if k not in _HIDDEN and k != "versions"}
    versions = run.config.get("versions", {})
    versions = versions if isinstance(versions, dict) else {}
    own = _is_own(run)
    rate = None if own else run.config.get("lr")  # the rate of own runs may follow a schedule
    factor = column(run, "method/lr_factor", 1.0)
    columns = {name: column(run, name) for name in ("loss", "step_size", "angle")}
    seconds = column(run, "seconds")
    columns["rate"] = column(run, "lr")  # from a recorder
    if np.isnan(columns["rate"]).all() and isinstance(rate, int | float) and abs(rate) < 2**1023:
        # A factor applies from the end of its epoch on.
        columns["rate"] = rate * np.concatenate([[1.0], factor[:-1]])
    entries = [(name, value) for row in run.rows for name, value in row.items()]
    metrics = dict.fromkeys(name for name, value in entries if _is_metric(name, value))
    columns |= {f"metric:{name}": column(run, name) for name in metrics}
    steps = run.step_rows
    backend = _text(run.config.get("backend", ""))
    # Runs without a framework are of the user: two of them are the same training only by chance.
    kind = {k: v for k, v in config.items() if k != "backend"}
    kind |= {} if backend else {"folder": str(run.folder)}
    of_seeds = {k: v for k, v in kind.items() if k not in ("seed", "folder")}
    return {
        "kind": json.dumps(kind, sort_keys=True),
        "seedless": json.dumps(of_seeds if "seed" in kind else kind, sort_keys=True),
        "folder": str(run.folder),
        "study": _text(run.config.get("study", OWN)),
        "backend": backend,
        "config": records.encode({key: _plain(value) for key, value in config.items()}),
        "versions": versions,
        "epoch": run.column("epoch").astype(int).tolist(),
        "evaluations": [] if own else numbers(_evaluations(run)),
        "seconds": numbers(np.cumsum(seconds)) if np.isfinite(seconds).all() else [],
        "columns": {n: numbers(v) for n, v in columns.items() if np.isfinite(v).any()},
        "pictures": pictures(run.rows, steps),
        "alerts": _alerts("epoch", run.rows) + _alerts("step", steps),
        "undone": (np.flatnonzero(column(run, "method/undone") > 0) + 1).tolist(),
        "final_loss": number(_last(columns["loss"]) if run.loss is None else run.loss),
        "ended": not run.is_unfinished,
    }


OWN: Final = "own runs"
"""The study name for runs without one, from training loops of the user."""


MOST_ALERTS: Final = 100
"""The largest number of alerts on a page, for the epochs and for the steps of a run."""


def _alerts(word: str, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        listed = row.get("alerts")
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict):
                text, layer = _text(entry.get("alert", "")), _text(entry.get("layer", ""))
                at = f"{word} {row.get(word)}"
                value = short(entry.get("value"))
                found.append({"at": at, "alert": text, "layer": layer, "value": value})
    return found[:MOST_ALERTS]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plain(value: Any) -> Any:
    """Return a configuration entry for a cell of the table: a number, a text or ``None``."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


def _last(values: np.ndarray) -> float:
    return float(values[-1])


def column(run: records.Run, name: str, otherwise: float = math.nan) -> np.ndarray:
    """Return a measurement over the epochs; ``otherwise`` where a run does not have it."""
    try:
        return run.column(name)
    except ValueError:
        return np.full(len(run.rows), otherwise)


def _evaluations(run: records.Run) -> np.ndarray:
    return figures.evaluations(run) if "method" in run.rows[0] else run.column("epoch")


def _is_metric(name: str, value: Any) -> bool:
    return name not in figures.ROW and isinstance(value, int | float) and name != "lr"


def verdicts(folders: Iterable[pathlib.Path]) -> list[dict[str, Any]]:
    """Return where the two frameworks diverge, for all comparisons beside the runs."""
    found = {folder.parent / "twins.json": None for folder in folders}
    result = []
    for file in found:
        if not file.is_file():
            continue
        try:
            pair = json.loads(file.read_text(encoding="utf-8"))
            epochs = pair["epochs"]
            result.append(
                {
                    "study": pair["study"],
                    "title": f"{pair['study']}, {figures.title(pair['algorithm'])}",
                    "conclusion": pair["conclusion"],
                    "identical": all(e["optimizer"]["differing"] == 0 for e in epochs),
                    "epoch": [e["epoch"] for e in epochs],
                    "distance": [e["distance"] for e in epochs],
                    "ulp": [e["optimizer"]["ulp"] for e in epochs],
                }
            )
        except (ValueError, KeyError, TypeError):
            continue  # another version: show only the runs
    return result


def number(value: float | None) -> float | None:
    """Return a number for the page; ``None`` if it is not finite.

    >>> number(1.23456789), number(math.inf)
    (1.2346, None)
    """
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def numbers(values: Any) -> list[Any]:
    """Return an array of numbers for the page, as nested lists."""
    return [
        numbers(value) if isinstance(value, list) else number(value)
        for value in np.asarray(values, np.float64).tolist()
    ]
