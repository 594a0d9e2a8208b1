"""Our classes in trainers of others, which `make test-trainers` installs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness import ROOT
from pages import Block, blocks

pytestmark = pytest.mark.filterwarnings("default")  # of those packages' own

BLOCKS = [b for b in blocks(ROOT / "docs" / "howto.md") if b.how == "needs"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """With one thread, and the random state as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("block", [pytest.param(b, id=f"{b.of_what}-{b.line}") for b in BLOCKS])
def test_blocks_of_the_page_run(block: Block) -> None:
    pytest.importorskip(block.of_what)
    block.run({"__name__": "guide"})
