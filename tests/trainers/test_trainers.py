"""Our classes in trainers of others, which `make test-trainers` installs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import ROOT
from pages import Block, blocks

pytestmark = [
    pytest.mark.filterwarnings("default"),  # of those packages' own
    pytest.mark.usefixtures("alone"),
]

BLOCKS = [b for b in blocks(ROOT / "docs" / "trainers.md") if b.how == "needs"]
RECORDED = [b for b in blocks(ROOT / "docs" / "recording.md") if b.how == "needs"]


@pytest.mark.parametrize(
    "block", [pytest.param(b, id=f"{b.of_what}-{b.line}") for b in (*BLOCKS, *RECORDED)]
)
def test_blocks_of_the_page_run(block: Block) -> None:
    pytest.importorskip(block.of_what)
    block.run({"__name__": "guide"})


def on_two(code: str, folder: Path) -> None:
    """Run a program on two processes, as its users do."""
    (folder / "train.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "train.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def alike(*values: str) -> str:
    """Return code after a block: what all processes must have the same."""
    return f"""
import torch.distributed as dist

assert dist.get_world_size() == 2
for value in ({", ".join(values)},):
    every = [None, None]
    dist.all_gather_object(every, value)
    assert every[0] == every[1], every
"""


CAREFUL = ("careful.get_last_lr()", "careful.state_dict()['reference']")
SAME = {
    "lightning": (*CAREFUL, "net.layer.weight.tolist()"),
    "accelerate": (*CAREFUL, "list(model.parameters())[0].tolist()"),
    "transformers": ("whole.tolist()", "resumed.tolist()"),
}


@pytest.mark.slow
@pytest.mark.parametrize("block", [pytest.param(b, id=b.of_what) for b in BLOCKS])
def test_blocks_of_the_page_run_on_two_processes(block: Block, tmp_path: Path) -> None:
    """Each process sees other data, and all decide alike."""
    pytest.importorskip(block.of_what)
    code = block.code.replace("checkpoint-12", "checkpoint-6")  # an epoch has half as many steps
    on_two(code + alike(*SAME[block.of_what]), tmp_path)


NET = """
import lightning
import optstudy_torch
import torch
from optstudy_torch.lr_scheduler import CarefulLR


class Net(lightning.LightningModule):
    def __init__(self, name="adamw"):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
        self.name = name

    def training_step(self, batch, _):
        loss = torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True, on_step=False, sync_dist=True)
        return loss

    def configure_optimizers(self):
        optimizer = optstudy_torch.from_core(self.name)(self.parameters(), lr=1e-2)
        schedule = CarefulLR(optimizer, tau=0.0, average=False)
        plateau = {"scheduler": schedule, "monitor": "loss", "reduce_on_plateau": True}
        return [optimizer], [plateau]


def fit(net, epochs, path=None, **more):
    torch.manual_seed(1)
    data = torch.utils.data.TensorDataset(torch.randn(32, 4), torch.randn(32, 1))
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", **quiet, **more)
    trainer.fit(net, torch.utils.data.DataLoader(data, batch_size=8), ckpt_path=path)
    return trainer
"""


def test_lightning_goes_on_from_a_checkpoint() -> None:
    pytest.importorskip("lightning")
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    Net, fit = namespace["Net"], namespace["fit"]  # noqa: N806
    torch.manual_seed(0)
    whole = Net()
    resumed = Net()
    resumed.load_state_dict(whole.state_dict())
    wanted = fit(whole, 6, enable_checkpointing=False)
    fit(resumed, 3).save_checkpoint("half.ckpt")
    found = fit(Net(), 6, "half.ckpt", enable_checkpointing=False)
    pairs = zip(whole.parameters(), found.lightning_module.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    states = [t.lr_scheduler_configs[0].scheduler.state_dict() for t in (wanted, found)]
    assert repr(states[0]) == repr(states[1])
    assert states[0]["last_epoch"] == 6


@pytest.mark.slow
def test_lightning_with_sharded_parameters(tmp_path: Path) -> None:
    """``ModelParallelStrategy``: FSDP2, for a rule with sums and one of matrices."""
    pytest.importorskip("lightning")
    code = """
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard


class Sharded(Net):
    def configure_model(self):
        for layer in self.layers:
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])


for name in ("lamb", "shampoo"):
    torch.manual_seed(0)
    net = Sharded(name)
    trainer = fit(net, 2, strategy=ModelParallelStrategy(), devices=2, enable_checkpointing=False)
    (optimizer,) = trainer.optimizers
    assert all(hasattr(p, "placements") for p in optimizer.param_groups[0]["params"])
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 2
    weight = net.layers[0].weight.full_tensor().tolist()
"""
    on_two(NET + code + alike("weight"), tmp_path)


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_averages_are_those_of_schedulefree(kind: str) -> None:
    """``eval()`` and ``train()`` do what those of the authors' library do."""
    theirs = pytest.importorskip("schedulefree")
    import optstudy_torch

    params = [torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2)]
    given: dict[str, Any] = {"lr": 0.1, "foreach": False}
    one = getattr(theirs, f"{kind}ScheduleFree")(params[:1], **given)
    given["dialect"] = "paper" if kind == "SGD" else None
    other = getattr(optstudy_torch, f"ScheduleFree{kind}")(params[1:], **given)
    one.train()
    for _ in range(5):
        for p in params:
            p.grad = p.detach().sin() + 0.25
        one.step()
        other.step()
        torch.testing.assert_close(*params, rtol=1e-5, atol=1e-5)
        for optimizer in (one, other):
            optimizer.eval()
        torch.testing.assert_close(*params, rtol=1e-5, atol=1e-5)
        for optimizer in (one, other):
            optimizer.train()


def test_loggers_are_sinks_of_a_recorder(tmp_path: Path) -> None:
    """One of Lightning, and an ``Accelerator`` with a tracker."""
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    accelerate = pytest.importorskip("accelerate")
    from optstudy_torch import Recorder

    csv = loggers.CSVLogger(tmp_path, name="csv")
    accelerator = accelerate.Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path)
    accelerator.init_trackers("tracked")
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(model, optimizer, step=["grad_norm"], sinks=[csv, accelerator]) as recorder:
        for _ in range(3):
            model(torch.ones(4, 2)).sum().backward()
            optimizer.step()
        recorder.end_epoch(0.5)
    csv.save()
    accelerator.end_training()
    table = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()
    assert "epoch/loss" in table.splitlines()[0]
    assert len(table.splitlines()) >= 4
    assert list((tmp_path / "tracked").rglob("events.out.tfevents.*"))
