"""A training that moves from library to library stays near one that stays."""

from __future__ import annotations

import pathlib
from dataclasses import replace
from typing import Any

import pytest

from studies.__main__ import main
from studies.comparisons.journey import Travel, travelled
from studies.learners.optimizer import Optimizer
from studies.pairs import LEGS
from studies.problems.table import load
from studies.study import Dropout

pytest.importorskip("torch")
pytest.importorskip("flax")
pytest.importorskip("sklearn")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_it_stays_near(dtype: str) -> None:
    # With other seeds a unit of the network may be on another side of zero, as two twins may be.
    study = load("digits", 2021)
    found = travelled(study, Optimizer.of(study, "adam", None, None), 25, dtype)
    assert found.epochs == 25
    assert not any(found.moved[: 25 // len(LEGS)])
    if dtype == "float64":
        assert max(found.moved) < 1e-10
    else:
        assert all(x <= 2 * y for x, y in zip(found.moved, found.twin, strict=True))


def test_what_cannot_travel(study_of: Any, tmp_path: pathlib.Path) -> None:
    study = study_of("linear_regression")
    with pytest.raises(ValueError, match="algorithm = 'lion': "):
        Travel(study, Optimizer.of(study, "lion", None, None), 5, tmp_path)
    with pytest.raises(ValueError, match="epochs = 4: allowed are whole numbers >= 5"):
        Travel(study, Optimizer.of(study, "adam", None, None), 4, tmp_path)
    study = replace(study, dropout=(Dropout((32,), 0.5),))
    with pytest.raises(ValueError, match="allowed are studies without dropout"):
        Travel(study, Optimizer.of(study, "adam", None, None), 5, tmp_path)


def test_the_command(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["travel", "linear_regression", "--epochs", "5", "--out", str(tmp_path)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "float64: after 5 epochs, the relative distance" in text
    assert (tmp_path / "linear_regression" / "adam" / "journey.png").stat().st_size > 10_000
