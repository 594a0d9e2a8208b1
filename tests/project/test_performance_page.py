"""``python -m benchmarks.report``: the page follows from results that can be renewed in part."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from harness import ROOT

from benchmarks import __main__ as benchmarks
from benchmarks import report

DOCS = ROOT / "docs"


@pytest.fixture
def found() -> Any:
    return json.loads((DOCS / "performance.json").read_text())


def test_the_page_is_made_of_its_results(found: Any) -> None:
    notes = (DOCS / "performance_notes.md").read_text().strip()
    assert (DOCS / "performance.md").read_text() == report.page(found, notes)


def test_rows_of_some_algorithms_are_renewed(found: Any, monkeypatch: Any) -> None:
    own = [row | {"ratio": 7.0} for row in found["rows"] if row["algorithm"] == "lion"]
    monkeypatch.setattr(benchmarks, "about", lambda: found["about"])
    monkeypatch.setattr(benchmarks, "speed", lambda rounds, names: own)
    new = report.renewed(found, ["lion"], 5)
    for old, row in zip(found["rows"], new["rows"], strict=True):
        assert row == (old | {"ratio": 7.0} if old["algorithm"] == "lion" else old)


def test_results_of_another_machine_are_not_mixed(found: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(benchmarks, "about", lambda: found["about"] | {"machine": "another"})
    with pytest.raises(ValueError, match="measure all algorithms again"):
        report.renewed(found, ["lion"], 5)


def test_an_unknown_algorithm_is_answered_before_anything_is_measured(
    monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "--algorithms", "lion;lionn"])
    with pytest.raises(SystemExit):
        report.main()
    assert "algorithms = 'lionn': allowed are sgd, plain; sgd; adam" in capsys.readouterr().err
