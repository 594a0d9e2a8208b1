"""``python -m optstudy_core``: what it prints of every algorithm."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from optstudy_core import ALGORITHMS, WRAPPERS, citation
from optstudy_core.__main__ import explanation, main, state_size, table


def test_the_table_has_every_algorithm() -> None:
    heading, *rows = table().splitlines()
    assert heading.split()[:4] == ["name", "torch", "class", "year"]
    assert [row.split()[0] for row in rows] == sorted(ALGORITHMS) + sorted(WRAPPERS)
    for row in rows[: len(ALGORITHMS)]:
        name, title, year, state, *rest = row.split()
        algorithm = ALGORITHMS[name]
        assert title == algorithm.title
        assert 1900 < int(year) < 2100
        assert int(state) == state_size(algorithm)
        assert re.search(r"[A-Za-z]{3}", " ".join(rest[len(algorithm.dialects) :]))  # a title
        assert len(row) < 150


def test_state_sizes() -> None:
    sizes = {"sgd": 0, "adam": 2, "amsgrad": 3, "lion": 1, "muon": 1, "shampoo": 4, "adafactor": 0}
    assert {name: state_size(ALGORITHMS[name]) for name in sizes} == sizes


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_hyperparameter_is_explained(name: str) -> None:
    text = explanation(ALGORITHMS[name])
    for key, value in ALGORITHMS[name].defaults().items():
        assert re.search(rf"^  {key} = {re.escape(str(value))}: \S", text, re.MULTILINE), key
    for dialect in ALGORITHMS[name].dialects:
        assert re.search(rf"^  {dialect}: \S", text, re.MULTILINE)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert table() in capsys.readouterr().out
    assert main(["cite", "adam", "lion"]) == 0
    assert re.findall(r"^@\w+\{(\w+),", capsys.readouterr().out, re.MULTILINE) == [
        "kingma2015adam",
        "chen2023symbolic",
    ]
    assert main(["explain", "nadam"]) == 0
    assert "0.96" in capsys.readouterr().out


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_is_explained_and_cited(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrapped = WRAPPERS[name](ALGORITHMS["sgd"])
    assert main(["explain", name]) == 0
    text = capsys.readouterr().out
    assert all(
        f"``{key}``" in text
        for key in wrapped.defaults().keys() - ALGORITHMS["sgd"].defaults().keys()
    )
    assert f"(`{wrapped.bibtex[0]}`)" in text
    assert ">>>" not in text
    assert main(["cite", name]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE) == [wrapped.bibtex[0]]
    assert f"optstudy_core/wrappers/{name}.py".replace("_", r"\_") in text
    with pytest.raises(ValueError, match=f"'{wrapped.name}' has no file in optstudy_core"):
        citation(wrapped, implementation=True)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "adamm"]) == 2
    assert "did you mean 'adam'" in capsys.readouterr().err


def test_whoever_has_read_enough_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "optstudy_core", "explain", *ALGORITHMS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("# ")
        process.stdout.close()
        assert process.stderr.read() == ""
