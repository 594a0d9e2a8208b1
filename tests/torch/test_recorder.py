"""The recorder of PyTorch: what it measures, and that it changes nothing."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import optstudy_torch
from optstudy_core import geometry
from optstudy_core import instruments as core
from optstudy_core.records import Run
from optstudy_torch import Recorder
from optstudy_torch._ranks import scalar
from optstudy_torch.lr_scheduler import CarefulLR
from optstudy_torch.recorder import _copies, _small, _sums
from optstudy_torch.recorder import recorder as recorder_module
from optstudy_torch.recorder._measuring import STEP

ALL = ("all",)
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "torch.SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "torch.Adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "torch.Adam fused": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "AdamW": lambda p: optstudy_torch.AdamW(p, lr=1e-2),
    "SGD": lambda p: optstudy_torch.SGD(p, lr=1e-2, momentum=0.9),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(torch.nn.Module):
    """With a 0-d, an empty, a frozen, an unused, a bfloat16 and a transposed parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(4, 8)
        self.drop = torch.nn.Dropout(0.2)
        self.fc2 = torch.nn.Linear(8, 1)
        self.scale = torch.nn.Parameter(torch.tensor(1.5))
        self.none = torch.nn.Parameter(torch.empty(0, 3))
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.unused = torch.nn.Parameter(torch.full((2,), 0.5))
        self.bf16 = torch.nn.Parameter(torch.randn(8).to(torch.bfloat16))
        self.turned = torch.nn.Parameter(torch.randn(8, 5).t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.drop(self.fc1(x))) * self.bf16.float()
        return self.fc2(h)[:, 0] * self.scale + self.none.sum() + (h @ self.turned.t()).mean(1)


def build(name: str = "torch.Adam") -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Net()
    return model, OPTIMIZERS[name](model.parameters())


def train(
    model: Net,
    optimizer: torch.optim.Optimizer,
    recorder: Recorder | None,
    epochs: int = 2,
    steps: int = 3,
    first: int = 0,
) -> None:
    for epoch in range(first, first + epochs):
        for t in range(steps):
            generator = torch.Generator().manual_seed(100 * epoch + t)
            x = torch.randn(16, 4, generator=generator)
            optimizer.zero_grad()
            loss = (model(x) - x.sum(1)).square().mean()
            loss.backward()
            optimizer.step()
            if recorder is not None:
                recorder.step(loss)
        if recorder is not None:
            recorder.end_epoch()


def leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [x for k in tree for x in [k, *leaves(tree[k])]]
    if isinstance(tree, list | tuple):
        return [x for v in tree for x in leaves(v)]
    return [tree]


def identical(one: Any, other: Any) -> bool:
    a, b = leaves(one), leaves(other)
    return len(a) == len(b) and all(
        (torch.equal(x, y) and x.dtype == y.dtype)
        if isinstance(x, torch.Tensor)
        else x == y or (x != x and y != y)
        for x, y in zip(a, b, strict=True)
    )


# A measurement changes nothing.


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("exact", [True, False])
def test_the_run_has_the_same_bits(name: str, exact: bool) -> None:
    ends = []
    for recorded in (False, True):
        model, optimizer = build(name)
        recorder = (
            Recorder(model, optimizer, epoch=ALL, step=ALL, exact=exact) if recorded else None
        )
        train(model, optimizer, recorder)
        grads = [p.grad for p in model.parameters()]
        state = [model.state_dict(), optimizer.state_dict(), torch.get_rng_state(), grads]
        ends.append(copy.deepcopy(state))
    assert identical(*ends)


def test_no_host_synchronisation_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a device: on a CPU small layers and losses are read at once, which waits for nothing.
    monkeypatch.setattr(_copies, "SMALL", 0)
    monkeypatch.setattr(recorder_module, "_on_host", scalar)
    model, optimizer = build("torch.SGD")  # torch's Adam on the CPU reads its own step count
    recorder = Recorder(model, optimizer, epoch=ALL, step=ALL)
    train(model, optimizer, recorder, epochs=1)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a tensor was read on the host")

    with monkeypatch.context() as patch:
        for method in ("item", "tolist", "cpu", "numpy", "__float__", "__bool__", "__int__"):
            patch.setattr(torch.Tensor, method, refuse)
        with pytest.raises(AssertionError):
            float(torch.ones(()))
        for _ in range(3):
            loss = model(torch.ones(2, 4)).sum()
            loss.backward()
            optimizer.step()
            recorder.step(loss)
    row = recorder.end_epoch()
    assert len(recorder.steps) == 6
    assert math.isfinite(row["loss"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_synchronisation_on_a_gpu() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(300, 400).cuda()
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)
    recorder = Recorder(model, optimizer, epoch=ALL, step=ALL)
    x = torch.randn(8, 300, device="cuda")

    def step() -> None:
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        recorder.step(loss)

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    recorder.end_epoch()
    assert math.isfinite(recorder.steps[-1]["angle"])


# What is measured.


def numpy_of(t: torch.Tensor) -> np.ndarray:
    return t.detach().double().numpy().copy()


@pytest.mark.parametrize("name", ["torch.Adam", "AdamW"])
def test_steps_are_what_numpy_finds(name: str) -> None:
    model, optimizer = build(name)
    names = dict(model.named_parameters())
    start = {n: numpy_of(p) for n, p in names.items()}
    seen: list[dict[str, Any]] = []
    with Recorder(model, optimizer, step=ALL) as recorder:
        before, previous = start, None
        for t in range(3):
            train(model, optimizer, None, epochs=1, steps=1, first=t)
            recorder.step(float(t))
            now = {n: numpy_of(p) for n, p in names.items()}
            # In the parameters' dtype, as the recorder keeps it.
            step = {
                n: numpy_of(torch.tensor(now[n] - before[n]).to(p.dtype)) for n, p in names.items()
            }
            far = {
                n: numpy_of(torch.tensor(now[n] - start[n]).to(p.dtype)) for n, p in names.items()
            }
            state = {n: optimizer.state[p] for n, p in names.items() if optimizer.state.get(p)}
            keys = ("m", "v") if name == "AdamW" else ("exp_avg", "exp_avg_sq")
            moments = [[numpy_of(state[n][k]) if n in state else None for n in names] for k in keys]
            vectors = {
                "grad": [None if p.grad is None else numpy_of(p.grad) for p in names.values()],
                "params": list(now.values()),
                "step": list(step.values()),
                "previous": [None] * len(names) if previous is None else list(previous.values()),
                "displacement": list(far.values()),
                "m": moments[0],
                "v": moments[1],
            }
            given = {"loss": float(t), "lr": 1e-2}
            whole = core.measure(ALL, exact=False, given=given, **vectors)
            layers = {
                n: core.measure(
                    [q for q in core.INSTRUMENTS["all"] if q != "loss"],
                    exact=False,
                    given=given,
                    **{u: [column[i]] for u, column in vectors.items()},
                )
                for i, n in enumerate(names)
            }
            seen.append({"epoch": 1, "step": t + 1, **whole, "layers": layers})
            before, previous = now, step
    assert len(recorder.steps) == 3
    for found, expected in zip(recorder.steps, seen, strict=True):
        assert found.keys() == expected.keys()
        assert list(found["layers"]) == list(names)
        for part, other in [(found, expected)] + [
            (found["layers"][n], expected["layers"][n]) for n in names
        ]:
            for quantity in core.QUANTITIES.keys() & part.keys():
                # The same products, summed in another order; angles of a tiny layer near 0° and
                # 180° are known to 1e-6 degrees from plain sums.
                near = pytest.approx(other[quantity], rel=1e-12, abs=2e-6, nan_ok=True)
                if quantity != "angle":
                    near = pytest.approx(other[quantity], rel=1e-12, abs=1e-18, nan_ok=True)
                assert part[quantity] == near, quantity
    last = recorder.steps[-1]
    assert last["step_size"] > 0
    assert last["layers"]["frozen"]["step_size"] == 0
    assert math.isnan(last["layers"]["unused"]["grad_norm"])
    assert last["layers"]["none"]["step_size"] == 0
    assert math.isnan(recorder.steps[0]["angle"])
    assert 0 < last["angle"] < 180
    assert 0 < last["below_noise"] < 1


def test_epochs_have_the_bits_of_geometry() -> None:
    model, optimizer = build()
    names = ("loss", "lr", "step_size", "angle", "cosine", "distance", "param_norm")
    recorder = Recorder(model, optimizer, epoch=names)
    points = [[p.detach().clone() for p in model.parameters()]]
    for k in range(3):
        train(model, optimizer, None, epochs=1, first=k)
        points.append([p.detach().clone() for p in model.parameters()])
        row = recorder.end_epoch(float(k))
    deltas = [[x - y for x, y in zip(b, a, strict=True)] for a, b in itertools.pairwise(points)]
    assert row["step_size"] == geometry.norm(deltas[2])
    assert row["angle"] == geometry.angle(deltas[2], deltas[1], degrees=True)
    assert row["cosine"] == geometry.cosine(deltas[2], deltas[1])
    assert row["param_norm"] == geometry.norm(points[3])
    far = [x - y for x, y in zip(points[3], points[0], strict=True)]
    assert row["distance"] == geometry.norm(far)
    layer = row["layers"]["fc1.weight"]
    i = list(dict(model.named_parameters())).index("fc1.weight")
    assert layer["angle"] == geometry.angle(deltas[2][i], deltas[1][i], degrees=True)
    assert math.isnan(recorder.epochs[0]["angle"])
    assert [r["loss"] for r in recorder.epochs] == [0.0, 1.0, 2.0]


def test_plain_epochs_are_close_to_exact_ones() -> None:
    rows = []
    for exact in (True, False):
        model, optimizer = build()
        recorder = Recorder(model, optimizer, epoch=ALL, exact=exact)
        train(model, optimizer, recorder, epochs=3)
        rows.append(recorder.epochs)
    for a, b in zip(*rows, strict=True):
        assert a.keys() == b.keys()
        for name in core.INSTRUMENTS["all"]:
            assert a[name] == pytest.approx(b[name], rel=1e-9, nan_ok=True)  # the angle's root


def test_large_layers_are_summed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for block in (1 << 20, 7):
        monkeypatch.setitem(_sums.BLOCK, "cpu", block)
        model, optimizer = build()
        recorder = Recorder(model, optimizer, step=ALL)
        train(model, optimizer, recorder)
        found.append(recorder.steps)
    for a, b in zip(*found, strict=True):
        for name in core.INSTRUMENTS["all"]:
            assert a[name] == pytest.approx(b[name], rel=1e-9, nan_ok=True)  # the angle's root


def spread(size: int) -> torch.Tensor:
    """Return numbers of both signs over eight decades."""
    return torch.randn(size) * 10.0 ** torch.empty(size).uniform_(-6, 2)


LARGE_LAYERS: dict[str, Callable[[], torch.Tensor]] = {
    "over decades": lambda: spread(_sums.LARGE),
    "rounded alike": lambda: torch.full((_sums.LARGE + 1,), 1.0001),  # so errors add up
    "a short row at the end": lambda: torch.rand(3 * _sums.LARGE + _sums.ROW - 1),
    "not contiguous": lambda: spread(2 * _sums.LARGE).view(-1, 128).t(),
    "bfloat16": lambda: spread(_sums.LARGE).to(torch.bfloat16),
}


@pytest.mark.parametrize("kind", LARGE_LAYERS)
@pytest.mark.parametrize("block", [1 << 14, 1 << 20])
def test_large_layers_are_summed_in_rows(
    kind: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_sums.BLOCK, "cpu", block)
    torch.manual_seed(0)
    p = torch.nn.Parameter(LARGE_LAYERS[kind]())
    small = torch.nn.Parameter(torch.ones(5))
    optimizer = torch.optim.SGD([p, small], lr=0.25)
    names = ("grad_norm", "param_norm", "step_size", "update_ratio", "cosine", "distance")
    with Recorder(optimizer, step=names) as recorder:
        start = [x.detach().clone() for x in (p, small)]
        previous: list[Any] = [None, None]
        for t in range(3):
            before = [x.detach().clone() for x in (p, small)]
            p.grad = torch.roll(start[0], t, 0) if t else start[0].clone()
            small.grad = torch.full((5,), 1.0 + t)
            optimizer.step()
            after = [x.detach().clone() for x in (p, small)]
            step = [x - y for x, y in zip(after, before, strict=True)]
            found = core.measure(
                names,
                grad=[p.grad, small.grad],
                params=after,
                step=step,
                previous=previous,
                displacement=[x - y for x, y in zip(after, start, strict=True)],
            )
            previous = step
            recorder.flush()
            for name, value in found.items():
                # Rows of 256 in float32, in 8 lanes or more: 36 roundings of 6e-8 at the worst.
                assert recorder.steps[t][name] == pytest.approx(
                    value, abs=1e-6, rel=1e-6, nan_ok=True
                )
    assert STEP in recorder._step.reductions
    assert -1 < recorder.steps[2]["cosine"] <= 1


@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-30, 1e-22, 1e-17, 1e17, 1e25, math.inf, math.nan])
def test_large_layers_out_of_the_range_of_float32_squares(size: float) -> None:
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.ones(2 * _sums.LARGE))
    optimizer = torch.optim.SGD([p], lr=0.0)
    with Recorder(optimizer, step=["grad_norm", "param_norm", "step_size"]) as recorder:
        p.grad = torch.randn(p.shape).clamp(-3, 3) * size
        exact = geometry.norm(p.grad)
        optimizer.step()
    row = recorder.steps[0]
    assert row["grad_norm"] == pytest.approx(exact, rel=1e-6, abs=0, nan_ok=True)  # as above
    if math.isfinite(size):
        assert row["param_norm"] == pytest.approx(256.0, rel=1e-6)
        assert row["step_size"] == 0


def test_a_sparse_gradient_of_a_large_layer() -> None:
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(2000, 64, sparse=True)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.5)
    with Recorder(embedding, optimizer, step=["grad_norm", "step_size", "angle"]) as recorder:
        for rows in ([1, 5, 7], list(range(1500)), []):
            optimizer.zero_grad()
            embedding(torch.tensor(rows, dtype=torch.int64)).square().sum().backward()
            norm = geometry.norm(embedding.weight.grad.to_dense())
            optimizer.step()
            recorder.flush()
            row = recorder.steps[-1]
            assert row["grad_norm"] == pytest.approx(norm, rel=1e-6)  # as above
            # The step has one more rounding, of the parameters.
            assert row["step_size"] == pytest.approx(norm / 2, rel=1e-5)


def test_nonfinite_gradients_are_counted() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.1)
    with Recorder(optimizer, step=["gradients"]) as recorder:
        p.grad = torch.tensor([math.nan, math.inf, 1.0])
        optimizer.step()
    assert recorder.steps[0]["nonfinite_grads"] == 2
    assert math.isnan(recorder.steps[0]["grad_norm"])


def test_moments_with_nan_are_nan() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([p])
    with Recorder(optimizer, step=["moments"]) as recorder:
        p.grad = torch.tensor([math.nan, 2.0, 1.0])
        optimizer.step()
    assert math.isnan(recorder.steps[0]["m_min"])
    assert math.isnan(recorder.steps[0]["v_max"])


# How it goes with what torch has.


def test_a_closure() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    x = torch.randn(8, 2)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        return loss

    with Recorder(model, optimizer, step=["motion", "grad_norm"]) as recorder:
        for _ in range(2):
            recorder.step(optimizer.step(closure))
    assert [row["step"] for row in recorder.steps] == [1, 2]
    assert recorder.steps[0]["step_size"] > 0


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_grad_scaler_skips_has_no_row(fused: bool) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    x = torch.randn(8, 2)
    with Recorder(model, optimizer, step=["step_size", "angle", "grad_norm"]) as recorder:
        norms = []
        for t in range(4):
            optimizer.zero_grad()
            loss = model(x).square().mean() * (math.inf if t == 1 else 1.0)
            norms.append(torch.autograd.grad(loss, model.parameters(), retain_graph=True))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            recorder.step(loss)
    assert len(recorder.steps) == 3
    assert all(row["step_size"] > 0 for row in recorder.steps)
    # The step after the one left out is turned to the one before it.
    assert 0 <= recorder.steps[1]["angle"] < 90
    # The gradient that the step was made with, not the scaled one; the scale is a power of two.
    for row, grads in zip(recorder.steps, [norms[0], norms[2], norms[3]], strict=True):
        assert row["grad_norm"] == pytest.approx(geometry.norm(list(grads)), rel=1e-12)


def test_accumulated_gradients_and_several_groups() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    groups = [{"params": [model.weight], "lr": 0.5}, {"params": [model.bias], "lr": 0.25}]
    optimizer = torch.optim.SGD(groups)
    with Recorder(model, optimizer, epoch=["lr"], step=["lr", "grad_norm"]) as recorder:
        for x in (torch.ones(1, 2), 2 * torch.ones(1, 2)):
            model(x).sum().backward()
        optimizer.step()
        row = recorder.end_epoch()
    assert recorder.steps[0]["grad_norm"] == pytest.approx(math.sqrt(9 + 9 + 4), rel=1e-15)
    layers = {"weight": {"lr": 0.5}, "bias": {"lr": 0.25}}
    assert row == {"epoch": 1, "lr": 0.5, "layers": layers}
    assert recorder.steps[0]["layers"]["bias"]["lr"] == 0.25


@pytest.mark.parametrize("scheduler_first", [True, False])
def test_the_rate_is_the_one_used(scheduler_first: bool) -> None:
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=torch.tensor(0.5))

    def scheduler() -> CarefulLR:
        return CarefulLR(optimizer)

    careful = scheduler() if scheduler_first else None
    with Recorder(optimizer, epoch=["lr"], step=["lr"]) as recorder:
        careful = careful or scheduler()
        for loss in (1.0, 2.0, 2.0):
            p.grad = torch.ones(2)
            optimizer.step()
            careful.step(loss)
        row = recorder.end_epoch()
    rate = float(np.float32(0.5) * np.float32(0.8))
    assert [r["lr"] for r in recorder.steps] == pytest.approx([0.5, 0.5, rate], rel=1e-7)  # float32
    assert row["lr"] == recorder.steps[-1]["lr"]


def test_a_rate_that_is_filled_anew_is_kept() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    lr = torch.tensor(0.5)
    optimizer = torch.optim.SGD([p], lr=lr)
    with Recorder(optimizer, step=["lr"]) as recorder:
        for rate in (0.5, 0.25):
            lr.fill_(rate)
            p.grad = torch.ones(2)
            optimizer.step()
    assert [row["lr"] for row in recorder.steps] == [0.5, 0.25]


def test_names() -> None:
    model = torch.nn.Linear(2, 1)
    named = Recorder(torch.optim.SGD(list(model.named_parameters()), lr=0.1))
    assert list(named.end_epoch()["layers"]) == ["weight", "bias"]
    bare = Recorder(torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1))
    assert list(bare.end_epoch()["layers"]) == ["group0.0", "group1.0"]
    without = Recorder(model)
    with torch.no_grad():
        model.weight += 3.0
    row = without.end_epoch(1.0)
    assert list(row) == ["epoch", "loss", "step_size", "angle", "layers"]
    assert row["step_size"] == pytest.approx(math.sqrt(18), rel=1e-6)  # 3 is added in float32


def test_modules_that_share_names() -> None:
    modules = [torch.nn.Linear(2, 1), torch.nn.Linear(3, 1), torch.nn.Linear(2, 1)]
    named = [pair for module in modules for pair in module.named_parameters()]
    recorder = Recorder(torch.optim.SGD(named, lr=0.1), epoch=["param_norm"])
    row = recorder.end_epoch()
    assert list(row["layers"]) == [
        "weight", "bias", "weight (2)", "bias (2)", "weight (3)", "bias (3)"
    ]  # fmt: skip
    with torch.no_grad():
        norms = [p.double().norm().item() for _, p in named]
    assert [layer["param_norm"] for layer in row["layers"].values()] == pytest.approx(norms)
    assert row["param_norm"] == pytest.approx(math.hypot(*norms))


def test_two_recorders_of_a_run(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    with Run.create(tmp_path, {}, tensorboard=False) as run:
        first = Recorder(model, run=run)
        with pytest.raises(ValueError, match="another recorder writes to this run"):
            Recorder(model, run=run)
        first.close()
        Recorder(model, run=run).end_epoch(1.0)
    assert len(Run.read(tmp_path).epochs) == 1


def test_parameters_may_be_added() -> None:
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([first], lr=1.0)
    with Recorder(optimizer, step=["motion"]) as recorder:
        first.grad = torch.ones(2)
        optimizer.step()
        optimizer.add_param_group({"params": [second]})
        second.grad = torch.ones(3)
        optimizer.step()
        optimizer.step()
        row = recorder.end_epoch()
    sizes = [r["step_size"] for r in recorder.steps]
    assert sizes == [math.sqrt(2), math.sqrt(5), math.sqrt(5)]
    assert math.isnan(recorder.steps[1]["angle"])
    assert recorder.steps[2]["angle"] == pytest.approx(0, abs=2e-6)
    assert list(row["layers"]) == ["group0.0", "group1.0"]


def test_every() -> None:
    full, some = [], []
    for every, rows in ((1, full), (3, some)):
        model, optimizer = build()
        recorder = Recorder(model, optimizer, step=ALL, every=every)
        train(model, optimizer, recorder, epochs=2, steps=4)
        rows += recorder.steps
    assert [row["step"] for row in some] == [3, 6]
    assert identical(some, [full[2], full[5]])


def test_per_layer_is_a_choice() -> None:
    model, optimizer = build()
    recorder = Recorder(model, optimizer, epoch=ALL, step=ALL, per_layer=False)
    train(model, optimizer, recorder, epochs=1)
    assert "layers" not in recorder.epochs[0]
    assert "layers" not in recorder.steps[0]


def test_memory_only_for_what_is_on() -> None:
    def copies(**options: Any) -> int:
        model, optimizer = build()
        recorder = Recorder(model, optimizer, **options)
        train(model, optimizer, recorder)
        held = [*recorder._state.copies().values(), recorder._before]
        return sum(bool(c.tensors) for c in held)

    assert copies(epoch=["loss", "lr", "grad_norm", "moments"], step=["grad_norm"]) == 0
    assert copies(epoch=["step_size"]) == 1
    assert copies(epoch=["step_size", "angle"]) == 2
    assert copies(epoch=[], step=["update_ratio"]) == 1
    assert copies(epoch=[], step=["angle"]) == 2
    assert copies(epoch=["distance"], step=["distance"]) == 1


def test_closed_it_leaves_the_optimizer_alone() -> None:
    model, optimizer = build()
    before = len(optimizer._optimizer_step_post_hooks), len(optimizer._optimizer_step_pre_hooks)
    with Recorder(model, optimizer, step=ALL) as recorder:
        train(model, optimizer, None, epochs=1)
    assert len(recorder.steps) == 3
    train(model, optimizer, None, epochs=1)
    recorder.flush()
    assert len(recorder.steps) == 3
    after = len(optimizer._optimizer_step_post_hooks), len(optimizer._optimizer_step_pre_hooks)
    assert after == (before[0] + 1, before[1] + 1)  # those of the schedulers' rates


def test_a_step_that_raises_has_no_row() -> None:
    model, optimizer = build("AdamW")
    with Recorder(model, optimizer, step=["step_size"]) as recorder:
        train(model, optimizer, recorder, epochs=1, steps=1)
        optimizer.param_groups[0]["lr"] = -1.0
        with pytest.raises(ValueError, match="lr"):
            optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step()
    assert [row["step"] for row in recorder.steps] == [1, 2]


def test_the_mean_loss() -> None:
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([p], lr=0.1)
    recorder = Recorder(optimizer, epoch=["loss"])
    for loss in (1.0, torch.tensor(2.0), torch.tensor([4.0]), np.float32(5.0)):
        recorder.step(loss)
    assert recorder.end_epoch() == {"epoch": 1, "loss": 3.0}
    assert math.isnan(recorder.end_epoch()["loss"])
    recorder.step(7.0)
    assert recorder.end_epoch(torch.tensor(0.5))["loss"] == 0.5


# Resumed runs and records.


@pytest.mark.parametrize("stop", [(1, 3), (1, 2)])
@pytest.mark.parametrize("every", [1, 2])
def test_a_resumed_run_goes_on_with_the_same_rows(stop: tuple[int, int], every: int) -> None:
    """Stopped at the end of an epoch, and within one."""
    model, optimizer = build()
    whole = Recorder(model, optimizer, epoch=ALL, step=ALL, every=every)

    def part(model: Any, optimizer: Any, recorder: Any, begin: int, end: int) -> None:
        for t in range(begin, end):
            train(model, optimizer, None, epochs=1, steps=1, first=t)
            recorder.step(0.1 * t + 1 / 3)
            if (t + 1) % 3 == 0:
                recorder.end_epoch()

    cut = stop[0] * 3 + stop[1]
    part(model, optimizer, whole, 0, cut)
    saved = copy.deepcopy(
        [model.state_dict(), optimizer.state_dict(), whole.state_dict(), torch.get_rng_state()]
    )
    kinds = {type(x) for x in leaves(saved[2])}
    assert kinds <= {torch.Tensor, int, float, str, bool, type(None)}
    part(model, optimizer, whole, cut, 9)
    whole.flush()

    model, optimizer = build()
    with torch.no_grad():
        for p in model.parameters():
            p += 1
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    resumed = Recorder(model, optimizer, epoch=ALL, step=ALL, every=every)
    resumed.load_state_dict(saved[2])
    torch.set_rng_state(saved[3])
    part(model, optimizer, resumed, cut, 9)
    resumed.flush()
    assert len(whole.epochs) == 3
    assert identical(resumed.epochs, whole.epochs)
    assert identical(resumed.steps, whole.steps)


def test_a_saved_state_is_a_copy() -> None:
    model, optimizer = build()
    recorder = Recorder(model, optimizer, epoch=ALL, step=ALL)
    train(model, optimizer, recorder)
    saved = recorder.state_dict()
    before = copy.deepcopy(saved)
    train(model, optimizer, recorder)
    assert identical(saved, before)


class FakeRun:
    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {"epochs": [], "steps": []}

    def epoch(self, number: int, row: Any) -> None:
        self.rows["epochs"].append((number, row))

    def steps(self, rows: Any) -> None:
        self.rows["steps"] += list(rows)

    def attach(self, recorder: Any) -> None:
        self.recorder = recorder

    def detach(self, recorder: Any) -> None:
        assert self.recorder is recorder
        self.recorder = None


def test_rows_go_to_a_run() -> None:
    model, optimizer = build()
    run = FakeRun()
    with Recorder(model, optimizer, step=["step_size"], run=run) as recorder:
        train(model, optimizer, recorder)
    assert [number for number, _ in run.rows["epochs"]] == [1, 2]
    assert [number for number, _ in run.rows["steps"]] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for _, row in run.rows["steps"]] == [1, 1, 1, 2, 2, 2]
    assert recorder.epochs == recorder.steps == []


def test_a_folder_is_made_and_resumed(tmp_path: Path) -> None:
    records = pytest.importorskip("optstudy_core.records")
    for _ in range(2):
        model, optimizer = build()
        with Recorder(model, optimizer, epoch=ALL, step=["loss"], run=tmp_path / "a") as recorder:
            train(model, optimizer, recorder)
    run = records.Run.read(tmp_path / "a")
    assert [row["epoch"] for row in run.epochs] == [1, 2]
    assert len(run.step_rows) == 6
    assert run.config["recorder"]["step"] == ["loss"]
    run.close()


# What is refused.


def test_refused() -> None:
    model, optimizer = build()
    with pytest.raises(ValueError, match="epoch = 'los': did you mean 'loss'"):
        Recorder(model, optimizer, epoch=["los"])
    with pytest.raises(ValueError, match="every = 0: allowed are whole numbers from 1"):
        Recorder(model, optimizer, every=0)
    with pytest.raises(TypeError, match="exact = 1: allowed are True and False"):
        Recorder(model, optimizer, exact=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model = 3: allowed are modules and optimizers"):
        Recorder(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model and optimizer are optimizers"):
        Recorder(optimizer, optimizer)
    with pytest.raises(ValueError, match="epoch with 'm_mean': allowed with an optimizer"):
        Recorder(model, epoch=["moments"])
    with pytest.raises(ValueError, match="allowed with an optimizer only"):
        Recorder(model, step=["step_size"])
    with pytest.raises(TypeError, match="real floating dtypes"):
        Recorder(torch.optim.SGD([torch.nn.Parameter(torch.ones(1, dtype=torch.complex64))]))
    recorder = Recorder(model, optimizer)
    with pytest.raises(ValueError, match=r"loss of shape \(2,\)"):
        recorder.step(torch.ones(2))
    with pytest.raises(TypeError, match="loss = 'low'"):
        recorder.end_epoch("low")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="state_dict of"):
        recorder.load_state_dict(Recorder(model, optimizer, every=2).state_dict())
    other = torch.nn.Linear(2, 2)
    saved = Recorder(other, torch.optim.SGD(other.parameters())).state_dict()
    with pytest.raises(ValueError, match="state_dict with 'weight'"):
        recorder.load_state_dict(saved)


def test_sinks_are_given_what_the_run_is(tmp_path: Path) -> None:
    rows: list[Any] = []
    model, optimizer = build()
    with Recorder(
        model, optimizer, step=["loss"], every=2, run=tmp_path, sinks=[rows.append]
    ) as recorder:
        train(model, optimizer, recorder)
    assert [(row["epoch"], row.get("step")) for row in rows] == [
        (1, 2), (1, None), (2, 4), (2, 6), (2, None)
    ]  # fmt: skip
    run = Run.read(tmp_path)
    assert identical([row for row in rows if "step" not in row], run.epochs)
    assert [row for row in rows if "step" in row] == run.step_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_layers_are_summed_together(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one array for all: the rows are those of layer by layer, also without a gradient."""

    def rows() -> list[dict[str, Any]]:
        torch.manual_seed(0)
        layers = torch.nn.Linear(4, 3), torch.nn.Linear(3, 1)
        model = torch.nn.Sequential(*layers).to(dtype)
        model[0].weight.data = model[0].weight.data.t().contiguous().t()  # not contiguous
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        with Recorder(model, optimizer, epoch=[], step=ALL) as recorder:
            for t in range(4):
                optimizer.zero_grad()
                loss = model(torch.full((2, 4), 1.0 + t, dtype=dtype)).square().mean()
                loss.backward()
                if t == 2:
                    model[1].bias.grad = None
                optimizer.step()
                recorder.step(loss)
            assert all(p.grad_fn is None for p in recorder._state.last_step.tensors.values())
        return recorder.steps

    together = rows()
    monkeypatch.setattr(_copies, "SMALL", 0)
    apart = rows()
    assert len(together) == len(apart) == 4
    for one, other in zip(together, apart, strict=True):
        for name in core.INSTRUMENTS["all"]:
            assert one[name] == pytest.approx(other[name], rel=1e-9, nan_ok=True), name
        for layer, entry in one["layers"].items():
            expected = pytest.approx(other["layers"][layer], rel=1e-9, abs=1e-12, nan_ok=True)
            assert entry == expected


def test_small_layers_have_the_same_bits_after_a_resume_and_beside_profiles() -> None:
    def made(step: Any) -> tuple[Any, Any, Recorder]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        return model, optimizer, Recorder(model, optimizer, epoch=[], step=step)

    def go(model: Any, optimizer: Any, recorder: Recorder, begin: int, end: int) -> None:
        for t in range(begin, end):
            optimizer.zero_grad()
            loss = model(torch.full((2, 4), 1.0 + t)).square().mean()
            loss.backward()
            optimizer.step()
            recorder.step(loss)
        recorder.flush()

    whole = made(ALL)
    go(*whole, 0, 4)
    first, second, profiled = made(ALL), made(ALL), made([*ALL, "step_quantiles"])
    go(*first, 0, 2)
    for one, other in zip(first, second, strict=True):
        other.load_state_dict(copy.deepcopy(one.state_dict()))
    go(*second, 2, 4)
    assert identical(second[2].steps, whole[2].steps)
    go(*profiled, 0, 4)
    for row, other in zip(profiled[2].steps, whole[2].steps, strict=True):
        assert [row[name] for name in STEPS] == [other[name] for name in STEPS]


STEPS = ("loss", "grad_norm", "step_size", "update_ratio", "distance")


def test_much_that_is_put_aside_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_small, "MOST", 30)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(model, optimizer, epoch=[], step=["step_size", "grad_norm"]) as recorder:
        for _ in range(5):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            assert recorder._sums._small._held <= 40
    assert [row["step"] for row in recorder.steps] == [1, 2, 3, 4, 5]
    assert recorder.steps[4]["grad_norm"] == pytest.approx(10 * math.sqrt(5))
