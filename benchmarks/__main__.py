"""``python -m benchmarks``: time steps of optstudy and of a peer in turn, with ratios of pairs."""

from __future__ import annotations

import argparse
import functools
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import optstudy_core
import optstudy_jax
import optstudy_torch

Sizes = Sequence["int | tuple[int, ...]"]
"""For each tensor, the number of elements or, if rows and columns matter, the shape."""

_BLOCK = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]

SHAPES: dict[str, Sizes] = {
    "1 of 4 million": [4_000_000],
    "1 of 16 million": [16_000_000],
    "200 of 20,000": [20_000] * 200,
    "400 of 64": [64] * 400,
    "3 blocks of GPT-2 small": [*_BLOCK, *[(n,) for n in (2304, 768, 3072, *[768] * 5)]] * 3,
}
MATRICES: dict[str, Sizes] = {
    "256 × 256": [(256, 256)],
    "1024 × 1024": [(1024, 1024)],
    "768 × 3072": [(768, 3072)],
    "a block of GPT-2 small": _BLOCK,
}
SMALL: dict[str, Sizes] = {"64 × 64": [(64, 64)], "256 × 256": [(256, 256)]}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "sgd, plain": {},
    "sgd": {"momentum": 0.9},
    "adam": {},
    "adamw": {},
    "rmsprop": {},
    "lion": {},
    "adafactor": {},
    "muon": {},
    "shampoo": {"update_interval": 10.0},
    "soap": {},
}
"""Hyperparameters by the name of the algorithm; a text after a comma distinguishes cases."""

TENSORS: dict[str, dict[str, Sizes]] = {"muon": MATRICES, "shampoo": SMALL, "soap": SMALL}
"""The tensors for algorithms that multiply matrices."""

TEN = ("shampoo", "soap")
"""Algorithms timed by ten steps, because they do most of their work at every tenth step."""

MOST = {"muon": 10, "shampoo": 5, "soap": 5}
"""The largest number of counted pairs, where a step takes seconds."""

FUSED = ("sgd, plain", "sgd", "adam", "adamw")
"""Algorithms with a fused kernel in torch.optim."""

PAIRS = (
    "torch / torch.optim",
    "torch compile=False / torch.optim",
    "torch compile=True / fused=True",
    "JAX jit / optax jit, donated",
)

Step = Callable[[], None]


class HandLion(torch.optim.Optimizer):
    """Lion written with operations of torch on lists, because torch.optim has no Lion."""

    def __init__(self, params: Any, lr: float, **_: Any) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Advance the parameters."""
        for group in self.param_groups:
            params = group["params"]
            grads = [p.grad for p in params]
            for p in params:
                if not self.state[p]:
                    self.state[p]["m"] = torch.zeros_like(p)
            m = [self.state[p]["m"] for p in params]
            mixed = torch._foreach_mul(m, 0.9)
            torch._foreach_add_(mixed, grads, alpha=0.1)
            torch._foreach_sign_(mixed)
            torch._foreach_add_(params, mixed, alpha=-group["lr"])
            torch._foreach_mul_(m, 0.99)
            torch._foreach_add_(m, grads, alpha=0.01)


def torch_step(ours: bool, name: str, shapes: Sizes, device: str = "cpu", **options: Any) -> Step:
    """Return a step of an optimizer of optstudy or torch, with constant gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(_draw(n, generator).to(device)) for n in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(device)
    title = optstudy_core.ALGORITHMS[algorithm_of(name)].title
    if ours:
        cls: Any = getattr(optstudy_torch, title)
    else:
        cls = getattr(torch.optim, title, None) or _peer(name)
    optimizer = cls(params, lr=1e-3, **ALGORITHMS[name], **options)
    if name not in TEN:
        return lambda: optimizer.step()

    def ten() -> None:
        for _ in range(10):
            optimizer.step()

    return ten


def _peer(name: str) -> Any:
    """Return the peer of an algorithm that torch.optim does not have."""
    if name == "lion":
        return HandLion
    import pytorch_optimizer

    if name == "soap":
        return pytorch_optimizer.SOAP

    def shampoo(params: Any, lr: float, update_interval: float) -> Any:
        interval = int(update_interval)
        return pytorch_optimizer.Shampoo(params, lr=lr, preconditioning_compute_steps=interval)

    return shampoo


def algorithm_of(name: str) -> str:
    """Return the algorithm of a case."""
    return name.partition(",")[0]


def _draw(size: int | tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if isinstance(size, tuple):
        return torch.randn(size, generator=generator)
    x = torch.randn(size, generator=generator)
    rows = next(r for r in (2000, 100, 8, 1) if size % r == 0 and size >= r * r)
    return x.view(rows, -1) if rows > 1 else x  # Adafactor has rows and columns


def jax_step(module: Any, name: str, shapes: Sizes) -> Step:
    """Return a jitted and donated step of a transformation with constant gradients."""
    jitted, params, state, grads = jax_parts(module, name, shapes)
    held = [params, state]

    def step() -> None:
        held[:] = jitted(held[0], held[1], grads)
        jax.block_until_ready(held)

    return step


def jax_parts(module: Any, name: str, shapes: Sizes) -> tuple[Any, Any, Any, Any]:
    """Return a jitted step, parameters, the state and gradients."""
    generator = torch.Generator().manual_seed(0)
    params, grads = (
        [jax.numpy.asarray(_draw(n, generator).numpy()) for n in shapes] for _ in range(2)
    )
    own = algorithm_of(name)
    make = getattr(module, own, None) or getattr(module.contrib, own)
    tx = make(1e-3, **ALGORITHMS[name])

    def advance(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(advance, donate_argnums=(0, 1)), params, tx.init(params), grads


Pair = Callable[[str, Sizes], tuple[Step, Step]]


def pairs(device: str = "cpu") -> dict[str, Pair]:
    """Return the compared pairs by name, optstudy first."""

    def torch_pair(name: str, shapes: Sizes, **options: Any) -> tuple[Step, Step]:
        fused = {"fused": True} if options.get("compile") and name in FUSED else {}
        ours = torch_step(True, name, shapes, device, **options)
        return ours, torch_step(False, name, shapes, device, **fused)

    def jax_pair(name: str, shapes: Sizes) -> tuple[Step, Step]:
        return jax_step(optstudy_jax, name, shapes), jax_step(optax, name, shapes)

    eager, compiled = (functools.partial(torch_pair, compile=how) for how in (False, True))
    return dict(zip(PAIRS, (torch_pair, eager, compiled, jax_pair), strict=True))


def measure(ours: Step, theirs: Step, rounds: int) -> dict[str, float]:
    """Time both in turn; return medians in milliseconds and quartiles of the ratio."""
    for step in (ours, theirs):
        for _ in range(3):
            step()
    times: list[tuple[float, float]] = []
    for i in range(rounds):
        row = {}
        for step in (ours, theirs) if i % 2 else (theirs, ours):
            start = time.perf_counter()
            step()
            _wait()
            row[step] = time.perf_counter() - start
        times.append((row[ours], row[theirs]))
    ratios = [a / b for a, b in times]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "ours_ms": 1e3 * statistics.median(a for a, _ in times),
        "theirs_ms": 1e3 * statistics.median(b for _, b in times),
        "ratio": middle,
        "ratio_low": low,
        "ratio_high": high,
    }


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def bandwidth(device: str = "cpu") -> float:
    """Return the bytes a second that torch reads and writes in a copy of 256 MB."""
    x = torch.ones(64_000_000, device=device)
    y = torch.empty_like(x)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        y.copy_(x)
        _wait()
        times.append(time.perf_counter() - start)
    return 2 * 4 * x.numel() / statistics.median(times)


def moved(name: str, size: int) -> int:
    """Return the bytes that a step must move: p and state read and written, the gradient read."""
    algorithm = optstudy_core.ALGORITHMS[algorithm_of(name)]
    values = algorithm.resolve(None, ALGORITHMS[name])
    state = algorithm.start(np.zeros((40, size // 40), np.float32), values)
    numbers = sum(x.nbytes for x in jax.tree.leaves(state) if x.size > 1)
    return 3 * 4 * size + 2 * numbers


def about() -> dict[str, Any]:
    """Return the machine and the versions."""
    found: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "jax": jax.__version__,
        "optax": optax.__version__,
    }
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        lines = [x for x in cpus.read_text().splitlines() if x.startswith("model name")]
        found["machine"] = f"{len(lines)} cores of {lines[0].partition(': ')[2]}"
    if torch.cuda.is_initialized():
        found["card"] = torch.cuda.get_device_name()
    return found


def tensors(name: str) -> dict[str, Sizes]:
    """Return the tensors of an algorithm."""
    return TENSORS.get(name, SHAPES)


def speed(
    rounds: int,
    names: Sequence[str] = tuple(ALGORITHMS),
    device: str = "cpu",
    chosen: Sequence[str] = PAIRS,
) -> list[dict[str, Any]]:
    """Return a row for each chosen pair, algorithm and set of tensors."""
    rows: list[dict[str, Any]] = []
    copied = bandwidth(device)
    work = [(p, n, s) for p in chosen for n in names for s in tensors(n)]
    for pair, name, shapes in track(work, console=Console(stderr=True), transient=True):
        if "compile=" in pair and name in TENSORS:
            continue  # both use the same products of a library
        if name in TEN and not (pair.startswith("torch /") and find_spec("pytorch_optimizer")):
            continue  # optax does not have it, or there is no peer
        sizes = tensors(name)[shapes]
        found = measure(*pairs(device)[pair](name, sizes), min(rounds, MOST.get(name, rounds)))
        elements = sum(math.prod(n) if isinstance(n, tuple) else n for n in sizes)
        share = moved(name, elements) / (found["ours_ms"] / 1e3) / copied
        row = {"pair": pair, "algorithm": name, "tensors": shapes}
        rows.append(row | found | {"share_of_copy": share})
    return rows


def checked(parser: argparse.ArgumentParser, option: str, names: list[str]) -> list[str]:
    """Return the names of an option, or end with the message that one is unknown."""
    known = {"algorithms": ALGORITHMS, "pairs": PAIRS}[option]
    for name in names:
        if name not in known:
            parser.error(f"{option} = {name!r}: allowed are {'; '.join(known)}")
    return names


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="counted pairs (default 30)")
    parser.add_argument(
        "--algorithms",
        default=";".join(ALGORITHMS),
        help=f"with semicolons between (default {';'.join(ALGORITHMS)})",
    )
    parser.add_argument("--device", default="cpu", help="device of torch tensors (default cpu)")
    parser.add_argument(
        "--pairs", nargs="+", default=PAIRS, metavar="PAIR", help=f"from {'; '.join(PAIRS)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"rounds = {arguments.rounds}: allowed are whole numbers from 2")
    names = checked(parser, "algorithms", arguments.algorithms.split(";"))
    checked(parser, "pairs", arguments.pairs)
    rows = speed(arguments.rounds, names, arguments.device, arguments.pairs)
    console = Console()
    title = "Time of a step: medians, and quartiles of the ratio"
    table = Table(title=title, title_justify="left", box=None)
    headings = ("pair", "algorithm", "tensors", "ours ms", "peer ms", "ratio", "quartiles", "copy")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    console.print("copy: the speed of a step relative to a plain copy of memory")
    facts = about() | {"rounds": arguments.rounds}
    console.print(", ".join(f"{k} {v}" for k, v in facts.items()))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"about": facts, "rows": rows}, indent=1) + "\n")
    return 0


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of :func:`speed` as text."""
    return [
        row["pair"],
        row["algorithm"],
        row["tensors"],
        f"{row['ours_ms']:.3g}",
        f"{row['theirs_ms']:.3g}",
        f"{row['ratio']:.2f}",
        f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}",
        f"{100 * row['share_of_copy']:.0f} %",
    ]


if __name__ == "__main__":
    sys.exit(main())
