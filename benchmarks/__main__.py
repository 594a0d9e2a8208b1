"""``python -m benchmarks``: ours and the peer's step in turn, and the ratio pair by pair."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import optstudy_jax
import optstudy_torch

SHAPES: dict[str, list[int]] = {
    "1 of 4 million": [4_000_000],
    "1 of 16 million": [16_000_000],
    "200 of 20,000": [20_000] * 200,
    "400 of 64": [64] * 400,
}
ALGORITHMS = {"sgd": {"momentum": 0.9}, "adam": {}, "adamw": {}}

Step = Callable[[], None]


def torch_step(module: Any, name: str, shapes: list[int], **options: Any) -> Step:
    """Return a step of a torch optimizer with constant gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(n, generator=generator)) for n in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    cls = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[name]
    optimizer = getattr(module, cls)(params, lr=1e-3, **ALGORITHMS[name], **options)
    return lambda: optimizer.step()


def jax_step(module: Any, name: str, shapes: list[int]) -> Step:
    """Return a jitted and donated step of a transformation with constant gradients."""
    rng = np.random.default_rng(0)
    params = [jax.numpy.asarray(rng.normal(size=n), np.float32) for n in shapes]
    grads = [jax.numpy.asarray(rng.normal(size=n), np.float32) for n in shapes]
    tx = getattr(module, name)(1e-3, **ALGORITHMS[name])

    def advance(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(advance, donate_argnums=(0, 1))
    held = [params, tx.init(params)]

    def step() -> None:
        held[:] = jitted(held[0], held[1], grads)
        jax.block_until_ready(held)

    return step


def pairs() -> dict[str, Callable[[str, list[int]], tuple[Step, Step]]]:
    """Return what is compared: ours first."""
    ours, theirs = optstudy_torch, torch.optim

    def compiled(name: str, shapes: list[int]) -> tuple[Step, Step]:
        return (
            torch_step(ours, name, shapes, compile=True),
            torch_step(theirs, name, shapes, fused=True),
        )

    return {
        "torch / torch.optim default": lambda name, shapes: (
            torch_step(ours, name, shapes),
            torch_step(theirs, name, shapes),
        ),
        "torch compile=True / fused=True": compiled,
        "JAX jit / optax jit, donated": lambda name, shapes: (
            jax_step(optstudy_jax, name, shapes),
            jax_step(optax, name, shapes),
        ),
    }


def measure(ours: Step, theirs: Step, rounds: int) -> dict[str, float]:
    """Time both in turn; return medians in milliseconds and quartiles of the ratio."""
    for step in (ours, theirs):
        for _ in range(3):
            step()
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        row = []
        for step in (ours, theirs):
            start = time.perf_counter()
            step()
            row.append(time.perf_counter() - start)
        times.append((row[0], row[1]))
    ratios = [a / b for a, b in times]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "ours_ms": 1e3 * statistics.median(a for a, _ in times),
        "theirs_ms": 1e3 * statistics.median(b for _, b in times),
        "ratio": middle,
        "ratio_low": low,
        "ratio_high": high,
    }


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="counted pairs (default 30)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"rounds = {arguments.rounds}: allowed are whole numbers from 2")
    console = Console()
    table = Table(title="Time of a step: median, and the ratio's quartiles", title_justify="left")
    for heading in ("pair", "algorithm", "tensors", "ours ms", "peer ms", "ratio", "quartiles"):
        table.add_column(heading)
    rows = []
    work = [(p, n, s) for p in pairs() for n in ALGORITHMS for s in SHAPES]
    for pair, name, shapes in track(work, console=console, transient=True):
        found = measure(*pairs()[pair](name, SHAPES[shapes]), arguments.rounds)
        rows.append({"pair": pair, "algorithm": name, "tensors": shapes} | found)
        table.add_row(
            pair,
            name,
            shapes,
            f"{found['ours_ms']:.3g}",
            f"{found['theirs_ms']:.3g}",
            f"{found['ratio']:.2f}",
            f"{found['ratio_low']:.2f} to {found['ratio_high']:.2f}",
        )
    console.print(table)
    about = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "jax": jax.__version__,
        "optax": optax.__version__,
        "rounds": arguments.rounds,
    }
    console.print(", ".join(f"{k} {v}" for k, v in about.items()))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
