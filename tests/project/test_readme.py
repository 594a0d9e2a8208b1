"""Every code block of the README runs."""

from __future__ import annotations

import pathlib

import pytest
from harness import ROOT
from pages import Block, blocks, check_command, commands

pytestmark = pytest.mark.usefixtures("compiled_quickly")

README = blocks(ROOT / "README.md")
PYTHON = [block for block in README if block.language == "python"]


def test_blocks_are_python_or_shell() -> None:
    assert {block.language for block in README} == {"python", "sh"}
    assert len(PYTHON) >= 6
    assert commands(README)[:2] == ["make study", "make test"]


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_block_runs(
    block: Block, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.chdir(tmp_path)  # for what it writes
    block.run({"__name__": "readme"})


@pytest.mark.parametrize("command", commands(README))
def test_shell_command_exists(command: str) -> None:
    check_command(command)
