"""A step is taken or not: by several threads, when Ctrl-C comes, when an error stops it."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from harness import slow

from optstudy_torch import Adafactor, Adam, _plans, _shapes, _states, classes, from_core
from optstudy_torch._interrupts import Uninterrupted
from optstudy_torch._plans import Staged
from optstudy_torch._recent import Recent
from optstudy_torch.engine.stages import Stage

RULES = "sgd", "adam", "rprop", "lamb", "adafactor", "yogi", "prodigy", "adam"
HOW = pytest.mark.parametrize("compiled", [None, False], ids=["default", "numpy"])


def parameters(count: int = 3) -> list[torch.nn.Parameter]:
    draw = torch.Generator().manual_seed(3)
    params = [torch.nn.Parameter(torch.randn(3, 5, generator=draw)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn(3, 5, generator=draw)
    return params


def grouped(make: Any, **arguments: Any) -> tuple[Any, list[torch.nn.Parameter]]:
    params = parameters()
    return make([{"params": [p]} for p in params], **arguments), params


def values(optimizer: Any, params: list[Any]) -> list[tuple[Any, ...]]:
    """What there is of each parameter: itself, and its state."""
    states = [{k: v.tolist() for k, v in optimizer.state[p].items()} for p in params]
    return [(p.tolist(), own) for p, own in zip(params, states, strict=True)]


def after(make: Any, steps: int, **arguments: Any) -> list[tuple[Any, ...]]:
    optimizer, params = grouped(make, **arguments)
    for _ in range(steps):
        optimizer.step()
    return values(optimizer, params)


# Threads.


@HOW
def test_optimizers_in_threads_have_the_bits_of_one_thread(
    compiled: bool | None, monkeypatch: Any
) -> None:
    def trained(name: str) -> list[Any]:
        return after(from_core(name), 3, compile=compiled, lr=0.015625)

    expected = list(map(trained, RULES))
    for module, table in ((_plans, "_MACHINES"), (_states, "_LAYOUTS")):  # made again, in threads
        monkeypatch.setattr(module, table, Recent(64))
    monkeypatch.setattr(classes, "_CLASSES", {})
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(trained, RULES)) == expected


def test_a_class_is_made_once_in_whatever_threads(monkeypatch: Any) -> None:
    monkeypatch.setattr(classes, "_CLASSES", {})
    make, together = classes._make_class, threading.Barrier(2)

    def made(algorithm: Any) -> Any:
        together.wait(5)
        return make(algorithm)

    monkeypatch.setattr(classes, "_make_class", made)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(from_core, ["adam", "adam"])
    assert first is second


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_threads_on_one_optimizer_take_their_steps_in_turn(
    duplicate: Callable[[Any], Any], monkeypatch: Any
) -> None:
    first, same = grouped(Adam)
    own = duplicate(first)
    params = [p for g in own.param_groups for p in g["params"]]
    for p, other in zip(params, same, strict=True):
        p.grad = other.grad
    inside, most = [], []
    write = Adam._write

    def slowly(self: Any, *arguments: Any) -> None:
        inside.append(1)
        most.append(len(inside))
        threading.Event().wait(0.01)
        write(self, *arguments)
        inside.pop()

    monkeypatch.setattr(Adam, "_write", slowly)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(own.step) for _ in range(4)]:
            future.result()
    assert max(most) == 1
    for _ in range(4):
        first.step()
    assert values(own, params) == values(first, same)


def test_a_state_is_loaded_between_steps(monkeypatch: Any) -> None:
    own, _ = grouped(Adam)
    own.step()
    saved, loads, steps = own.state_dict(), threading.Event(), threading.Event()
    write = Adam._write

    def waiting(self: Any, *arguments: Any) -> None:
        steps.set()
        assert not loads.wait(0.05)
        write(self, *arguments)

    monkeypatch.setattr(Adam, "_write", waiting)

    def load() -> None:
        steps.wait(5)
        own.load_state_dict(saved)
        loads.set()

    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(load)
        own.step()
        loaded.result()


# Ctrl-C.


def interrupting(monkeypatch: Any, times: int = 1) -> None:
    """Send signals to this process, one after another, when the second group is about to step."""
    calls: list[Any] = []

    def sent(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
            return function(*arguments)

        return call

    monkeypatch.setattr(Staged, "run", sent(Staged.run))
    monkeypatch.setattr(_shapes.Step, "write", sent(_shapes.Step.write))


@pytest.fixture
def handler() -> Any:
    """SIGINT is what Python makes of it, whoever runs the tests."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, former)


@HOW
@pytest.mark.parametrize("make", [Adam, Adafactor])
def test_a_step_that_is_interrupted_is_taken(
    make: Any, compiled: bool | None, monkeypatch: Any, handler: Any
) -> None:
    expected = after(make, 1, compile=compiled)
    own, params = grouped(make, compile=compiled)
    interrupting(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        own.step()
    assert signal.getsignal(signal.SIGINT) is handler
    assert values(own, params) == expected


def test_the_second_interrupt_ends_the_step_and_tells_the_groups(
    monkeypatch: Any, handler: Any
) -> None:
    own, params = grouped(Adam)
    own.step()
    before = values(own, params)
    interrupting(monkeypatch, times=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        own.step()
    assert values(own, params)[2] == before[2]
    assert caught.value.__notes__ == [
        "Adam: step stopped: taken by groups [0], maybe in part by group 1, not by groups [2]"
    ]
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("mine", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_handler_that_is_not_pythons_stays(mine: Any, handler: Any) -> None:
    signal.signal(signal.SIGINT, mine)
    with Uninterrupted():
        assert signal.getsignal(signal.SIGINT) is mine


def test_another_thread_leaves_the_handler(handler: Any) -> None:
    def found() -> Any:
        with Uninterrupted():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(found).result() is handler


MOMENTS = """
import os, random, signal, sys, threading, time
import torch
from optstudy_torch import from_core

params = [torch.nn.Parameter(torch.ones(40)) for _ in range(12)]
for p in params:
    p.grad = torch.ones(40)
compiled = None if sys.argv[2] == "None" else False
own = from_core(sys.argv[1])([{"params": [p]} for p in params], compile=compiled)
own.step()
going = True


def send():
    while going:
        time.sleep(random.uniform(0, 0.004))
        if waiting.is_set():
            waiting.clear()
            os.kill(os.getpid(), signal.SIGINT)


waiting, found = threading.Event(), 0
thread = threading.Thread(target=send)
thread.start()
while found < 60:
    waiting.set()
    try:
        while True:
            own.step()
    except KeyboardInterrupt:
        found += 1
    first, *rest = [(p.tolist(), {k: x.tolist() for k, x in own.state[p].items()}) for p in params]
    assert all(x == first for x in rest), (first, rest)
going = False
thread.join()
print("whole")
"""


@pytest.mark.parametrize(
    ("name", "compiled"), [slow("adam", None), slow("adam", False), slow("adafactor", False)]
)
def test_interrupts_at_random_moments(name: str, compiled: bool | None) -> None:
    command = [sys.executable, "-c", MOMENTS, name, str(compiled)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert found.stdout == "whole\n", found.stderr


# Errors.


def failing(monkeypatch: Any, where: Any, name: str, call: int) -> None:
    """Let one call of a function fail, for want of memory."""
    function, calls = getattr(where, name), []

    def fails(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise MemoryError("no room")
        return function(*arguments, **more)

    monkeypatch.setattr(where, name, fails)


@HOW
def test_no_memory_for_a_state_leaves_all_groups_as_they_were(
    compiled: bool | None, monkeypatch: Any
) -> None:
    own, params = grouped(Adam, compile=compiled)
    before = [p.tolist() for p in params]
    failing(monkeypatch, Stage, "__init__", 2)
    with pytest.raises(MemoryError):
        own.step()
    assert [p.tolist() for p in params] == before
    own.step()
    assert values(own, params) == after(Adam, 1)


def test_a_second_dtype_without_memory_takes_its_steps_later(monkeypatch: Any) -> None:
    params = parameters()
    params[1].data, params[1].grad = params[1].data.double(), params[1].grad.double()
    own = Adam(params)
    own.step()
    params[2].grad = None  # so that the others are put together again
    before = [p.tolist() for p in params[:2]]
    failing(monkeypatch, Stage, "__init__", 2)
    with pytest.raises(MemoryError):
        own.step()
    own.step()
    assert all(p.tolist() != x for p, x in zip(params[:2], before, strict=True))


STOPPED = "{0}: step stopped: taken by groups [0]{1}, not by groups {2}"


@HOW
@pytest.mark.parametrize(
    ("make", "where", "name", "part"),
    [
        (Adam, Stage, "load", True),
        (Adam, Stage, "end", True),
        (Adafactor, _shapes.Step, "compute", False),
        (Adafactor, _shapes.Step, "write", True),
    ],
)
def test_an_error_names_the_groups_that_took_the_step(
    make: Any, where: Any, name: str, part: bool, compiled: bool | None, monkeypatch: Any
) -> None:
    own, params = grouped(make, compile=compiled)
    own.step()
    before, expected = values(own, params), after(make, 2, compile=compiled)
    failing(monkeypatch, where, name, 2)
    with pytest.raises(MemoryError, match="no room") as caught:
        own.step()
    found = values(own, params)
    assert found[0] == expected[0]
    assert found[2] == before[2]
    assert part or found[1] == before[1]
    words = (", maybe in part by group 1", [2]) if part else ("", [1, 2])
    assert caught.value.__notes__ == [STOPPED.format(make.__name__, *words)]
    own.step()  # and it goes on
    assert values(own, params)[2] == expected[2]
