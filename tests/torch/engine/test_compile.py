"""Compiled torch optimizers: the definition's bits, and one kernel for every shape and rate."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from harness import Pair, definition, delayed, draw, same, start, to_numpy, to_torch, two_zeros

from optstudy_core import Algorithm
from optstudy_torch import SGD, AdamW, AMSGrad, _plans, from_core
from optstudy_torch._tensors import check_dtypes
from optstudy_torch.engine import c_compiler, errors, kernels_in_c

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="not run: no compiler")

SHAPES = [(), (1,), (0,), (2,), (4, 5), (3, 5, 7), (1000,)]
ADAMW = {"lr": 0.1, "betas": (0.8, 0.99), "weight_decay": 0.01}
CORE = {"lr": 0.1, "b1": 0.8, "b2": 0.99, "weight_decay": 0.01}


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that counts the libraries made since the test began."""
    made: list[Any] = []
    make = kernels_in_c.library_of
    monkeypatch.setattr(kernels_in_c, "library_of", lambda text: made.append(text) or make(text))
    return lambda: len(made)


def run(optimizer: Any, params: list[Any], grads: list[Any], step: Any = None) -> None:
    for g in grads:
        for p, x in zip(params, g, strict=True):
            p.grad = to_torch(x)
        (step or optimizer.step)()


def parameters(values: list[np.ndarray]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(to_torch(v)) for v in values]


def assert_same(params: list[Any], expected: list[np.ndarray]) -> None:
    for i, (p, e) in enumerate(zip(params, expected, strict=True)):
        assert same(to_numpy(p), e), f"leaf {i}"


@pytest.mark.parametrize(
    "dtype",
    [np.float32, np.float64, ml_dtypes.bfloat16, np.float16],
    ids=lambda d: np.dtype(d).name,
)
@pytest.mark.parametrize("by", ["compile=True", "torch.compile(step)"])
# Said by torch about itself while it compiles.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bits_are_the_definitions(dtype: Any, by: str) -> None:
    begin, grads = start(SHAPES, dtype=dtype), draw(SHAPES, 6, dtype=dtype)
    params = parameters(begin)
    optimizer = AdamW(params, compile=by == "compile=True", **ADAMW)
    step = None if by == "compile=True" else torch.compile(optimizer.step)
    run(optimizer, params, grads, step)
    ends, states = definition("adamw", begin, grads, CORE)
    assert_same(params, ends)
    for p, state in zip(params, states, strict=True):
        assert same(to_numpy(optimizer.state[p]["m"]), state.m)
        assert same(to_numpy(optimizer.state[p]["t"]), state.t)


@pytest.mark.parametrize(
    ("cls", "given"),
    [
        (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        (AMSGrad, {"lr": 0.1, "dialect": "optax"}),
    ],
)
def test_other_algorithms(cls: Any, given: dict[str, Any]) -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 6)
    bad = np.array([np.nan, np.inf], np.float32)
    grads[4][3] = bad
    params = parameters(begin)
    run(cls(params, compile=True, **given), params, grads)
    dialect = given.get("dialect")
    values = {k: v for k, v in given.items() if k != "dialect"}
    assert_same(params, definition(cls.algorithm, begin, grads, values, dialect=dialect)[0])


def test_no_kernel_is_compiled_for_new_shapes_rates_or_steps(kernels: Any) -> None:
    warm = parameters(start([(66,)]))
    run(AdamW(warm, compile=True, **ADAMW), warm, draw([(66,)], 2))
    before = kernels()
    shapes = [(2,), (170,), (128, 3), (2, 33, 1), (1, 500), (70_000,)]
    begin, grads = start(shapes), draw(shapes, 5)
    params = parameters(begin)
    optimizer = AdamW(params, compile=True, **ADAMW)
    used = []
    for t, g in enumerate(grads):
        values = {"lr": 0.1 / (t + 1) if t < 4 else 0.0, "weight_decay": 0.01 * (t + 1)}
        optimizer.param_groups[0].update(values, betas=(0.5 + t / 10, 0.99))
        used.append(CORE | values | {"b1": 0.5 + t / 10})
        run(optimizer, params, [g])
    assert kernels() == before
    assert_same(params, definition("adamw", begin, grads, lambda t: used[t])[0])


def test_no_kernel_is_compiled_for_new_strides(kernels: Any) -> None:
    """Dense memory in any order is one kernel's; the rest is another's, which returns the step."""
    layouts = [
        lambda x: x.clone(),
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: torch.stack([x, x, x], -1)[..., 1],
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.contiguous(memory_format=torch.channels_last),
    ]
    warm = [torch.nn.Parameter(of(torch.ones(20, 30, 1, 1))) for of in layouts[:2]]
    run(AdamW(warm, compile=True, **ADAMW), warm, [[np.ones((20, 30, 1, 1), np.float32)] * 2])
    before = kernels()

    shape = (4, 6, 2, 3)
    (begin,), grads = start([shape]), draw([shape], 3)
    (end,), _ = definition("adamw", [begin], grads, CORE)
    for of_param in layouts:
        for of_grad in layouts:
            p = torch.nn.Parameter(of_param(to_torch(begin)))
            optimizer = AdamW([p], compile=True, **ADAMW)
            version = p._version
            for (g,) in grads:
                p.grad = of_grad(to_torch(g))
                optimizer.step()
            assert_same([p], [end])
            assert p._version == version + 3  # autograd is told
    p = torch.nn.Parameter(torch.zeros(8)[::2])
    p.grad = torch.ones(()).expand(4)
    AdamW([p], compile=True, **ADAMW).step()
    assert kernels() == before


def test_gradients_are_never_written_to() -> None:
    params = parameters(start([(4, 5), (9,)]))
    optimizer = AdamW(params, compile=True, **ADAMW)
    for grads in draw([(4, 5), (9,)], 2):
        for p, g in zip(params, grads, strict=True):
            p.grad = to_torch(g)
        before = [(p.grad, p.grad._version) for p in params]
        optimizer.step()
        for p, (grad, version), g in zip(params, before, grads, strict=True):
            assert p.grad is grad
            assert grad._version == version
            assert to_numpy(grad).tobytes() == g.tobytes()


def test_eager_and_compiled_steps_take_turns() -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 6)
    params = parameters(begin)
    optimizer = AdamW(params, **ADAMW)
    for t, g in enumerate(grads):
        optimizer.param_groups[0]["compile"] = bool(t % 2)
        run(optimizer, params, [g])
    assert_same(params, definition("adamw", begin, grads, CORE)[0])


def test_a_tensor_learning_rate_changes_in_place() -> None:
    begin, grads = start([(5,)]), draw([(5,)], 4)
    params = parameters(begin)
    rate = torch.tensor(0.0)
    optimizer = AdamW(params, compile=True, **(ADAMW | {"lr": rate}))
    rates = [float(np.float32(0.1 / (t + 1))) for t in range(4)]
    for r, g in zip(rates, grads, strict=True):
        rate.fill_(r)
        run(optimizer, params, [g])
    assert_same(params, definition("adamw", begin, grads, lambda t: CORE | {"lr": rates[t]})[0])


def bounded(state: Any, grad: Any, params: Any = None, *, lr: Any = 0.1):
    """Writes numbers into the kernel that Python spells without a literal."""
    xp = grad.__array_namespace__()
    keep = grad < float("inf")
    return Pair(xp.where(keep, grad, state.a), grad), xp.where(keep, -lr * grad, float("nan"))


@pytest.mark.parametrize("update", [delayed, bounded])
def test_a_users_algorithm_may_pass_fields_on(update: Any) -> None:
    algorithm = Algorithm(update.__name__, two_zeros, update)
    begin, grads = start([(3,), (4, 2)]), draw([(3,), (4, 2)], 6)
    params = parameters(begin)
    run(from_core(algorithm)(params, compile=True), params, grads)
    assert_same(params, definition(algorithm, begin, grads)[0])


def test_kernels_are_the_default() -> None:
    (p,) = params = parameters(start([(5,)]))
    made = AdamW(params, **ADAMW)
    run(made, params, draw([(5,)], 1))
    assert made.param_groups[0]["compile"] is None
    assert all(stage.kernels for staged in made._staged.values() for stage in staged.stages)
    assert made.state[p]["m"].is_contiguous()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_cut_leaves_anywhere(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_in_c, "BLOCK", 7)
    shapes = [(5,), (0,), (23, 3), (), (1,), (7,), (200,), (0, 3), (13,)]
    begin, grads = start(shapes), draw(shapes, 3)
    params = parameters(begin)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run(AdamW(params, **ADAMW), params, grads)
    finally:
        torch.set_num_threads(before)
    assert_same(params, definition("adamw", begin, grads, CORE)[0])


def test_every_thread_flushes_subnormal_numbers_if_the_callers_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels_in_c, "BLOCK", 8)
    torch.ones(1_000_000).add_(1)  # starts the threads, which do not flush
    ends = []
    for compiled in (True, False):
        p = torch.nn.Parameter(torch.full((100,), 1e-38))
        p.grad = torch.full((100,), 1e-38)
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot flush")
        try:
            SGD([p], lr=0.5, weight_decay=0.5, compile=compiled).step()
            ends.append(to_numpy(p.detach()))
        finally:
            torch.set_flush_denormal(False)
    assert same(*ends)
    assert len(set(ends[0].tolist())) == 1


# What may be missing.


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is made yet, and what is made is kept in this folder."""
    monkeypatch.setattr(_plans, "_MACHINES", _plans.Recent(64))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def step(**given: Any) -> Any:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    made = AdamW([p], **given)
    made.step()
    return made


def is_compiled(made: Any) -> bool:
    return all(stage.kernels for staged in made._staged.values() for stage in staged.stages)


@pytest.mark.parametrize("command", [None, "false", "no-such-compiler", 'cc "', "cc -c"])
def test_without_a_compiler(
    command: str | None, monkeypatch: pytest.MonkeyPatch, fresh: Path
) -> None:
    if command is None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(c_compiler.shutil, "which", lambda _: None)
        monkeypatch.setattr(c_compiler, "find_spec", lambda _: None)
    else:
        monkeypatch.setenv("CC", command)
    errors.warn_of_slow_steps.cache_clear()
    with pytest.warns(RuntimeWarning, match="2 to 4 times as long") as told:
        assert not is_compiled(step())  # the same bits, by NumPy
    assert not is_compiled(step())  # it is told once
    assert len(told) == 1
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    made = AdamW([p], compile=True)
    with pytest.raises(RuntimeError, match="compile = True on cpu: ") as error:
        made.step()
    reason = {None: "no C compiler", 'cc "': "No closing quotation", "cc -c": ".so"}
    assert str(reason.get(command, command)) in str(error.value)
    assert not made.state[p]  # a step that is refused changes nothing
    assert p.detach().tolist() == [1.0] * 3
    assert not list(fresh.rglob("*.so"))


def test_the_compiler_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(c_compiler.shutil, "which", lambda _: None)
    monkeypatch.setattr(c_compiler, "find_spec", lambda name: name == "ziglang" or None)
    command = c_compiler.compiler()
    assert command is not None
    assert shlex.split(command) == [sys.executable, "-m", "ziglang", "cc"]


def test_a_device_without_float64_is_refused() -> None:
    with pytest.raises(TypeError, match="mps: allowed are devices with float64"):
        check_dtypes([SimpleNamespace(device=SimpleNamespace(type="mps"), dtype=torch.float32)])


@pytest.mark.usefixtures("fresh")
def test_flags_in_the_command_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    command = c_compiler.compiler()
    assert command is not None
    monkeypatch.setenv("CC", f"{command} -ffast-math -march=native")
    begin, grads = start(SHAPES), draw(SHAPES, 6)
    params = parameters(begin)
    run(AdamW(params, compile=True, **ADAMW), params, grads)
    assert_same(params, definition("adamw", begin, grads, CORE)[0])


ANOTHER_PROCESS = """
import os, torch, optstudy_torch
p = torch.nn.Parameter(torch.ones(1_000_000))
p.grad = torch.ones_like(p)
optimizer = optstudy_torch.SGD([p], lr=0.5, compile=True)
optimizer.step()
child = os.fork() if hasattr(os, "fork") else 1
optimizer.step()
if not child:
    os._exit(int(p.detach().numpy().any()))  # by NumPy: torch itself would wait
assert child == 1 or os.waitpid(child, 0)[1] == 0
"""


def test_what_was_made_is_kept_for_a_process_that_forks(
    monkeypatch: pytest.MonkeyPatch, fresh: Path
) -> None:
    """It needs no compiler, and the process that it forks does not wait for threads."""
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    SGD([p], lr=0.5, compile=True).step()
    kept = list(fresh.rglob("*.so"))
    assert len(kept) == 1
    assert list(fresh.rglob("*")) == [fresh / "optstudy", *kept]  # nothing else is left
    monkeypatch.setenv("CC", "false")
    subprocess.run([sys.executable, "-c", ANOTHER_PROCESS], check=True, timeout=120)


def test_a_folder_that_takes_nothing(monkeypatch: pytest.MonkeyPatch, fresh: Path) -> None:
    (fresh / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "file"))  # no folder
    assert is_compiled(step(compile=True))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(_plans, "_MACHINES", _plans.Recent(64))
    assert is_compiled(step(compile=True))
    monkeypatch.setattr(c_compiler.cache, "own_folder", lambda: fresh / "file")
    monkeypatch.setattr(_plans, "_MACHINES", _plans.Recent(64))
    errors.warn_of_slow_steps.cache_clear()
    with pytest.warns(RuntimeWarning, match="without kernels"):
        assert not is_compiled(step())


def test_a_file_that_is_broken(monkeypatch: pytest.MonkeyPatch, fresh: Path) -> None:
    step(compile=True)
    (kept,) = fresh.rglob("*.so")
    kept.unlink()  # this process has it in use
    kept.write_bytes(b"")
    monkeypatch.setattr(_plans, "_MACHINES", _plans.Recent(64))
    assert is_compiled(step(compile=True))


def test_other_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.nn.Parameter(torch.ones(3, device="meta"))
    p.grad = torch.ones(3, device="meta")
    with pytest.raises(RuntimeError, match="compile = True on meta: allowed on cpu and cuda"):
        AdamW([p], compile=True).step()
