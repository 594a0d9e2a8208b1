"""``python -m benchmarks.gpu`` without a card: stages, and whose figures a page has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import page, speed


@pytest.fixture
def before() -> Any:
    return json.loads((ROOT / "docs" / "gpu.json").read_text())


@pytest.mark.parametrize("stage", gpu.STAGES)
def test_a_stage_asks_for_a_card(stage: str, monkeypatch: Any, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "_has_card", lambda: False)
    assert gpu.main(["--stage", stage, "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "there is no CUDA device" in said
    assert all(part in said for part in gpu.STAGES[stage])


def test_a_stage_replaces_its_own_figures_and_dates_them(
    before: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    about = before["about"] | {"date": "2027-01-02", "commit": "0123456789"}
    product = {
        "size": 512,
        "float64 ms": 0.2,
        "float32 ms": 0.1,
        "same bits": True,
        "int8 ms": 0.15,
    }
    new = {"sums": before["sums"][:1], "products": [product | {"float32 ms": 0.1, "used": True}]}
    new |= {k: before[k] for k in ("speed-torch", "speed-jax")}
    ran: list[str] = []

    def run(runner: Any, name: str, options: Any, seconds: float) -> None:
        ran.append(name)
        assert seconds == 240
        (runner.folder / f"{name}.log").touch()
        (runner.folder / f"{name}.json").write_text(json.dumps(({"about": about} | new)[name]))

    monkeypatch.setattr(gpu, "_has_card", lambda: True)
    monkeypatch.setattr(gpu.Runner, "part", run)
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "gpu.json").write_text(json.dumps(before))
    arguments = ["--stage", "speed", "--out", str(tmp_path / "out"), "--docs", str(docs)]
    assert gpu.main(arguments) == 0
    assert {*ran} == {*gpu.STAGES["speed"]}
    found = json.loads((docs / "gpu.json").read_text())
    assert found["sums"] == new["sums"]
    assert found["parity-adam"] == before["parity-adam"]
    text = (docs / "gpu.md").read_text()
    assert "| Exact sums | 2027-01-02 | 0123456789 |" in text
    assert "| 512 | identical | 0.2 | 0.15 | 0.1 | yes |" in text
    assert f"| Parity | {before['about']['date']} |" in text


def test_a_stage_goes_on_where_it_was_stopped(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "sums.json").write_text("[1]")
    assert gpu.Runner(tmp_path, 1.0).run("sums", ["no_such_module"], 1.0) == 0.0
    assert "done before" in capsys.readouterr().out
    assert not (tmp_path / "sums.log").exists()


def test_the_page_is_made_of_its_figures(before: Any) -> None:
    text = page.page(before, (ROOT / "docs" / "gpu_notes.md").read_text().strip())
    assert text == (ROOT / "docs" / "gpu.md").read_text()


def test_every_algorithm_has_its_tensors() -> None:
    cases = [*speed.cases([*speed.NAMES], [*speed.SHAPES])]
    assert {name for name, *_ in cases} == {*speed.NAMES}
    assert ("muon", "4096 × 4096", [(4096, 4096)]) in cases
    assert not [x for x in cases if x[0] == "muon" and x[1] == "1e9"]
