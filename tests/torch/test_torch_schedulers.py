"""Our schedulers in the hands of torch's: copied, pickled, in sequence, in chains, resumed."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as theirs

import optstudy_torch
from optstudy_torch.lr_scheduler import CarefulLR, DirectionCarefulLR, DirectionLR

Case = tuple[torch.nn.Parameter, torch.optim.Optimizer]

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "torch": lambda *given, **more: torch.optim.SGD(*given, **more),
    "ours": lambda *given, **more: optstudy_torch.SGD(*given, **more),
}
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "DirectionLR": lambda o: DirectionLR(o, r=0.25),
    "CarefulLR": lambda o: CarefulLR(o, gamma=0.5),
    "rollback": lambda o: CarefulLR(o, gamma=0.5, rollback=True),
    "DirectionCarefulLR": lambda o: DirectionCarefulLR(o, r=0.25, gamma=0.5),
}


def make(name: str = "torch", lr: Any = 0.25) -> Case:
    p = torch.nn.Parameter(torch.zeros(2))
    return p, OPTIMIZERS[name]([p], lr=lr)


def used(p: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> float:
    """Take a step and return the rate that it was made with."""
    before = p.detach().clone()
    p.grad = -torch.ones(2)
    optimizer.step()
    return float((p.detach() - before)[0])


def copied(pair: Any, how: str) -> Any:
    if how == "deepcopy":
        return copy.deepcopy(pair)
    if how == "pickle":
        return pickle.loads(pickle.dumps(pair))
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_copy_goes_on_like_what_it_is_a_copy_of(name: str, kind: str, how: str) -> None:
    p, optimizer = make(name)
    scheduler = SCHEDULERS[kind](optimizer)
    losses = iter([3.0, 2.0, 5.0, 4.0, 9.0, 8.0])
    for loss in itertools.islice(losses, 3):
        used(p, optimizer)
        scheduler.step(loss)
    assert scheduler.get_last_lr() != [0.25]
    q, its_optimizer, its_scheduler = copied((p, optimizer, scheduler), how)
    assert its_scheduler.optimizer is its_optimizer
    assert its_optimizer.param_groups[0]["params"][0] is q
    for loss in losses:
        rate = used(p, optimizer)
        assert used(q, its_optimizer) == rate
        assert rate == pytest.approx(scheduler.get_last_lr()[0], rel=1e-5)
        scheduler.step(loss)
        its_scheduler.step(loss)
    assert torch.equal(p, q)
    assert its_scheduler.get_last_lr() == scheduler.get_last_lr()


def test_a_copy_of_the_optimizer_alone_has_no_factor() -> None:
    p, optimizer = make()
    scheduler = CarefulLR(optimizer, gamma=0.5)
    scheduler.step(math.nan)
    q, alone = copy.deepcopy((p, optimizer))
    assert used(q, alone) == 0.25
    assert used(p, optimizer) == 0.125


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_what_torch_and_other_libraries_read_is_there_from_the_start(kind: str) -> None:
    p, optimizer = make()
    wanted = theirs.ExponentialLR(make()[1], 0.5)
    scheduler = SCHEDULERS[kind](optimizer)
    for name in ("base_lrs", "last_epoch", "_step_count", "_last_lr"):
        assert getattr(scheduler, name) == getattr(wanted, name)
    assert optimizer.param_groups[0]["initial_lr"] == 0.25
    used(p, optimizer)
    scheduler.step(math.nan)
    assert (scheduler.last_epoch, scheduler._step_count) == (1, 2)
    assert scheduler._last_lr == scheduler.get_last_lr()


def test_a_rate_that_is_a_tensor_stays_one() -> None:
    rate = torch.tensor(0.25)
    p, optimizer = make("ours", rate)
    scheduler = CarefulLR(optimizer, gamma=0.5)
    for found in (scheduler.get_last_lr()[0], scheduler.base_lrs[0]):
        assert isinstance(found, torch.Tensor)
        assert found is not rate
        found.zero_()  # a copy, as of torch's schedulers
    assert used(p, optimizer) == 0.25
    sequence = theirs.SequentialLR(
        optimizer, [theirs.ConstantLR(optimizer, 0.5, 3), CarefulLR(optimizer)], [1]
    )
    assert used(p, optimizer) == 0.125
    sequence.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert used(p, optimizer) == 0.25


# Warm-ups.


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_after_a_warm_up_in_sequence_the_rate_is_the_base_rate(kind: str) -> None:
    p, optimizer = make()
    alone = SCHEDULERS[kind](alone_optimizer := make()[1])
    q = alone_optimizer.param_groups[0]["params"][0]
    warm_up = theirs.LinearLR(optimizer, start_factor=0.25, total_iters=4)
    scheduler = SCHEDULERS[kind](optimizer)
    sequence = theirs.SequentialLR(optimizer, [warm_up, scheduler], [3])
    rates = []
    for _ in range(3):
        rates.append(used(p, optimizer))
        sequence.step()
    assert rates == [0.0625, 0.0625 + 0.046875, 0.0625 + 2 * 0.046875]
    with torch.no_grad():
        p.zero_()  # the same numbers, and so the same roundings
    scheduler.begin_epoch()
    for loss in (3.0, 2.0, 5.0, 4.0, 9.0):  # as if it had begun here, with nothing before it
        assert used(p, optimizer) == used(q, alone_optimizer)
        scheduler.observe(loss)
        sequence.step()
        alone.step(loss)
        assert sequence.get_last_lr() == scheduler.get_last_lr() == alone.get_last_lr()
        assert sequence._schedulers[1].last_epoch == alone.last_epoch
    assert scheduler.get_last_lr() != [0.25]


def test_the_warm_up_is_no_part_of_the_first_epoch() -> None:
    p, optimizer = make()
    scheduler = DirectionLR(optimizer)
    sequence = theirs.SequentialLR(
        optimizer, [theirs.ConstantLR(optimizer, 0.5, 9), scheduler], [2]
    )
    for _ in range(2):
        used(p, optimizer)
        sequence.step()
    used(p, optimizer)
    sequence.step()
    assert scheduler.size == pytest.approx(math.sqrt(2) * 0.25)
    assert math.isnan(scheduler.cosine)  # there is no epoch before it


def test_the_first_of_a_sequence_keeps_its_factor() -> None:
    p, optimizer = make()
    careful = CarefulLR(optimizer, gamma=0.5)
    sequence = theirs.SequentialLR(optimizer, [careful, theirs.ExponentialLR(optimizer, 0.5)], [2])
    assert (careful.last_epoch, careful._step_count) == (0, 1)
    rates = []
    for loss in (1.0, 2.0, 3.0, 4.0):
        rates.append(used(p, optimizer))
        careful.observe(loss)
        sequence.step()
    assert rates == [0.25, 0.25, 0.25, 0.125]  # the second loss was not asked for
    assert careful.last_epoch == 1


def test_a_warm_up_around() -> None:
    """As GradualWarmupScheduler does: it reads and writes ``base_lrs`` of what comes after."""

    class WarmUp(theirs.LRScheduler):
        def __init__(self, optimizer: Any, after: Any) -> None:
            self.after = after
            super().__init__(optimizer)

        def get_lr(self) -> list[Any]:
            if self.last_epoch < 2:
                return [lr * (1 + self.last_epoch) / 4 for lr in self.base_lrs]
            if self.last_epoch == 2:
                self.after.base_lrs = [2 * lr for lr in self.after.base_lrs]
                self.after._update_lr(0)
            else:
                self.after.step(float(self.last_epoch))
            return [group["lr"] for group in self.optimizer.param_groups]

    p, optimizer = make()
    careful = CarefulLR(optimizer, gamma=0.5)
    warm_up, rates = WarmUp(optimizer, careful), []
    for _ in range(6):
        rates.append(used(p, optimizer))
        warm_up.step()
    assert rates[:2] == [0.0625, 0.125]
    assert rates[2:] == pytest.approx([0.5, 0.5, 0.25, 0.125])


# Chains, plateaus.


@pytest.mark.parametrize("first", [True, False])
def test_a_chain(first: bool) -> None:
    p, optimizer = make()
    careful, decay = CarefulLR(optimizer, gamma=0.5), theirs.ExponentialLR(optimizer, 0.5)
    chain = theirs.ChainedScheduler([careful, decay] if first else [decay, careful])
    rates = []
    for loss in (1.0, 2.0, 3.0):
        rates.append(used(p, optimizer))
        for part in (loss / 2, 3 * loss / 2):  # two mini-batches
            careful.observe(torch.tensor(part))
        chain.step()
    assert rates == [0.25, 0.125, 0.03125]
    assert careful.get_last_lr() == [0.25 / 8 / 4]


def test_reduce_on_plateau_and_ours() -> None:
    p, optimizer = make()
    plateau = theirs.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    careful = CarefulLR(optimizer, gamma=0.5)
    rates = []
    for loss in (1.0, 2.0, 3.0):
        rates.append(used(p, optimizer))
        careful.step(loss)
        plateau.step(loss)
    assert rates == [0.25, 0.25, 0.0625]
    assert plateau.get_last_lr() == [0.0625]  # of its own alone
    assert careful.get_last_lr() == [0.015625]


def test_a_step_without_a_loss_takes_the_mean_of_what_was_observed() -> None:
    _, optimizer = make()
    careful = CarefulLR(optimizer)
    for loss in (1.0, torch.tensor([2.0]), np.float32(6.0)):
        careful.observe(loss)
    careful.step()
    assert careful.state_dict()["reference"] == 3.0
    with pytest.raises(TypeError, match="metrics = None"):
        careful.step()  # nothing since
    careful.observe(100.0)
    careful.step(2.0)  # what is given counts
    assert careful.state_dict()["reference"] == 2.0
    with pytest.raises(ValueError, match=r"loss of shape \(2,\)"):
        careful.observe(torch.ones(2))
    with pytest.raises(TypeError, match="loss = 'low'"):
        careful.observe("low")


# Resumed.


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_sequence_resumes(kind: str, at: int) -> None:
    def training(lr: float) -> Any:
        p, optimizer = make("torch", lr)
        parts = [theirs.LinearLR(optimizer, 0.5, total_iters=3), SCHEDULERS[kind](optimizer)]
        return p, optimizer, theirs.SequentialLR(optimizer, parts, [3])

    def go_on(case: Any, numbers: range) -> list[float]:
        p, optimizer, sequence = case
        rates = []
        for i in numbers:
            rates.append(used(p, optimizer))
            sequence._schedulers[1].observe(float((i * 7) % 5))
            sequence.step()
        return rates

    one = training(0.25)
    go_on(one, range(at))
    one[2]._schedulers[1].observe(50.0)  # in the midst of an epoch
    file = io.BytesIO()
    torch.save([one[0].detach(), one[1].state_dict(), one[2].state_dict()], file)
    file.seek(0)
    values, of_optimizer, of_sequence = torch.load(file, weights_only=True)
    other = training(0.75)
    with torch.no_grad():
        other[0].copy_(values)
    other[1].load_state_dict(of_optimizer)
    other[2].load_state_dict(of_sequence)
    assert go_on(one, range(at, 9)) == go_on(other, range(at, 9))
    assert torch.equal(one[0], other[0])
    assert repr(one[2].state_dict()) == repr(other[2].state_dict())
