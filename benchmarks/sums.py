"""``python -m benchmarks.sums``: time exact sums and plain sums in turn, with ratios of pairs.

The plain dot product is the usual code in the library: the sum of products of float64 copies.
"host" is ``optstudy_core.geometry`` on NumPy arrays, CPU tensors of torch or JAX arrays.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import optstudy_jax.geometry
import optstudy_torch.geometry
from optstudy_core import geometry

from .__main__ import Step, measure

SIZES = (100_000, 1_000_000, 10_000_000)
SUMS = ("norm", "dot", "cosine", "angle")
PLAIN = ("library's own", "exact=False")


def numbers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two float32 vectors over twelve decades."""
    rng = np.random.default_rng(0)
    draw = lambda: 10.0 ** rng.uniform(-6, 6, size) * rng.choice([-1, 1], size)  # noqa: E731
    return draw().astype(np.float32), draw().astype(np.float32)


def _waiting(function: Callable[..., Any], *args: Any, **options: Any) -> Step:
    def step() -> None:
        jax.block_until_ready(function(*args, **options))

    return step


def pairs(name: str, size: int, plain: str) -> dict[str, tuple[Step, Step]]:
    """Return the exact and the plain sum for each kind of array.

    Args:
        name: a name in :data:`SUMS`.
        size: the size of the vectors.
        plain: a name in :data:`PLAIN`; the library has norms and dot products.
    """
    x, y = numbers(size)
    arrays = {
        "NumPy, host": (geometry, (x, y)),
        "torch, host": (geometry, (torch.tensor(x), torch.tensor(y))),
        "torch": (optstudy_torch.geometry, (torch.tensor(x), torch.tensor(y))),
        "JAX, host": (geometry, (jnp.asarray(x), jnp.asarray(y))),
        "JAX, jit": (optstudy_jax.geometry, (jnp.asarray(x), jnp.asarray(y))),
    }
    found = {}
    for kind, (module, vectors) in arrays.items():
        given = vectors[:1] if name == "norm" else vectors
        # The last step of the angle of JAX arrays is on the host; time the chords instead.
        function = getattr(module, "chords" if (kind, name) == ("JAX, jit", "angle") else name)
        exact = _waiting(function, *given)
        if plain == "exact=False":
            found[kind] = exact, _waiting(function, *given, exact=False)
        else:
            found[kind] = exact, _waiting(_own(kind), given[0], given[-1])
    return found


def _own(kind: str) -> Callable[[Any, Any], Any]:
    """Return a dot product in float64, in the usual code."""
    if kind.startswith("torch"):
        return lambda x, y: (x.double() * y.double()).sum()
    if kind == "JAX, jit":

        @jax.jit
        def dot(x: Any, y: Any) -> Any:
            with jax.enable_x64(True):
                return jnp.sum(x.astype(jnp.float64) * y.astype(jnp.float64))

        return dot
    return lambda x, y: np.sum(np.asarray(x).astype(np.float64) * np.asarray(y).astype(np.float64))


def compare(rounds: int, sizes: tuple[int, ...] = SIZES) -> list[dict[str, Any]]:
    """Return a row for each kind of array, sum, size and plain sum."""
    work = [
        (plain, name, size)
        for plain in PLAIN
        for name in SUMS
        for size in sizes
        if plain == "exact=False" or name in ("norm", "dot")
    ]
    rows = []
    for plain, name, size in track(work, console=Console(stderr=True), transient=True):
        for kind, (exact, other) in pairs(name, size, plain).items():
            row = {"arrays": kind, "sum": name, "size": size, "plain": plain}
            found = measure(exact, other, rounds)
            found["exact_ms"], found["plain_ms"] = found.pop("ours_ms"), found.pop("theirs_ms")
            rows.append(row | found)
    return rows


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.sums", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="counted pairs (default 15)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="elements of a vector")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"rounds = {arguments.rounds}: allowed are whole numbers from 2")
    if min(arguments.sizes) < 1:
        parser.error(f"sizes = {arguments.sizes}: allowed are whole numbers from 1")
    rows = compare(arguments.rounds, tuple(arguments.sizes))
    console = Console()
    for plain in PLAIN:
        title = f"Exact sum over plain sum ({plain}): medians, quartiles"
        table = Table(title=title, title_justify="left", box=None)
        for heading in ("sum", "size", "arrays", "exact ms", "plain ms", "ratio", "quartiles"):
            table.add_column(heading, no_wrap=True)
        for row in rows:
            if row["plain"] == plain:
                table.add_row(
                    row["sum"],
                    f"{row['size']:,}",
                    row["arrays"],
                    f"{row['exact_ms']:.3g}",
                    f"{row['plain_ms']:.3g}",
                    f"{row['ratio']:.2f}",
                    f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}",
                )
        console.print(table)
    about = {
        "machine": platform.processor() or platform.machine(),
        "torch threads": torch.get_num_threads(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "jax": jax.__version__,
        "rounds": arguments.rounds,
    }
    console.print(", ".join(f"{k} {v}" for k, v in about.items()))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
