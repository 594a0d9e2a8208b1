"""Programs around the step, on several processes: each function runs on every one of them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from meshes import whole
from torch.nn.parallel import DistributedDataParallel

from optstudy_core import ALGORITHMS, averaged
from optstudy_core.records import Run
from optstudy_torch import EVE, AdamW, Backstep, Recorder, checkpoint, from_core
from optstudy_torch.epoch import EpochMomentum, ExtrapolatedEpoch
from optstudy_torch.lr_scheduler import CarefulLR, DirectionCarefulLR, DirectionLR


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def wrapped(model: torch.nn.Module, way: str) -> torch.nn.Module:
    """Return a model as a program has it: ``"alone"``, ``"DDP"`` or ``"FSDP2"``."""
    if way == "DDP":
        return DistributedDataParallel(model)
    if way == "FSDP2":
        from torch.distributed.fsdp import fully_shard

        fully_shard(model)
    return model


def loss_of(model: torch.nn.Module, seed: int) -> torch.Tensor:
    """Return a loss on data that is the same on all processes: so are the gradients' bits."""
    data = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    loss: torch.Tensor = (model(data) - data[:, :3]).square().mean()
    return loss


def epoch_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> float:
    for i in range(2):
        optimizer.zero_grad()
        loss = loss_of(model, 10 * seed + i)
        loss.backward()
        optimizer.step()
    return loss.item()


def same_everywhere(value: Any) -> None:
    """Assert that all processes have the same."""
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, value)
    assert every == every[:1] * len(every)


# One decision.


def rates_are_decided_alike() -> None:
    """By the mean of losses of which no process has the jump, or one alone."""
    rank = dist.get_rank()
    # The losses of both processes, and whether their mean jumps.
    epochs = [((1.0, 3.0), 0), ((9.0, 3.0), 1), ((4.0, 8.0), 0), ((1.0, 11.1), 0), ((7.0, 9.0), 1)]
    epochs += [((math.nan, 1.0), 1), ((1.0, math.inf), 1), ((2.0, 2.0), 0)]
    for kind in (CarefulLR, DirectionCarefulLR):
        model = DistributedDataParallel(network())
        optimizer = AdamW(model.parameters(), lr=0.1)
        scheduler = kind(optimizer, gamma=0.5, rollback=True)
        for i, (losses, jump) in enumerate(epochs):
            before = [p.detach().clone() for p in model.parameters()]
            epoch_of(model, optimizer, i)
            if i % 2:
                scheduler.step(losses[rank])
            else:
                scheduler.observe(torch.tensor(losses[rank]))
                scheduler.step()
            assert bool(scheduler.decision.cut) == bool(jump)
            kept = all(map(torch.equal, before, model.parameters()))
            assert kept == bool(jump)
        same_everywhere(scheduler.get_last_lr())
        same_everywhere([p.tolist() for p in model.parameters()])


def what_is_averaged_already_is_not_sent() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_gather", None)
        scheduler = CarefulLR(optimizer, gamma=0.5, average=False)
        for loss in (1.0, 2.0 + dist.get_rank()):
            scheduler.step(loss)
        EVE(optimizer, average=False).step(lambda: 1.0)
        DirectionLR(optimizer).step()
    assert scheduler.get_last_lr() == [0.5]


def searches_end_alike() -> None:
    """Each process has its own lowest loss; all go to where the mean is lowest."""
    target = (2.0, 13.0)[dist.get_rank()]
    cases = [("epoch", "grid", 9.0), ("epoch", "march", 8.0), ("step", "grid", 10.0)]
    for along, search, end in cases:
        p = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([p], lr=1.0)
        eve = EVE(optimizer, along=along, search=search, h=1.0)
        p.grad = -torch.ones(1)
        if along == "epoch":
            optimizer.step()

        def closure(p: Any = p) -> Any:
            return (p - target).square().sum()

        choice = eve.step(closure)
        same_everywhere([float(x) for x in choice])
        assert p.item() == end


def own_buffers_and_random_numbers_return() -> None:
    """Those of each process, to what each had."""
    rank = dist.get_rank()
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = CarefulLR(optimizer, rollback=True, model=model)
    torch.manual_seed(rank)
    scheduler.step(1.0)
    begin = model[0].running_mean.clone()
    drawn = model(torch.randn(8, 2) + rank)
    scheduler.step(math.nan if rank else 1.0)
    assert torch.equal(model[0].running_mean, begin)
    assert torch.equal(model(torch.randn(8, 2) + rank), drawn)


def methods_on_shards() -> None:
    """Every epoch method moves and decides for sharded parameters as in one process."""
    from torch.distributed.fsdp import fully_shard

    methods = {
        "DirectionCarefulLR": lambda o, m: DirectionCarefulLR(o, 0.5, 0.0, rollback=True, model=m),
        "EVE": lambda o, m: EVE(o, m, grid=[0.5, 1.0]),
        "march": lambda o, m: EVE(o, m, search="march", h=0.25, marches=3),
        "EVE along a step": lambda o, m: EVE(o, m, along="step"),
        "ExtrapolatedEpoch": lambda o, m: ExtrapolatedEpoch(o, lr=0.5, model=m),
        "EpochMomentum": lambda o, m: EpochMomentum(o, model=m),
        "Backstep": lambda o, m: Backstep(o, m),
    }
    for name, make in methods.items():
        ends = []
        for shards in (False, True):
            model = network()
            if shards:
                fully_shard(model)
            optimizer = AdamW(model.parameters(), lr=0.05)
            method: Any = make(optimizer, model)
            if shards:
                with pytest.raises(ValueError, match="model = None for parameters that"):
                    make(optimizer, None)
            for i in range(4):
                loss = epoch_of(model, optimizer, i)
                with torch.no_grad():  # an evaluation, for which FSDP2 gathers the parameters
                    loss_of(model, 50)
                if name == "Backstep":
                    if i == 2:
                        method.undo()
                    else:
                        method.step()
                elif isinstance(method, EVE):
                    method.step(lambda model=model: loss_of(model, 99))
                elif isinstance(method, DirectionCarefulLR):
                    method.step(loss)
                else:
                    method.step()
            if isinstance(method, DirectionCarefulLR):
                ends.append(np.asarray(method.get_last_lr()))
            ends.append([whole(p) for p in model.parameters()])
        half = len(ends) // 2
        for one, other in zip(ends[:half], ends[half:], strict=True):
            for x, y in zip(one, other, strict=True):
                np.testing.assert_array_equal(x, y, err_msg=name)


def averages_of_shards() -> None:
    """Averages of sharded weights are those of one process, and go again."""
    from torch.distributed.fsdp import fully_shard

    for rule in ("schedule_free_adamw", averaged(ALGORITHMS["adam"])):
        found = []
        for shards in (False, True):
            model = network()
            if shards:
                fully_shard(model)
            optimizer = from_core(rule)(model.parameters(), lr=0.05)
            for i in range(2):
                epoch_of(model, optimizer, i)
                optimizer.eval()
                loss = loss_of(model, 50).item()
                average = [whole(p).copy() for p in optimizer.param_groups[0]["params"]]
                optimizer.train()
                if shards:
                    model.reshard()  # as the docstring of eval asks
            found.append([np.float64(loss), *average, *map(whole, model.parameters())])
        for x, y in zip(*found, strict=True):
            np.testing.assert_array_equal(x, y)


def rows_have_the_loss_of_all() -> None:
    """Of steps and epochs, where each process has its own; of all that was given, if it says so."""
    rank = dist.get_rank()
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=1.0)
    found = []
    for average in (True, False):
        recorder = Recorder(optimizer, step=["loss"], average=average)
        for i in range(3):
            p.grad = torch.ones(1)
            optimizer.step()
            if i != 1:  # a step without a loss
                recorder.step(torch.tensor(float(10 * rank + i)))
        mean = recorder.end_epoch()["loss"]
        p.grad = torch.ones(1)
        optimizer.step()
        own = recorder.end_epoch(loss=4.0 + rank)["loss"]
        found.append([[row["loss"] for row in recorder.steps], mean, own])
        recorder.close()
    nan = math.nan
    assert str(found[0]) == str([[5.0, nan, 7.0, nan], 6.0, 4.5])
    assert str(found[1]) == str(
        [[10.0 * rank, nan, 10.0 * rank + 2, nan], 10.0 * rank + 1, 4.0 + rank]
    )


DECISIONS = [
    rates_are_decided_alike,
    what_is_averaged_already_is_not_sent,
    searches_end_alike,
    own_buffers_and_random_numbers_return,
    methods_on_shards,
    averages_of_shards,
    rows_have_the_loss_of_all,
]


# Runs.


def trained(way: str, folder: Path, epochs: int, optimizer_of: Any = AdamW) -> None:
    """Train in a run's folder from where it is, up to an epoch."""
    bare = network()
    model = wrapped(bare, way)
    optimizer = optimizer_of(model.parameters(), lr=0.05)
    scheduler = DirectionCarefulLR(optimizer, 0.5, 0.0, rollback=True, model=bare)
    backstep = Backstep(optimizer, bare)
    momentum = EpochMomentum(optimizer, lr=0.125, model=bare)
    with Run.create_or_resume(folder, {"way": way}) as run:
        recorder = Recorder(bare, optimizer, step=["step_size", "angle"], run=run)
        drawn = {"noise": torch.Generator().manual_seed(1), "lists": [random.Random(2)]}
        parts = {"optimizer": optimizer, "schedulers": [scheduler, momentum, backstep]}
        objects = {"model": bare, **parts, "recorder": recorder, **drawn}
        first = 1 + (checkpoint.load(run, **objects) or 0)
        for epoch in range(first, epochs + 1):
            if epoch % 2 == 0:  # undone, to where it was before the run was resumed
                epoch_of(model, optimizer, 77)
                backstep.undo()
            loss = epoch_of(model, optimizer, epoch)
            noise = torch.randn((), generator=drawn["noise"]).item() + drawn["lists"][0].random()
            recorder.step(loss + torch.rand(()).item() + noise)
            momentum.step()
            backstep.step()
            scheduler.begin_epoch()
            with torch.no_grad():
                loss_of(model, 50)
            row = recorder.end_epoch()
            scheduler.step(loss)
            checkpoint.save(run, epoch, row=row | {"lr": scheduler.get_last_lr()[0]}, **objects)
        recorder.close()


def runs(way: str, folder: Path, epochs: int, optimizers: Sequence[Any]) -> None:
    for optimizer_of in optimizers:
        trained(way, folder / optimizer_of.__module__, epochs, optimizer_of)


def each_has_its_own_random_state(folder: Path) -> None:
    """Of torch and of generators; those of another number of processes are as they were."""
    rank = dist.get_rank()
    torch.manual_seed(rank)
    own, same = random.Random(rank), torch.Generator().manual_seed(7)
    with Run.create(folder / "own", {}) as run:
        checkpoint.save(run, 1, own=[own], same=same)
        wanted = torch.rand(3).tolist(), own.random(), torch.rand((), generator=same).item()
        torch.manual_seed(99)
        checkpoint.load(run, own=[own], same=same)
        assert run.checkpoint_epochs == [1]
    assert (torch.rand(3).tolist(), own.random(), torch.rand((), generator=same).item()) == wanted


def the_first_writes(folder: Path) -> None:
    rank = dist.get_rank()
    with Run.create(folder / "rows", {"lr": 0.1}, tensorboard=False) as run:
        assert run.config["lr"] == 0.1
        run.epoch(1, {"loss": float(rank)})
        run.steps([(1, {"loss": float(rank)})])
        dist.barrier()
        assert [row["loss"] for row in run.epochs] == [0.0]
        assert [row["loss"] for row in run.step_rows] == [0.0]
    dist.barrier()
    with Run.resume(folder / "rows") as again:
        assert again.config["lr"] == 0.1
        dist.barrier()  # nobody else holds it
    with pytest.raises(FileNotFoundError, match="holds no run"):
        Run.resume(folder / "none")
    with pytest.raises(ValueError, match="keep = 0"):
        Run.create(folder / "none", {}, keep=0)


RECORDS = [each_has_its_own_random_state, the_first_writes]
