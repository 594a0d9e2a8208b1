"""A step is taken or not: by several threads, when Ctrl-C comes, when an error stops it."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from harness import slow
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optstudy_core import ALGORITHMS, cautious
from optstudy_torch import (
    Adafactor,
    Adam,
    _interrupts,
    _plans,
    _shapes,
    _states,
    classes,
    from_core,
)
from optstudy_torch._interrupts import Uninterrupted
from optstudy_torch._recent import Recent
from optstudy_torch.engine import dispatch, stages
from optstudy_torch.engine.dispatch import Machine
from optstudy_torch.engine.stages import Stage
from optstudy_torch.engine.threads import in_threads

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


def interrupting(monkeypatch: Any, times: int = 1, number: int = signal.SIGINT) -> None:
    """Send signals to this process, one after another, when the second group is written."""
    calls: list[Any] = []

    def sent(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                for _ in range(times):
                    os.kill(os.getpid(), number)
            return function(*arguments)

        return call

    monkeypatch.setattr(Stage, "store", sent(Stage.store))
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


class Stop(Exception):  # noqa: N818
    """What a program lets a signal raise."""


@pytest.fixture(params=["SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2"])
def stopping(request: Any, handler: Any) -> Any:
    """A signal, and the function of the program that raises an exception for it."""
    number = getattr(signal, request.param)

    def stop(*_: Any) -> None:
        raise Stop(request.param)

    former = signal.signal(number, stop)
    yield number, stop
    signal.signal(number, former)


@pytest.mark.parametrize("make", [Adam, Adafactor])
@pytest.mark.parametrize("times", [1, 3])
def test_other_signals_wait_as_often_as_they_come(
    make: Any, times: int, monkeypatch: Any, stopping: Any
) -> None:
    number, stop = stopping
    expected = after(make, 1)
    own, params = grouped(make)
    interrupting(monkeypatch, times, number)
    with pytest.raises(Stop):
        own.step()
    assert signal.getsignal(number) is stop
    assert values(own, params) == expected


def test_signals_that_have_waited_together_all_come(stopping: Any, handler: Any) -> None:
    number, stop = stopping

    def send() -> None:
        with Uninterrupted():
            for own in (number, signal.SIGINT, number):
                os.kill(os.getpid(), own)

    with pytest.raises((Stop, KeyboardInterrupt)) as caught:
        send()
    error = caught.value
    assert {type(error), type(error.__context__)} == {Stop, KeyboardInterrupt}
    assert signal.getsignal(number) is stop
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_signal_that_comes_too_early_leaves_all_handlers(stopping: Any, monkeypatch: Any) -> None:
    number, stop = stopping
    put = _interrupts._set

    def putting(own: int, function: Any) -> Any:
        if own == number and function is not stop:
            os.kill(os.getpid(), number)
        return put(own, function)

    monkeypatch.setattr(_interrupts, "_set", putting)
    with pytest.raises(Stop), Uninterrupted():
        raise AssertionError("not reached")
    assert signal.getsignal(number) is stop
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
    global lost
    while going:
        time.sleep(random.uniform(0, 0.004))
        if waiting.is_set():
            waiting.clear()
            before, end = found, time.monotonic() + 2
            os.kill(os.getpid(), signal.SIGINT)
            while found == before and time.monotonic() < end:
                time.sleep(0.0005)
            if found == before:  # Python may lose one, as in a finalizer: send again
                lost += 1
                waiting.set()


waiting, found, lost = threading.Event(), 0, 0
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
assert lost < 3, lost
print("whole")
"""


@pytest.mark.parametrize(
    ("name", "compiled"), [slow("adam", None), slow("adam", False), slow("adafactor", False)]
)
def test_interrupts_at_random_moments(name: str, compiled: bool | None) -> None:
    command = [sys.executable, "-c", MOMENTS, name, str(compiled)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert found.stdout == "whole\n", found.stderr


# Memory.


class NoMemory(TorchDispatchMode):
    """Refuse what takes memory for more than a few elements."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {place_of(x) for x in tree_leaves((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if torch.is_tensor(x) and x.numel() > FEW and place_of(x) not in given:
                raise MemoryError(f"{function} takes memory for {x.numel()} elements")
        return result


FEW = 128
MANY = 40_000


def place_of(x: Any) -> int | None:
    return x.untyped_storage().data_ptr() if torch.is_tensor(x) else None


def without_memory(write: Callable[[], None]) -> None:
    """Call what writes, and look at what memory torch and NumPy take."""
    tracemalloc.start()
    try:
        first = tracemalloc.get_traced_memory()[0]
        with NoMemory():
            write()
        most = tracemalloc.get_traced_memory()[1] - first
    finally:
        tracemalloc.stop()
    assert most < MANY, f"NumPy takes {most} bytes"


def many(kind: str, dtype: torch.dtype) -> list[torch.nn.Parameter]:
    """Parameters alone in a unit and together in one; truths of the large ones are seen, too."""
    draw = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> torch.Tensor:
        x = torch.randn(shape, generator=draw).to(dtype)
        if kind == "apart":  # with gaps
            return torch.stack([x, x], -1)[..., 0]
        return x

    params = []
    for shape in [(300, 301), (103, 197), (9, 11), (101, 103), (300, 301)]:
        p = torch.nn.Parameter(drawn(*shape))
        p.grad = drawn(*shape)
        params.append(p)
    params[1].grad = params[1].grad.t().contiguous().t()
    return params


WRITING = [
    ("adam", {}),
    ("adam", {"amsgrad": True}),
    ("rprop", {}),  # where
    ("lion", {}),  # sign
    ("optimistic_gradient_descent", {}),  # the gradient is kept
    ("lamb", {}),  # norms
    ("adafactor", {}),
    ("sm3", {}),
    ("cautious_adam", {}),
]
CASES = [(name, given, "plain", 32, None) for name, given in WRITING]
CASES += [
    (name, {}, kind, 16, step_dtype)
    for name in ("adam", "adafactor", "optimistic_gradient_descent")
    for kind in ("plain", "apart")
    for step_dtype in (None, "float32")
]
CASES.append(("adam", {}, "apart", 32, None))


@HOW
@pytest.mark.parametrize(("name", "given", "kind", "dtype", "step_dtype"), CASES)
def test_no_memory_is_taken_once_the_first_parameter_is_written(
    name: str,
    given: dict[str, Any],
    kind: str,
    dtype: int,
    step_dtype: str | None,
    compiled: bool | None,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(stages, "_SCRATCH", 100_000)  # one leaf after another
    params = many(kind, {16: torch.bfloat16, 32: torch.float32}[dtype])
    rule = cautious(ALGORITHMS["adam"]) if name == "cautious_adam" else name
    own = from_core(rule)(params, compile=compiled, step_dtype=step_dtype, **given)
    own.step()
    before = [p.tolist() for p in params]
    ready, write = Machine.ready, _shapes.Step.write
    written: list[int] = []

    def held(function: Callable[[], None]) -> Callable[[], None]:
        return lambda: written.append(1) or without_memory(function)  # type: ignore[func-returns-value]

    monkeypatch.setattr(Machine, "ready", lambda *x: held(ready(*x)))
    monkeypatch.setattr(_shapes.Step, "write", lambda step: held(lambda: write(step))())
    own.step()
    assert written
    assert all(p.tolist() != x for p, x in zip(params, before, strict=True))


def test_the_system_starts_no_more_threads(two_threads: None, monkeypatch: Any) -> None:
    def refused(*_: Any) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refused)
    found: list[int] = []
    in_threads(found.extend, range(7), 2)
    assert found == [*range(7)]


def test_an_error_waits_for_other_threads(two_threads: None) -> None:
    found: list[int] = []
    failed = threading.Event()

    def work(part: Any) -> None:
        if 0 in part:
            failed.set()
            raise MemoryError("no room")
        failed.wait(5)
        threading.Event().wait(0.02)
        found.extend(part)

    with pytest.raises(MemoryError):
        in_threads(work, range(4), 2)
    assert found == [2, 3]


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
        (Adam, Stage, "load", False),
        (Adam, Stage, "end", False),
        (Adam, Stage, "store", True),
        (from_core("lamb"), dispatch, "_sum", False),
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
