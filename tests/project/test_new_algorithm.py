"""Adding an algorithm is adding a file: what is missing is named, and the rest is generated."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import new_algorithm
import pytest
from harness import ROOT
from pages import blocks

from optstudy_core import ALGORITHMS

WRITE, PEER = [b.code for b in blocks(ROOT / "CONTRIBUTING.md") if b.language == "python"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_is_missing(name: str) -> None:
    assert not new_algorithm.lacking(name)
    assert not new_algorithm.stale(name), f"run `make algorithm NAME={name}`"


def test_what_is_missing_is_named_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = new_algorithm.lacking("heavy_ball")
    assert text.startswith("optstudy_core/algorithms/heavy_ball.py: ")
    rule = replace(ALGORITHMS["adam"], name="heavy_ball", bibtex=("polyak2064some",))
    rule = replace(rule, dialects={"torch": {}, "optax": {}, "paper": {}})
    monkeypatch.setattr(new_algorithm, "ALGORITHMS", {**ALGORITHMS, "heavy_ball": rule})
    source, *rest = new_algorithm.lacking("heavy_ball")
    assert source.startswith("optstudy_core/references.bib: the entry 'polyak2064some'")
    places = [text.partition(":")[0] for text in rest]
    assert places == ["parity/peers/optax", "parity/peers/papers", "parity/peers/torch_optim"]
    rule = replace(rule, dialects={}, bibtex=())
    monkeypatch.setattr(new_algorithm, "ALGORITHMS", {**ALGORITHMS, "heavy_ball": rule})
    assert ["BIBTEX" in text or "DIALECTS" in text for text in new_algorithm.lacking("heavy_ball")]
    assert new_algorithm.stale("heavy_ball") == ["docs/conformance.md", "README.md"]


def test_the_command_says_what_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert new_algorithm.main(["heavy_ball"]) == 1
    assert "- optstudy_core/algorithms/heavy_ball.py" in capsys.readouterr().out


@pytest.mark.slow
def test_the_example_of_the_guide_becomes_an_algorithm(tmp_path: Path) -> None:
    """In a copy of the project, with what the guide says and nothing else."""
    for name in ("optstudy_core", "optstudy_torch", "optstudy_jax", "parity", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "CHANGELOG.md", "pyproject.toml", "docs/conformance.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    paths = [str(tmp_path), str(tmp_path / "tests" / "support")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    (tmp_path / "optstudy_core" / "algorithms" / "heavy_ball.py").write_text(WRITE)
    done = run("new_algorithm", "heavy_ball")
    assert "- parity/peers/papers: " in done.stdout, done.stderr
    assert done.returncode == 1
    peers = tmp_path / "parity" / "peers" / "papers" / "gradient.py"
    text, entry = peers.read_text(), 'pair("heavy_ball", _heavy_ball, momentum=0.9),'
    peers.write_text(text.replace("PEERS = [", f"{PEER}\n\nPEERS = [\n    {entry}"))
    done = run("new_algorithm", "heavy_ball")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALGORITHMS) + 1} algorithms" in (tmp_path / "README.md").read_text()
    assert "\n| heavy_ball | paper |" in (tmp_path / "docs" / "conformance.md").read_text()
    tests = ["tests/core", "tests/test_every_property.py", "tests/parity/test_conformance.py"]
    done = run("pytest", "-q", "-k", "heavy_ball", "-m", "slow or not slow", *tests)
    assert done.returncode == 0, done.stdout[-3000:]
