"""Schedulers and EVE of ``optstudy_torch``: any optimizer, any other scheduler, every bit back."""

from __future__ import annotations

import copy
import gc
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from harness import to_numpy
from torch.optim import lr_scheduler as torch_schedulers

import optstudy_torch
from optstudy_core import epoch, geometry
from optstudy_torch.epoch import Backstep, EpochMomentum, ExtrapolatedEpoch
from optstudy_torch.eve import EVE
from optstudy_torch.lr_scheduler import CarefulLR, DirectionCarefulLR, DirectionLR

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "torch.Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "torch.SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "torch.RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
    "torch.LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
    "our Adam": lambda p: optstudy_torch.from_core("adam")(p, lr=0.1),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are tiny: on busy cores threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(torch.nn.Module):
    """With statistics and randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.drop = torch.nn.Dropout(0.3)
        self.last = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.drop(self.norm(self.first(x))))


def make(optimizer: str = "torch.Adam") -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Net()
    return model, OPTIMIZERS[optimizer](model.parameters())


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> float:
    total = 0.0
    for _ in range(steps):
        x = torch.randn(8, 3)

        def closure(x: Any = x) -> Any:
            optimizer.zero_grad()
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            return loss

        total += optimizer.step(closure).item()
    return total / steps


def everything(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return copy.deepcopy(
        {
            "model": model.state_dict(),
            "state": optimizer.state_dict()["state"],
            "random": torch.get_rng_state(),
        }
    )


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and to_numpy(a).tobytes() == to_numpy(b).tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def used_rates(optimizer: torch.optim.Optimizer) -> list[list[float]]:
    """Note the rates that steps are made with (a hook registered after the schedulers')."""
    found: list[list[float]] = []
    optimizer.register_step_pre_hook(
        lambda opt, *_: found.append([float(g["lr"]) for g in opt.param_groups])
    )
    return found


# Rates.


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_jump_lowers_the_rate_of_any_optimizer(name: str) -> None:
    model, optimizer = make(name)
    scheduler = CarefulLR(optimizer, gamma=0.5)
    rates = used_rates(optimizer)
    for loss in [1.0, 0.9, 2.0, 1.9]:
        train(model, optimizer, 1)
        scheduler.step(torch.tensor(loss))
    assert rates == [[0.1], [0.1], [0.1], [0.05]]
    assert scheduler.get_last_lr() == [0.05]
    assert scheduler.last_epoch == 4
    assert optimizer.param_groups[0]["lr"] == 0.1  # what other schedulers see


def test_the_rate_follows_the_direction() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([p], lr=1.0)
    scheduler = DirectionLR(optimizer, r=0.05)
    steps = [[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, -1.0], [0.0, 0.0], [5.0, 0.0]]
    factors = []
    for step in steps:
        p.grad = -torch.tensor(step)
        optimizer.step()
        scheduler.step()
        factors.append(float(scheduler.factors[0]))
    f = np.float32
    up, down = f(1) + f(0.05), f(1) - f(0.05)
    after_zero = float(up * down)
    # The fifth epoch's step is zero: no angle, neither for it nor for the next one.
    assert factors == [1.0, up, up, after_zero, after_zero, after_zero]


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: torch_schedulers.LambdaLR(o, lambda t: 1 / (1 + t)),
    "StepLR": lambda o: torch_schedulers.StepLR(o, 2, 0.5),
    "CosineAnnealingLR": lambda o: torch_schedulers.CosineAnnealingLR(o, 8, eta_min=0.01),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_multiply_with_those_of_other_schedulers(name: str, first: bool) -> None:
    """At every step the other scheduler's rate, as if it were alone, times the factor."""
    alone_model, alone = make("torch.SGD")
    alone_schedule, alone_rates = SCHEDULES[name](alone), used_rates(alone)
    model, optimizer = make("torch.SGD")
    if first:
        scheduler, schedule = CarefulLR(optimizer, gamma=0.5), SCHEDULES[name](optimizer)
    else:
        schedule, scheduler = SCHEDULES[name](optimizer), CarefulLR(optimizer, gamma=0.5)
    rates, wanted = used_rates(optimizer), []
    for loss in [1.0, 2.0, 3.0, 1.0]:
        for _ in range(2):
            wanted.append(float(scheduler.factors[0]))
            train(alone_model, alone, 1)
            train(model, optimizer, 1)
            alone_schedule.step()
            schedule.step()
        scheduler.step(loss)
    assert wanted == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert rates == [[r * f] for (r,), f in zip(alone_rates, wanted, strict=True)]
    assert schedule.get_last_lr() == alone_schedule.get_last_lr()


def test_groups_have_their_own_rates_and_bounds() -> None:
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.01}])
    scheduler = CarefulLR(optimizer, gamma=0.5, min_lr=0.005, growth=1.25, max_lr=0.15)
    for loss in [1, 2, 4, 8]:
        scheduler.step(loss)
    assert scheduler.get_last_lr() == [0.0125, 0.005]
    for loss in [1] * 20:
        scheduler.step(loss)
    assert scheduler.get_last_lr() == pytest.approx([0.15, 0.15], rel=1e-7)
    assert max(scheduler.get_last_lr()) <= 0.15
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1})
    scheduler.step(5)
    assert len(scheduler.get_last_lr()) == 3
    assert scheduler.get_last_lr()[2] == 0.05


def test_two_of_ours_multiply_and_a_deleted_one_does_not() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=1.0)
    one, two = CarefulLR(optimizer, gamma=0.5), CarefulLR(optimizer, gamma=0.25)
    rates = used_rates(optimizer)
    for scheduler in (one, two):
        scheduler.step(math.nan)
    p.grad = torch.ones(1)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 1.0
    del one, scheduler
    gc.collect()
    optimizer.step()
    assert rates == [[0.125], [0.25]]


def test_a_step_that_fails_leaves_the_rate() -> None:
    model, optimizer = make("torch.SGD")
    scheduler = CarefulLR(optimizer, gamma=0.5)
    scheduler.step(math.nan)

    def broken() -> Any:
        raise RuntimeError("broken")

    rates = used_rates(optimizer)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            optimizer.step(broken)
    train(model, optimizer, 1)
    assert rates == [[0.05]] * 3
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_rate_that_is_a_tensor() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    rate = torch.tensor(0.5)
    optimizer = torch.optim.SGD([p], lr=rate, foreach=False)
    scheduler = CarefulLR(optimizer, gamma=0.5)
    scheduler.step(math.nan)
    p.grad = torch.ones(1)
    optimizer.step()
    assert p.item() == -0.25
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.5


def test_measurements_are_read_and_nothing_is_disturbed() -> None:
    model, optimizer = make()
    other, alone = make()
    torch.manual_seed(1)
    scheduler = DirectionCarefulLR(optimizer, r=0.0, gamma=1.0, tau=1e9)
    start = copy.deepcopy(list(model.parameters()))
    for _ in range(2):
        train(model, optimizer)
        step = [p.detach() - s.detach() for p, s in zip(model.parameters(), start, strict=True)]
        start = copy.deepcopy(list(model.parameters()))
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        scheduler.step(1.0)
        assert scheduler.size == geometry.norm(step)
        assert equal(grads, [p.grad for p in model.parameters()])
    torch.manual_seed(1)
    for _ in range(2):
        train(other, alone)
    assert equal(everything(model, optimizer), everything(other, alone))


def test_it_is_a_scheduler_of_torch() -> None:
    _, optimizer = make()
    assert isinstance(CarefulLR(optimizer), torch_schedulers.LRScheduler)


# Rollback.


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("epochs", [0, 2])
def test_rollback_restores_every_bit(name: str, epochs: int) -> None:
    model, optimizer = make(name)
    scheduler = DirectionCarefulLR(optimizer, r=0.0, rollback=True, model=model)
    for _ in range(epochs):
        train(model, optimizer)
        scheduler.step(1.0)
    before = everything(model, optimizer)
    for bad in (math.nan, math.inf):  # twice: what is kept must not be used up
        train(model, optimizer)
        assert not equal(before, everything(model, optimizer))
        scheduler.step(bad)
        assert equal(before, everything(model, optimizer))
    train(model, optimizer)
    scheduler.step(1.0)
    assert not equal(before, everything(model, optimizer))


def test_a_run_with_an_undone_epoch_is_one_with_a_smaller_rate() -> None:
    """After a rollback, training goes on as if it had begun there with the new rate."""
    model, optimizer = make("torch.SGD")
    scheduler = CarefulLR(optimizer, gamma=0.5, rollback=True, model=model)
    train(model, optimizer)
    scheduler.step(1.0)
    other = copy.deepcopy(model)
    alone = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    alone.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    alone.param_groups[0]["lr"] = 0.05
    random = torch.get_rng_state()
    train(model, optimizer)
    scheduler.step(5.0)
    train(model, optimizer)
    torch.set_rng_state(random)
    train(other, alone)
    assert equal(everything(model, optimizer), everything(other, alone))


def test_patience_goes_back_to_before_the_first_jump() -> None:
    model, optimizer = make()
    scheduler = CarefulLR(optimizer, patience=2, rollback=True, model=model)
    train(model, optimizer)
    scheduler.step(1.0)
    before = everything(model, optimizer)
    for p in model.parameters():
        p.data.fill_(math.nan)  # an epoch that ends the run, unless it is undone
    scheduler.step(math.nan)
    train(model, optimizer)
    assert scheduler.decision is not None
    assert not scheduler.decision.cut
    scheduler.step(math.nan)
    assert scheduler.decision.cut
    assert equal(before, everything(model, optimizer))


def test_the_direction_is_taken_to_the_last_epoch_kept() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([p], lr=1.0)
    scheduler = DirectionCarefulLR(optimizer, gamma=1.0, rollback=True)
    for step, loss in (([1.0, 0.0], 1.0), ([0.0, 7.0], 9.0), ([2.0, 0.0], 1.0)):
        p.grad = -torch.tensor(step)
        optimizer.step()
        scheduler.step(loss)
    assert scheduler.cosine == 1.0
    assert scheduler.factors.tolist() == [np.float32(1.05)]


# Saved states.


@pytest.mark.parametrize("name", ["torch.Adam", "our Adam"])
@pytest.mark.parametrize("kind", ["direction", "careful", "both"])
def test_a_run_resumes_on_the_same_bits(kind: str, name: str) -> None:
    def scheduler_of(model: Any, optimizer: Any) -> Any:
        if kind == "direction":
            return DirectionLR(optimizer, 0.2)
        cls = CarefulLR if kind == "careful" else DirectionCarefulLR
        return cls(optimizer, patience=2, rollback=True, model=model)

    losses = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0]
    model, optimizer = make(name)
    scheduler = scheduler_of(model, optimizer)
    file = io.BytesIO()
    for i, loss in enumerate(losses):
        train(model, optimizer)
        if i == 2:  # in the midst of an epoch, while jumps are waited for
            parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
            state = {k: v.state_dict() for k, v in parts.items()}
            torch.save(state | {"random": torch.get_rng_state()}, file)
        scheduler.step(loss)
    wanted = everything(model, optimizer), scheduler.state_dict()

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    model, optimizer = make(name)
    train(model, optimizer)
    scheduler = scheduler_of(model, optimizer)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    torch.set_rng_state(saved["random"])
    scheduler.step(losses[2])
    for loss in losses[3:]:
        train(model, optimizer)
        scheduler.step(loss)
    assert equal(wanted[0], everything(model, optimizer))
    found = scheduler.state_dict()
    assert equal({k: repr(v) for k, v in wanted[1].items()}, {k: repr(v) for k, v in found.items()})


def test_states_that_do_not_fit_are_refused() -> None:
    model, optimizer = make()
    state = DirectionLR(optimizer).state_dict()
    with pytest.raises(ValueError, match="'DirectionLR'"):
        CarefulLR(optimizer).load_state_dict(state)
    with pytest.raises(ValueError, match="2 parameter groups"):
        DirectionLR(optimizer).load_state_dict(state | {"factors": [1.0, 1.0]})
    with pytest.raises(ValueError, match="shapes"):
        DirectionLR(optimizer).load_state_dict(state | {"start": [torch.ones(1)]})
    without = CarefulLR(optimizer).state_dict()
    with pytest.raises(ValueError, match="rollback"):
        CarefulLR(optimizer, rollback=True, model=model).load_state_dict(without)


# EVE.


def loss_of(model: torch.nn.Module, x: torch.Tensor) -> Any:
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


@pytest.mark.parametrize("search", ["grid", "march"])
@pytest.mark.parametrize("along", ["epoch", "step"])
def test_a_search_leaves_all_but_the_parameters(along: str, search: str) -> None:
    model, optimizer = make()
    x = torch.randn(16, 3)
    train(model, optimizer)
    eve = EVE(optimizer, model, along=along, search=search)
    train(model, optimizer)
    model.last.eval()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    modes = [m.training for m in model.modules()]
    losses = []

    def closure() -> Any:
        assert not torch.is_grad_enabled()
        losses.append(float(loss_of(model, x)))  # draws dropout, writes statistics
        model.eval()
        return losses[-1]

    twin, stepped = copy.deepcopy(model), None
    if along == "step":
        stepped = torch.optim.Adam(twin.parameters(), lr=0.1)
        stepped.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for p, g in zip(twin.parameters(), grads, strict=True):
            p.grad = g.clone()
        stepped.step()
    before = everything(twin, stepped or optimizer)
    choice = eve.step(closure)
    after = everything(model, optimizer)
    assert equal(before["state"], after["state"])
    assert equal(before["random"], after["random"])
    for name, b in twin.named_buffers():
        assert equal(b, model.get_buffer(name))
    assert modes == [m.training for m in model.modules()]
    assert equal(grads, [p.grad for p in model.parameters()])
    assert choice.evaluations == len(losses)
    assert float(choice.loss) <= float(choice.start) == losses[0]
    # The same randomness and statistics for every candidate: the loss there is what was found.
    torch.set_rng_state(after["random"])
    with torch.no_grad():
        assert float(loss_of(model, x)) == float(choice.loss)


def test_eve_extends_the_epoch() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=1.0)
    eve = EVE(optimizer)
    p.grad = torch.tensor([-1.0])
    optimizer.step()
    choice = eve.step(lambda: (p - 4.9).abs().sum())
    assert (float(choice.s), p.item()) == (4.0, 5.0)
    assert eve.delta is not None
    assert [d.tolist() for d in eve.delta] == [[1.0]]
    optimizer.step()  # the next Δ is measured from where EVE left the parameters
    choice = eve.step(lambda: (p - 6.5).abs().sum())
    assert (float(choice.s), p.item()) == (0.5, 6.5)
    wide = EVE(optimizer, include_extension=True)
    optimizer.step()
    wide.step(lambda: (p - 9.5).abs().sum())
    assert wide.delta is not None
    assert [d.tolist() for d in wide.delta] == [[3.0]]


@pytest.mark.parametrize(("target", "s"), [(0.1, 0), (-1.0, 1), (-3.2, 3), (-70.0, 100)])
def test_eve_along_a_step(target: float, s: float) -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([p], lr=1.0)
    eve = EVE(optimizer, along="step")
    p.grad = torch.ones(1)
    twin = torch.nn.Parameter(torch.zeros(1))
    alone = torch.optim.Adam([twin], lr=1.0)
    twin.grad = torch.ones(1)
    alone.step()
    choice = eve.step(lambda: (p - target).abs().sum())
    assert float(choice.s) == s
    assert p.item() == float(np.float32(s) * np.float32(twin.item()))
    assert equal(optimizer.state_dict()["state"], alone.state_dict()["state"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_optimizers_own_point_keeps_its_bits(dtype: torch.dtype) -> None:
    """For s = 1 along a step, θ_after itself, though θ + (θ_after − θ) would round differently."""
    torch.manual_seed(0)
    before = torch.randn(1000, dtype=torch.float64).to(dtype)
    after = (1e-3 * torch.randn(1000, dtype=torch.float64)).to(dtype)
    p = torch.nn.Parameter(before.clone())

    class Projection(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            p.data.copy_(after)

    optimizer = Projection([p], {"lr": 1.0})
    assert not equal((before + (after - before)).view(torch.uint8), after.view(torch.uint8))
    EVE(optimizer, along="step", grid=[1]).step(lambda: -(p - before).abs().double().sum())
    assert equal(p.detach().view(torch.uint8), after.view(torch.uint8))


def test_an_error_in_the_closure_leaves_the_parameters() -> None:
    model, optimizer = make()
    eve = EVE(optimizer, model)
    train(model, optimizer)
    before = everything(model, optimizer)
    calls = []

    def closure() -> Any:
        calls.append(torch.rand(1))
        if len(calls) == 3:
            raise RuntimeError("broken")
        return 1.0

    with pytest.raises(RuntimeError, match="broken"):
        eve.step(closure)
    assert equal(before, everything(model, optimizer))


def test_eve_and_the_direction_together() -> None:
    """``begin_epoch`` keeps EVE's move out of the next Δ; without it, it is part of this one."""
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([p], lr=1.0)
    scheduler, eve = DirectionLR(optimizer), EVE(optimizer)
    p.grad = -torch.tensor([1.0, 0.0])
    optimizer.step()
    scheduler.step()
    eve.step(lambda: (p[0] - 3.0).abs())
    scheduler.begin_epoch()
    p.grad = -torch.tensor([0.0, 1.0])
    optimizer.step()
    scheduler.step()
    assert scheduler.size == 1.0
    assert scheduler.cosine == 0.0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_with_every_method(name: str) -> None:
    model, optimizer = make(name)
    x = torch.randn(64, 3)
    scheduler = DirectionCarefulLR(optimizer, rollback=True, model=model, reference="accepted")
    eve = EVE(optimizer, model)
    with torch.no_grad():
        first = float(loss_of(model.eval(), x))
    for _ in range(6):
        model.train()
        scheduler.step(train(model, optimizer, 5))

        def closure() -> Any:
            return loss_of(model.eval(), x)

        before = float(eve.step(closure).start)
        scheduler.begin_epoch()
        with torch.no_grad():
            last = float(loss_of(model.eval(), x))
        assert last <= before
    assert last < first


# Errors.


@pytest.mark.parametrize(
    ("make_it", "error", "message"),
    [
        (lambda o: CarefulLR("adam"), TypeError, "optimizer of type str"),
        (lambda o: CarefulLR(o, gamma=1.5), ValueError, "gamma = 1.5"),
        (lambda o: CarefulLR(o, patience=0), ValueError, "patience = 0"),
        (lambda o: CarefulLR(o, rollback=1), TypeError, "rollback = 1"),
        (lambda o: CarefulLR(o, rollback=True, model="m"), TypeError, "model of type str"),
        (lambda o: CarefulLR(o, min_lr=-1.0), ValueError, "min_lr = -1.0"),
        (lambda o: DirectionLR(o, 2.0), ValueError, "r = 2.0"),
        (lambda o: DirectionLR(o, 0.5, centred=True), ValueError, "1/3"),
        (lambda o: DirectionLR(o, max_lr=math.nan), ValueError, "max_lr = nan"),
        (lambda o: EVE(o, along="steps"), ValueError, "along = 'steps'"),
        (lambda o: EVE(o, search="line"), ValueError, "search = 'line'"),
        (lambda o: EVE(o, grid=[-1]), ValueError, "grid = "),
        (lambda o: EVE(o, h=0), ValueError, "h = 0"),
        (lambda o: EVE(None), TypeError, "optimizer of type NoneType"),
        (lambda o: EVE(o).step(1.0), TypeError, "closure = 1.0"),
        (lambda o: EVE(o, include_extension=1), TypeError, "include_extension = 1"),
    ],
)
def test_bad_values_are_refused(make_it: Any, error: type, message: str) -> None:
    _, optimizer = make()
    with pytest.raises(error, match=message):
        make_it(optimizer)


# Moves at the end of an epoch.


@pytest.mark.parametrize("move_type", [ExtrapolatedEpoch, EpochMomentum])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_moves_are_those_of_the_core(kind: str, dtype: torch.dtype, move_type: Any) -> None:
    if (kind, dtype) == ("torch.LBFGS", torch.bfloat16):
        pytest.skip("torch's LBFGS has no bfloat16")
    work = torch.float32 if dtype == torch.bfloat16 else dtype
    w = torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=dtype))
    optimizer = OPTIMIZERS[kind]([w])
    move = move_type(optimizer)
    state = epoch.momentum.init(w.detach().to(work))
    begin, previous = w.detach().clone(), None
    moved = 0

    def closure() -> Any:
        optimizer.zero_grad()
        loss = ((w - target) ** 2).sum()
        loss.backward()
        return loss

    for k in range(4):
        target = torch.linspace(0, 2, 7, dtype=dtype) * (1 + k % 2)
        optimizer.step(closure)
        theta = w.detach().clone()
        move.step()
        delta = theta - begin
        if move_type is ExtrapolatedEpoch:
            cosine = math.nan if previous is None else geometry.cosine(delta, previous)
            wanted = epoch.extrapolation.update(theta.to(work), delta.to(work), cosine)
        else:
            state, wanted = epoch.momentum.update(state, theta.to(work), begin.to(work))
        assert equal(w.detach(), wanted.to(dtype))
        moved += not equal(w.detach(), theta)
        begin, previous = w.detach().clone(), delta
    assert moved == 3  # the first epoch has neither an angle nor an average


@pytest.mark.parametrize("move_type", [ExtrapolatedEpoch, EpochMomentum])
def test_a_move_that_is_saved_goes_on_alike(move_type: Any) -> None:
    model, optimizer = make("our Adam")
    move = move_type(optimizer)
    for _ in range(2):
        train(model, optimizer)
        move.step()
    train(model, optimizer, 1)  # in the middle of an epoch
    buffer = io.BytesIO()
    torch.save((everything(model, optimizer), move.state_dict()), buffer)
    train(model, optimizer)
    move.step()
    first = everything(model, optimizer)

    buffer.seek(0)
    kept, saved = torch.load(buffer, weights_only=True)
    twin, its_optimizer = make("our Adam")
    twin.load_state_dict(kept["model"])
    whole = its_optimizer.state_dict() | {"state": kept["state"]}
    its_optimizer.load_state_dict(whole)
    its_move = move_type(its_optimizer)
    its_move.load_state_dict(saved)
    torch.set_rng_state(kept["random"])
    train(twin, its_optimizer)
    its_move.step()
    assert equal(everything(twin, its_optimizer), first)


def test_backstep_undoes_as_often_as_wanted() -> None:
    model, optimizer = make("torch.Adam")
    train(model, optimizer)
    backstep = Backstep(optimizer, model)
    before = everything(model, optimizer)
    for _ in range(2):
        train(model, optimizer)
        assert not equal(everything(model, optimizer), before)
        backstep.undo()
        assert equal(everything(model, optimizer), before)
    other = Backstep(optimizer, model)
    train(model, optimizer)
    other.step()  # from here on
    other.load_state_dict(backstep.state_dict())
    other.undo()
    assert equal(everything(model, optimizer), before)


def test_what_a_move_refuses() -> None:
    model, optimizer = make("torch.SGD")
    with pytest.raises(TypeError, match="optimizer of type Net"):
        ExtrapolatedEpoch(model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lr = -1"):
        ExtrapolatedEpoch(optimizer, lr=-1)
    with pytest.raises(ValueError, match="beta = 1"):
        EpochMomentum(optimizer, beta=1.0)
    with pytest.raises(TypeError, match="model of type int"):
        Backstep(optimizer, 3)  # type: ignore[arg-type]
    move = EpochMomentum(optimizer)
    with pytest.raises(ValueError, match="'ExtrapolatedEpoch'"):
        move.load_state_dict(ExtrapolatedEpoch(optimizer).state_dict())
    other = EpochMomentum(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))
    with pytest.raises(ValueError, match="start of shapes"):
        move.load_state_dict(other.state_dict())
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    with pytest.raises(ValueError, match="start of the epoch"):
        move.step()
    with pytest.raises(TypeError, match="metrics = None"):
        CarefulLR(optimizer).step()
