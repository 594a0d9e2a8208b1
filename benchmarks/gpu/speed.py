"""Time a step on a GPU, of optstudy, torch.optim and optax on the same shapes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from optstudy_core import ALGORITHMS

Shape = tuple[int, ...]

NAMES: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9},
    "adam": {},
    "adamw": {},
    "lion": {},
    "adafactor": {},
    "muon": {},
    "shampoo": {"update_interval": 10.0},
    "soap": {},
}
PEERLESS = ("shampoo", "soap")
"""Algorithms that are in neither torch.optim nor optax."""

FUSED = ("sgd", "adam", "adamw")
ROUNDS = 30
_JAX_STEPS = 5  # JAX is timed by this many steps in a row, because the work of the host overlaps


def gpt2() -> list[Shape]:
    """Return the shapes of the 148 parameters of GPT-2 small."""
    width, inner = 768, 4 * 768
    norm: list[Shape] = [(width,), (width,)]
    attention: list[Shape] = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    mlp: list[Shape] = [(width, inner), (inner,), (inner, width), (width,)]
    return [(50257, width), (1024, width), *(norm + attention + norm + mlp) * 12, *norm]


SHAPES: dict[str, list[Shape]] = {
    "1e6": [(1000, 1000)],
    "1e8": [(10_000, 10_000)],
    "1e9": [(40_000, 25_000)],
    "GPT-2 small": gpt2(),
}


MATRICES: dict[str, list[Shape]] = {
    "4096 × 4096": [(4096, 4096)],
    "GPT-2's matrices": [x for x in gpt2()[2:] if len(x) == 2],
}
OWN_SHAPES = {
    "muon": MATRICES,
    "shampoo": {"768 × 768": [(768, 768)]},
    "soap": {"768 × 768": [(768, 768)]},
}
"""Shapes for algorithms that multiply matrices."""


def cases(names: Sequence[str], sizes: Sequence[str]) -> Iterator[tuple[str, str, list[Shape]]]:
    """Yield each algorithm with each set of tensors: its title and the shapes."""
    for size in sizes:
        yield from ((name, size, SHAPES[size]) for name in names if name not in OWN_SHAPES)
    for name in names:
        yield from ((name, size, own) for size, own in OWN_SHAPES.get(name, {}).items())


def bandwidth() -> float:
    """Return the bytes a second that a copy of 1 GiB reads and writes."""
    import torch

    x = torch.ones(1 << 28, device="cuda")
    y = torch.empty_like(x)
    times = list(_events(lambda: y.copy_(x), ROUNDS))
    return 2 * 4 * x.numel() / (statistics.median(times) / 1e3)


def _events(function: Callable[[], Any], rounds: int) -> Iterator[float]:
    import torch

    for _ in range(3):
        function()
    torch.cuda.synchronize()
    pairs = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    for begin, end in pairs:
        yield begin.elapsed_time(end)


def moved(name: str, size: int) -> int:
    """Return the bytes that a step must move: p and state read and written, the gradient read."""
    from benchmarks.__main__ import moved

    small = 40_000
    return moved(name, small) * size // small


def _torch_step(cls: Any, shapes: Sequence[Shape], **options: Any) -> Callable[[], None]:
    import torch

    generator = torch.Generator("cuda").manual_seed(0)
    params = []
    for shape in shapes:
        p = torch.nn.Parameter(torch.randn(shape, generator=generator, device="cuda"))
        p.grad = torch.randn(shape, generator=generator, device="cuda")
        params.append(p)
    optimizer = cls(params, lr=1e-3, **options)
    return lambda: optimizer.step()


def torch_ways(name: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return the optimizer classes to time on a GPU, with their options."""
    import torch

    import optstudy_torch
    from benchmarks.__main__ import HandLion

    title, values = ALGORITHMS[name].title, NAMES[name]
    ours = getattr(optstudy_torch, title)
    peer = getattr(torch.optim, title, HandLion)
    ways = {"default": (ours, values), "compile=False": (ours, values | {"compile": False})}
    if name not in PEERLESS:
        foreach = {} if peer in (HandLion, torch.optim.Muon) else {"foreach": True}
        ways["foreach"] = (peer, values | foreach)
    if name in FUSED:
        ways["fused"] = (peer, values | {"fused": True})
    return ways


def measure_torch(names: Sequence[str], sizes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each algorithm and set of shapes: the milliseconds of each way to step."""
    import torch

    copied = bandwidth()
    rows = []
    for name, size, shapes in cases(names, sizes):
        row: dict[str, Any] = {"algorithm": name, "tensors": size, "bandwidth": copied}
        row["bytes"] = moved(name, sum(_sizes(shapes)))
        for way, (cls, options) in torch_ways(name).items():
            torch.cuda.empty_cache()
            try:
                step = _torch_step(cls, shapes, **options)
                begin = time.perf_counter()
                step()
                torch.cuda.synchronize()
                first = time.perf_counter() - begin
                begin = time.perf_counter()
                step()
                torch.cuda.synchronize()
                rounds = ROUNDS if time.perf_counter() - begin < 0.5 else 5
                row[way] = statistics.median(_events(step, rounds))
                row[f"first {way}"] = 1e3 * first
                del step
            except torch.OutOfMemoryError:
                row[way] = None
        rows.append(row)
        print(row, flush=True)
    return rows


def _sizes(shapes: Sequence[Shape]) -> Iterator[int]:
    from math import prod

    return map(prod, shapes)


def measure_jax(names: Sequence[str], sizes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each algorithm and set of shapes: milliseconds of optstudy and optax."""
    import jax
    import optax

    import optstudy_jax

    rows = []
    for name, size, shapes in cases([x for x in names if x not in PEERLESS], sizes):
        row: dict[str, Any] = {"algorithm": name, "tensors": size}
        for way, module in (("jit", optstudy_jax), ("optax", optax)):
            make = getattr(module, name, None) or getattr(optax.contrib, name)
            tx = make(1e-3, **NAMES[name])

            def advance(params: Any, state: Any, grads: Any, tx: Any = tx) -> Any:
                updates, state = tx.update(grads, state, params)
                return optax.apply_updates(params, updates), state

            keys = jax.random.split(jax.random.key(0), 2)
            params, grads = ([jax.random.normal(k, shape) for shape in shapes] for k in keys)
            state = jax.jit(tx.init)(params)
            begin = time.perf_counter()
            step = jax.jit(advance, donate_argnums=(0, 1)).lower(params, state, grads).compile()
            row[f"compile {way}"] = 1e3 * (time.perf_counter() - begin)
            row[f"temporary {way}"] = step.memory_analysis().temp_size_in_bytes
            times = []
            for i in range(ROUNDS + 2):
                begin = time.perf_counter()
                for _ in range(_JAX_STEPS):
                    params, state = step(params, state, grads)
                jax.block_until_ready(params)
                if i > 1:
                    times.append(1e3 * (time.perf_counter() - begin) / _JAX_STEPS)
            row[way] = statistics.median(times)
            del params, grads, state
        rows.append(row)
        print(row, flush=True)
    return rows
