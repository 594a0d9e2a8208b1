"""Programs on several processes: they decide alike, one writes, and any number goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest
import torch
from harness import slow
from meshes import in_turn, on_processes, worker

from optstudy_core.records import Run
from optstudy_torch import AdamW, checkpoint


def test_all_processes_decide_alike(tmp_path: Path) -> None:
    on_processes(worker(in_turn, *programs.DECISIONS), 2, tmp_path)


def test_the_first_process_writes_and_each_draws_its_own(tmp_path: Path) -> None:
    every = [worker(function, tmp_path) for function in programs.RECORDS]
    on_processes(worker(in_turn, *every), 2, tmp_path)


OPTIMIZERS = [AdamW, torch.optim.AdamW]


def ends(folder: Path, optimizer_of: Any) -> tuple[list[Any], dict[str, Any]]:
    run = Run.read(folder / optimizer_of.__module__)
    found = run.last_checkpoint()
    assert found is not None
    return [*run.epochs, *run.step_rows], dict(found.arrays)


def check(folder: Path, wanted: Path, optimizers: list[Any] = OPTIMIZERS) -> None:
    for optimizer_of in optimizers:
        rows, arrays = ends(folder, optimizer_of)
        others, theirs = ends(wanted, optimizer_of)
        assert len(rows) == 4 + 12
        assert str(rows) == str(others)  # NaN is NaN
        for name in theirs:
            np.testing.assert_array_equal(arrays[name], theirs[name], err_msg=name)


@pytest.mark.parametrize("one", [AdamW, slow(torch.optim.AdamW)], ids=lambda one: one.__module__)
def test_a_run_goes_on_with_another_number_of_processes(one: Any, tmp_path: Path) -> None:
    programs.runs("alone", tmp_path / "whole", 4, [one])
    parts = [
        worker(programs.runs, way, tmp_path / way, epochs, [one])
        for way in ("DDP", "FSDP2")
        for epochs in (1, 3)  # resumed on the same number, too
    ]
    on_processes(worker(in_turn, *parts), 2, tmp_path)
    for way in ("DDP", "FSDP2"):
        programs.runs("alone", tmp_path / way, 4, [one])
        check(tmp_path / way, tmp_path / "whole", [one])


@pytest.mark.parametrize("alike", [True, False])
def test_a_process_that_the_checkpoint_has_none_of(
    alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the random state that all the others had, or keeps its own."""

    def state(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        return checkpoint.state(own=[torch.Generator().manual_seed(seed)])

    first, second = state(1), state(1 if alike else 2)
    own = [torch.Generator().manual_seed(3)]
    torch.manual_seed(3)
    monkeypatch.setattr(checkpoint, "several", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    monkeypatch.setattr(checkpoint, "state", lambda **_: first)  # needs the other processes
    checkpoint.restore(first | {"of each process": [first, second]}, own=own)
    wanted = torch.Generator().manual_seed(1 if alike else 3)
    assert torch.equal(own[0].get_state(), wanted.get_state())
    assert torch.equal(torch.get_rng_state(), wanted.get_state())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["DDP", "FSDP2"])
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 2), (2, 4)])
def test_runs_go_on_with_more_and_fewer(way: str, before: int, after: int, tmp_path: Path) -> None:
    programs.runs("alone", tmp_path / "whole", 4, OPTIMIZERS)
    on_processes(worker(programs.runs, way, tmp_path / way, 2, OPTIMIZERS), before, tmp_path)
    on_processes(worker(programs.runs, way, tmp_path / way, 4, OPTIMIZERS), after, tmp_path)
    check(tmp_path / way, tmp_path / "whole")
