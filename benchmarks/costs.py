"""``python -m benchmarks.costs``: memory, time of imports and compilation, time per parameter."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (10**5, 10**6, 10**7, 10**8)
PARAMETERS = 200_000_000
JITTED = ("adam", "adamw", "adafactor")
KINDS = ("torch", "torch, compile=False", "torch.optim", "jax", "optax")
IMPORTS = {
    "import optstudy_core": "numpy",
    "import optstudy_torch": "torch",
    "from optstudy_torch import Adam": "torch",
    "import optstudy_jax": "jax, optax",
    "from optstudy_jax import adam": "jax, optax",
}


def memory(kind: str, parameters: int) -> dict[str, float]:
    """Return the memory of Adam in MiB, besides parameters, gradients and two moments."""
    from . import __main__ as benchmarks

    shapes = [parameters // 4] * 2 + [20_000] * (parameters // 40_000)
    if kind in ("jax", "optax"):
        import optax

        import optstudy_jax

        step, params, state, grads = benchmarks.jax_parts(
            {"jax": optstudy_jax, "optax": optax}[kind], "adam", [parameters // 2] * 2
        )
        temporary = step.lower(params, state, grads).compile().memory_analysis()
        return {"extra_mib": temporary.temp_size_in_bytes / 2**20}
    options = {"compile": False} if kind == "torch, compile=False" else {}
    step = benchmarks.torch_step(kind != "torch.optim", "adam", shapes, **options)
    before = _resident()
    for _ in range(3):
        step()
    return {"extra_mib": _peak() - before - 2 * 4 * sum(shapes) / 2**20}


def median_memory(kind: str) -> dict[str, float]:
    """Return the median of :func:`memory` in three new processes."""
    found = [_child("--memory", kind)["extra_mib"] for _ in range(3)]
    return {"extra_mib": statistics.median(found)}


def _status(name: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 2**10


def _resident() -> float:
    return _status("VmRSS")


def _peak() -> float:
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _child(*arguments: str, **variables: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.costs", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | variables
    )
    return json.loads(done.stdout.splitlines()[-1])


def imports(rounds: int) -> list[dict[str, Any]]:
    """Return the times of imports after the libraries that they need are imported.

    The time may include a garbage collection of these libraries. The first import is not counted,
    because Python compiles modules once, when a package is installed.
    """
    kept = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}

    def milliseconds(base: str, statement: str) -> list[float]:
        code = f"""
import gc, json, time, {base}

times = []
gc.callbacks.append(lambda phase, info: times.append(time.perf_counter()))
begin = time.perf_counter()
{statement}
whole = time.perf_counter() - begin
print(json.dumps([1e3 * whole, 1e3 * (sum(times[1::2]) - sum(times[::2]))]))
"""
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=kept)
        found: list[float] = json.loads(done.stdout)
        return found

    rows = []
    for statement, base in IMPORTS.items():
        milliseconds(base, statement)
        whole, garbage = zip(*(milliseconds(base, statement) for _ in range(rounds)), strict=True)
        low, middle, high = statistics.quantiles(whole, n=4)
        found = {"ms": middle, "ms_low": low, "ms_high": high}
        found["ms_garbage"] = statistics.median(garbage)
        rows.append({"statement": statement, "base": base} | found)
    return rows


def first_step(name: str) -> dict[str, float]:
    """Return the time of a first compiled step, and of six more with other sizes."""
    from . import __main__ as benchmarks

    step = benchmarks.torch_step(True, name, [1_000_000, *[20_000] * 20], compile=True)
    begin = time.perf_counter()
    step()
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    for shapes in ([300_000], [70_000, 150_000, *[33] * 100], [5_000_000]):
        other = benchmarks.torch_step(True, name, shapes, compile=True)
        for _ in range(2):
            other()
    return {"first_s": first, "others_s": time.perf_counter() - begin}


def compilation() -> list[dict[str, Any]]:
    """Return :func:`first_step` with an empty cache on disk and with a filled cache."""
    from . import __main__ as benchmarks

    rows = []
    for name in (x for x in benchmarks.ALGORITHMS if x not in benchmarks.TENSORS):
        with tempfile.TemporaryDirectory() as folder:
            kept = {"XDG_CACHE_HOME": folder}
            cold, warm = (_child("--first-step", name, **kept) for _ in range(2))
        rows.append({"algorithm": name, "cold": cold, "warm": warm})
    return rows


def jax_compilation(count: int = 400) -> list[dict[str, Any]]:
    """Return the time to trace and compile a step of many tensors of 64, also for optax."""
    import optax

    import optstudy_jax

    from . import __main__ as benchmarks

    rows = []
    for name in JITTED:
        row: dict[str, Any] = {"algorithm": name}
        for kind, module in {"ours_s": optstudy_jax, "optax_s": optax}.items():
            step, *arguments = benchmarks.jax_parts(module, name, [64] * count)
            begin = time.perf_counter()
            step.lower(*arguments).compile()
            row[kind] = time.perf_counter() - begin
        rows.append(row | {"ratio": row["ours_s"] / row["optax_s"]})
    return rows


def growth(rounds: int) -> list[dict[str, Any]]:
    """Return the nanoseconds of Adam for each parameter, for one tensor of growing size."""
    import optstudy_jax

    from . import __main__ as benchmarks

    rows = []
    for size in SIZES:
        steps = {
            "torch": lambda n=size: benchmarks.torch_step(True, "adam", [n]),
            "torch compile=False": lambda n=size: benchmarks.torch_step(
                True, "adam", [n], compile=False
            ),
            "torch.optim": lambda n=size: benchmarks.torch_step(False, "adam", [n]),
            "torch.optim fused": lambda n=size: benchmarks.torch_step(
                False, "adam", [n], fused=True
            ),
            "JAX jit": lambda n=size: benchmarks.jax_step(optstudy_jax, "adam", [n]),
        }
        row: dict[str, Any] = {"size": size}
        for name, make in steps.items():
            step = make()
            times = []
            for i in range(rounds + 2):
                begin = time.perf_counter()
                step()
                if i > 1:
                    times.append(time.perf_counter() - begin)
            row[name] = 1e9 * statistics.median(times) / size
        rows.append(row)
    return rows


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the growth of the time with the size."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "optstudy"
    drawing, ax = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    for name in rows[0]:
        if name != "size":
            look = "--" if name.startswith("torch.optim") else "-"
            ax.loglog(
                [r["size"] for r in rows], [r[name] for r in rows], look, marker="o", label=name
            )
    ax.set_xlabel("elements in one tensor")
    ax.set_ylabel("ns per element and step")
    ax.set_title("A step of Adam in float32")
    ax.grid(visible=True, which="major", alpha=0.3)
    ticks = [0.3, 0.5, 1, 2, 3, 5]
    ax.set_yticks(ticks, map(str, ticks))
    ax.set_yticks([], minor=True)
    drawing.legend(loc="outside right upper", frameon=False)
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)


def measure(rounds: int) -> dict[str, Any]:
    """Return all results."""
    return {
        "memory": {kind: median_memory(kind) for kind in KINDS},
        "imports": imports(rounds),
        "compilation": compilation(),
        "jax_compilation": jax_compilation(),
        "growth": growth(rounds),
    }


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.costs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="rounds (default 10)")
    parser.add_argument("--memory", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--first-step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"rounds = {arguments.rounds}: allowed are whole numbers from 2")
    if arguments.memory:
        print(json.dumps(memory(arguments.memory, PARAMETERS)))
        return 0
    if arguments.first_step:
        print(json.dumps(first_step(arguments.first_step)))
        return 0
    found = measure(arguments.rounds)
    print(json.dumps(found, indent=1, default=np.ndarray.tolist))
    return 0


if __name__ == "__main__":
    sys.exit(main())
