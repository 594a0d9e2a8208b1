"""The studies, made once, and drawings that cost little."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from studies.figures import landscape, style
from studies.problems.table import QUICK, load
from studies.study import Study


@pytest.fixture(scope="session")
def study_of() -> Callable[[str], Study]:
    """Return a study by its name."""
    made: dict[str, Study] = {}

    def get(name: str) -> Study:
        if name not in made:
            events = None if name in (*QUICK, "digits_cnn") else 8
            made[name] = load(name, seed=7, events=events)
        return made[name]

    return get


@pytest.fixture(autouse=True, scope="module")
def _compiled_quickly(compiled_quickly: None) -> None:
    """That compiled code rounds once is not the subject of the studies."""


@pytest.fixture(autouse=True)
def cache_of_all_studies(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep events, kernels and what reports have read out of the user's cache, for all tests."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared / "cache of studies"))


@pytest.fixture(autouse=True)
def cheap_drawings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate losses on coarse grids, and draw one format where a test is to be quick."""
    grid = landscape._grid
    monkeypatch.setattr(
        landscape, "_grid", lambda middle, reach, points: grid(middle, reach, min(points, 21))
    )
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(style, "FORMATS", ("png",))
