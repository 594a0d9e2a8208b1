"""``python -m optstudy_core state``: what it shows of files, of which nothing is run."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
import torch
from damage import damaged
from travelling import N, torch_run

import optstudy_jax
import optstudy_torch
from optstudy_core.__main__ import main
from optstudy_core.travel.shown import shown


def test_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.safetensors"
    model, optimizer = torch_run(optstudy_torch.AdamW, lr=0.25)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    sample = torch.randn(2, N, 4, 4)
    optstudy_torch.export_run(file, model, optimizer, scheduler, sample=sample)
    assert main(["state", str(file)]) == 0
    text = capsys.readouterr().out
    for line in [
        "steps: 2",
        "scheduler: StepLR at 0",
        "group 0: adamw, dialect torch",
        "  conv.weight: float32 3×3×3×3; state m 3×3×3×3, v 3×3×3×3, t 2",
        "  norm.running_mean: float32 3",
        "  norm: norm, type = BatchNorm, epsilon = 1e-05, momentum of running statistics = 0.1, "
        "running variance over = n − 1",
        "  drop: dropout, rate = 0.2",
        "sample: input 2×3×4×4, output 2×3",
    ]:
        assert line in text.splitlines(), line
    assert "lr = 0.25" in text
    tx = optstudy_jax.sgd(1e-2)
    params = {"kernel": jnp.ones((2, 3))}
    optstudy_jax.export_run(file, params, tx, tx.init(params))
    assert "  kernel: float32 3×2; state t 0" in shown(file).splitlines()


def saved(file: Path) -> Any:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(content, file)
    return content


def test_a_checkpoint_of_torch(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    content = saved(file)
    lines = shown(file).splitlines()
    assert "  0.weight: float32 2×3" in lines
    assert "  1.num_batches_tracked: 1 (int64)" in lines
    assert "epoch: 3" in lines
    assert any("fields as of torch.optim.Muon, torch.optim.SGD" in line for line in lines)
    assert any(line.startswith("  group 0: 4 parameters; lr = 0.5,") for line in lines)
    assert "  parameter 0: momentum_buffer float32 2×3" in lines
    torch.save(content["optimizer"], file)
    assert "  parameter 3: momentum_buffer float32 2" in shown(file).splitlines()
    model = torch.nn.Linear(1, 1)
    optimizer = optstudy_torch.AdamW(model.parameters())
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), file)
    assert "state of an optimizer of optstudy_torch: adamw" in shown(file).splitlines()


class Trap:
    """An object whose pickle runs a command."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._file}",)


def test_nothing_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trap = tmp_path / "trap"
    file = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 1, "bad": Trap(trap)}, file)
    assert "bad: an object of posix.system" in shown(file)
    bare = tmp_path / "bare.pkl"
    bare.write_bytes(pickle.dumps(Trap(trap)))
    assert main(["state", str(bare)]) == 2
    assert "cannot be shown without running its code" in capsys.readouterr().err
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 1000)
    assert main(["state", str(file)]) == 2
    assert f"{file}: cannot be shown" in capsys.readouterr().err
    assert not trap.exists()
    assert main(["state", str(tmp_path / "none")]) == 2
    assert "is no file" in capsys.readouterr().err


def test_damaged_checkpoints(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    saved(file)
    draw = random.Random(0)
    with zipfile.ZipFile(file) as archive:
        whole = {x.filename: archive.read(x) for x in archive.infolist()}
    (name,) = (x for x in whole if x.endswith("data.pkl"))
    for _ in range(100):
        with zipfile.ZipFile(file, "w") as archive:
            for entry, content in whole.items():
                archive.writestr(entry, damaged(content, draw)[1] if entry == name else content)
        try:
            assert shown(file)
        except ValueError as error:
            refused = str(error)
        else:
            continue
        assert refused.startswith(f"{file}: cannot be shown without running its code")
