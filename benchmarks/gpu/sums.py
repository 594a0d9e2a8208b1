"""Compare exact sums on a GPU with NumPy on the CPU, and time them."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

SIZES = (10**3, 10**6, 10**8, 10**9)
ROUNDS = 30
_LIMIT = 10**8  # above it the host sums one vector, and times have fewer rounds


def milliseconds(function: Callable[[], Any], rounds: int) -> float:
    """Return the median time of a function on the GPU."""
    import torch

    function()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def measure(sizes: tuple[int, ...] = SIZES) -> list[dict[str, Any]]:
    """Return a row for each size: whether the bits equal those of NumPy, and times."""
    import jax
    import torch

    import optstudy_jax
    import optstudy_torch
    from optstudy_core import geometry

    rows = []
    for size in sizes:
        generator = torch.Generator("cuda").manual_seed(size)
        decades = torch.rand(size, generator=generator, device="cuda") * 22 - 11
        x = torch.randn(size, generator=generator, device="cuda") * 10**decades
        del decades
        host = x.cpu().numpy()
        wanted = float(geometry.norm(host))
        rounds = ROUNDS if size <= _LIMIT else 5
        cuts = [0, size // 7, size // 3, size - size // 5, size]
        parts = [x[a:b] for a, b in itertools.pairwise(cuts)]
        row = {
            "size": size,
            "torch": float(optstudy_torch.geometry.norm(x)) == wanted,
            "torch, in parts": float(optstudy_torch.geometry.norm(parts[::-1])) == wanted,
            "torch ms": milliseconds(lambda x=x: optstudy_torch.geometry.norm(x), rounds),
            "plain ms": milliseconds(lambda x=x: torch.linalg.vector_norm(x), rounds),
        }
        if size <= _LIMIT:
            other = torch.roll(x, 1) + x
            dots = geometry.dot(host, other.cpu().numpy())
            row["torch, dot"] = float(optstudy_torch.geometry.dot(x, other)) == float(dots)
            del other
        y = jax.dlpack.from_dlpack(x)
        row["JAX"] = float(optstudy_jax.geometry.norm(y)) == wanted
        pieces = [y[a:b] for a, b in itertools.pairwise(cuts)]
        row["JAX, in parts"] = float(optstudy_jax.geometry.norm(pieces)) == wanted
        del pieces
        row["JAX ms"] = milliseconds(
            lambda y=y: optstudy_jax.geometry.norm(y).block_until_ready(), rounds
        )
        rows.append(row)
        del x, y, parts
    return rows
