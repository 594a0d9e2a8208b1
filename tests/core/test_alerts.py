"""Alerts: when they go off, and who is told."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest

from optstudy_core.instruments import Alert, Alerts
from optstudy_core.records import Output, Run


def fired(alert: Alert, rows: list[dict[str, Any]]) -> list[Any]:
    """The number of each row in which it goes off, with the layers."""
    alerts = Alerts([alert])
    made = [alerts.look(row) for row in rows]
    return [
        (row.get("step", row["epoch"]), *(entry["layer"] for entry in row["alerts"]))
        for row in made
        if "alerts" in row
    ]


def epochs(name: str, *values: Any) -> list[dict[str, Any]]:
    return [{"epoch": n, name: value} for n, value in enumerate(values, 1)]


def test_three_in_a_row_and_again_after_a_pause() -> None:
    angles = (math.nan, 91, 92, 89, 95, 95, 95, 95, 10, 91, 91, 91)
    assert fired(Alert("angle", above=90, rows=3), epochs("angle", *angles)) == [(7, ""), (12, "")]


def test_below_and_not_finite() -> None:
    rows = epochs("loss", 1.0, 0.5, math.nan, math.nan, 1.0, math.inf)
    assert fired(Alert("loss", below=0.75), rows) == [(2, "")]
    assert fired(Alert("loss", nonfinite=True), rows) == [(3, ""), (6, "")]
    assert fired(Alert("loss", above=5.0), rows) == [(6, "")]


def test_layers_and_steps_and_paths() -> None:
    rows: list[dict[str, Any]] = [
        {"epoch": 1, "step": n, "layers": {"a.weight": {"g": n}, "b.weight": {"g": 2 * n}}}
        for n in (1, 2, 3, 4)
    ]
    alert = Alert("g", above=3, layers="*.weight", of="steps")
    assert fired(alert, rows) == [(2, "b.weight"), (4, "a.weight")]
    assert fired(Alert("g", above=3, layers=["a*", "c*"], of="steps"), rows) == [(4, "a.weight")]
    assert fired(Alert("g", above=3, layers="*.weight"), rows) == []  # of epochs
    deep = epochs("q", {"100": 5.0}, {"50": 1.0}, "a word")
    assert fired(Alert("q/100", above=3), deep) == [(1, "")]
    acts = [{"epoch": 1, "step": 1, "activations": {"relu": {"act_zeros": 1.0}}}]
    dead = Alert("act_zeros", above=0.99, layers="*", of="steps")
    assert fired(dead, acts) == [(1, "relu")]


def test_who_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[Any] = []

    def call(text: str, row: dict[str, Any]) -> None:
        assert Run.read(tmp_path).epochs[-1]["alerts"] == row["alerts"]
        told.append(text)

    handler = logging.StreamHandler()
    logger = logging.getLogger("optstudy_core.instruments.alerts")
    logger.addHandler(handler)
    alerts = Alerts([Alert("update_ratio", above=0.1, call=call, layers="*")])
    output = Output(tmp_path, [], {}, alerts=alerts, writes=True)
    output.epoch({"epoch": 1, "layers": {"w": {"update_ratio": 0.25}}})
    output.epoch({"epoch": 2, "layers": {"w": {"update_ratio": 0.05}}})
    output.close()
    logger.removeHandler(handler)
    assert told == ["epoch 1: update_ratio above 0.1, w (0.25)"]
    assert capsys.readouterr().err == told[0] + "\n"
    entry = {"alert": "update_ratio above 0.1", "layer": "w", "value": 0.25}
    assert [row.get("alerts") for row in Run.read(tmp_path).epochs] == [[entry], None]


def test_a_resumed_recorder_counts_on() -> None:
    def output() -> Output:
        return Output(None, [], {}, alerts=Alerts([Alert("angle", above=90, rows=3)]), writes=True)

    whole, first, second = output(), output(), output()
    rows = epochs("angle", 91, 91, 91)
    for row in rows:
        whole.epoch(row)
    for row in rows[:2]:
        first.epoch(row)
    second.load(first.saved())
    second.epoch(rows[2])
    assert "alerts" in second.epochs[-1]
    assert second.epochs == whole.epochs


def test_refused() -> None:
    with pytest.raises(ValueError, match="needs one of above, below and nonfinite"):
        Alert("loss")
    with pytest.raises(TypeError, match="above = '9': allowed are numbers and None"):
        Alert("loss", above="9")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rows = 0: allowed are whole numbers from 1"):
        Alert("loss", above=1, rows=0)
    with pytest.raises(ValueError, match="of = 'epoch': allowed are 'epochs' and 'steps'"):
        Alert("loss", above=1, of="epoch")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="call = 3: allowed are callables and None"):
        Alert("loss", above=1, call=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="alerts with 'loss': allowed are instances of Alert"):
        Alerts(["loss"])  # type: ignore[list-item]
