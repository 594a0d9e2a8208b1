"""The table of what was run where, which test runs write."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import status
from harness import ROOT


def test_the_page_is_written_from_the_file() -> None:
    rows = json.loads(status.FILE.read_text(encoding="utf-8"))
    assert status.FILE.with_suffix(".md").read_text(encoding="utf-8") == status.table(rows)
    assert all(tuple(row) == status.HEADINGS for row in rows)


def test_a_row_takes_the_place_of_the_same_tests_in_the_same_surroundings(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    first, second = (status.row("quick", {"passed": n, "failed": 0}) for n in (7, 8))
    for row in (first, first | {"torch": "none"}, first | {"tests": "all"}, second):
        status.add(row, file)
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert sorted((x["tests"], x["torch"], x["passed"]) for x in rows) == [
        ("all", first["torch"], 7),
        ("quick", first["torch"], 8),
        ("quick", "none", 7),
    ]
    assert file.with_suffix(".md").read_text(encoding="utf-8").count("\n") == 5


def session(stats: Any, *, chosen: bool = True, **more: Any) -> Any:
    """Return what pytest gives at the end of a session."""
    manager = SimpleNamespace(get_plugin=lambda name: SimpleNamespace(stats=stats))
    options = SimpleNamespace(markexpr="not slow")
    config = SimpleNamespace(pluginmanager=manager, option=options, args=["tests/core"], **more)
    config.getoption = lambda name: chosen
    return SimpleNamespace(config=config)


def test_a_session_writes_what_it_ran(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = str(ROOT / "tests" / "conftest.py")
    plugins = pytestconfig.pluginmanager.get_plugins()
    (hooks,) = (x for x in plugins if getattr(x, "__file__", "") == own)
    rows: list[status.Row] = []
    monkeypatch.setattr(status, "add", rows.append)
    monkeypatch.setenv("SHARD", "1/6")
    stats = {"passed": [1, 2], "failed": [3], "error": [4], "skipped": [5], "deselected": [6]}
    hooks.pytest_sessionfinish(session(stats, chosen=False))
    hooks.pytest_sessionfinish(session(stats, workerinput={}))  # of several
    assert not rows
    hooks.pytest_sessionfinish(session(stats))
    (row,) = rows
    assert row["tests"] == "quick of tests/core, part 1/6"
    assert (row["passed"], row["failed"], row["skipped"]) == (2, 2, 1)


def test_surroundings_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = status.surroundings()
    assert tuple(found) == status.SURROUNDINGS
    assert all(isinstance(x, str) and x for x in found.values())
    (tmp_path / "cpuinfo").write_text("flags : x\nmodel name\t: A processor\n", encoding="utf-8")
    assert status._processor(tmp_path / "cpuinfo") == "A processor"
    monkeypatch.setattr(status, "PACKAGES", ("no-such-package",))
    assert status.surroundings()["no-such-package"] == "none"


def test_a_commit_says_whether_the_source_is_changed(tmp_path: Path) -> None:
    assert status.commit(tmp_path) == "unknown"
    given = ["-c", "user.name=x", "-c", "user.email=x@localhost"]

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "docs").mkdir()
    for name in ("file", "docs/status.json"):
        (tmp_path / name).write_text("1", encoding="utf-8")
    git("add", ".")
    git(*given, "commit", "-m", "one")
    clean = status.commit(tmp_path)
    assert len(clean) == 10
    (tmp_path / "docs/status.json").write_text("2", encoding="utf-8")
    assert status.commit(tmp_path) == clean
    (tmp_path / "file").write_text("2", encoding="utf-8")
    assert status.commit(tmp_path) == f"{clean} and changes"
