"""``python -m benchmarks.long_runs``: the resources of a long run at its start, middle and end.

The steps train small models. Every hundred steps have other shapes and a new optimizer (several
algorithms in turn), and every step has another rate. The epochs train one model, and each is
recorded in the folder of a run. Memory, file descriptors and tables should be the same in the
middle and at the end, except for the rows of the epochs in the recorder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import optstudy_torch
from optstudy_torch import Recorder, _plans, _states, from_core
from optstudy_torch.engine import cache, exact_sums_in_c

ALGORITHMS = "adamw", "sgd", "lamb", "adafactor", "rprop", "muon", "prodigy"
EVERY = 100  # steps with one model
WARM_UP = 2 * EVERY * len(ALGORITHMS)
WARM_UP_EPOCHS = 20

Figures = dict[str, float]


def steps(count: int) -> Iterator[None]:
    """Take steps."""
    for i in range(count):
        if i % EVERY == 0:
            number = i // EVERY
            rows, columns = 3 + number % 61, 2 + number % 47
            model = torch.nn.Sequential(
                torch.nn.Linear(columns, rows), torch.nn.Tanh(), torch.nn.Linear(rows, 1)
            )
            make = from_core(ALGORITHMS[number % len(ALGORITHMS)])
            given: dict[str, Any] = {"lr": 1e-3, "compile": None if number % 2 else False}
            if make is optstudy_torch.Muon:
                given["dialect"] = "paper"  # the dialect torch refuses vectors
            optimizer = make(model.parameters(), **given)
        optimizer.param_groups[0]["lr"] = 1e-3 / (1 + i)
        optimizer.zero_grad()
        model(torch.randn(8, columns)).square().mean().backward()
        optimizer.step()
        yield


def epochs(count: int, folder: Path) -> Iterator[None]:
    """Record epochs of four steps."""
    model = torch.nn.Linear(8, 1)
    optimizer = from_core("adamw")(model.parameters(), lr=1e-3)
    with Recorder(model, optimizer, step=["grad_norm"], run=folder / "run") as recorder:
        for i in range(count):
            optimizer.param_groups[0]["lr"] = 1e-3 / (1 + i)
            recorder.begin_epoch()
            for _ in range(4):
                optimizer.zero_grad()
                loss = model(torch.randn(8, 8)).square().mean()
                loss.backward()
                optimizer.step()
                recorder.step(loss)
            recorder.end_epoch(loss)
            yield


def found() -> Figures:
    """Return the resources of the process; memory and descriptors if the system reports them."""
    figures: Figures = {}
    status, descriptors = Path("/proc/self/statm"), Path("/proc/self/fd")
    if status.exists():
        pages = int(status.read_text().split()[1])
        figures["memory, MiB"] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        figures["file descriptors"] = len([*descriptors.iterdir()])
    figures["programs"] = len(_plans._PROGRAMS)
    figures["programs with kernels of a shape"] = len(_plans._SHAPES)
    figures["layouts"] = len(_states._LAYOUTS)
    figures["passes of sums"] = exact_sums_in_c._made.cache_info().currsize
    with suppress(OSError):
        figures["kernels on disk"] = len([*cache.folder().glob("*.so")])
    return figures


def watched(run: Callable[[int], Iterator[None]], warm_up: int, count: int) -> dict[str, Any]:
    """Return the resources after the warm-up, in the middle and at the end, and the seconds."""
    begin = time.perf_counter()
    seen = []
    marks = {warm_up, (warm_up + count) // 2, count}
    for i, _ in enumerate(run(count), 1):
        if i in marks:
            seen.append(found())
    seconds = time.perf_counter() - begin
    start, middle, end = seen
    return {"start": start, "middle": middle, "end": end, "seconds": seconds}


def main() -> int:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.long_runs", description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="default 20,000")
    parser.add_argument("--epochs", type=int, default=2_000, help="default 2,000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    arguments = parser.parse_args()
    for name, least in (("steps", WARM_UP + 2), ("epochs", WARM_UP_EPOCHS + 2)):
        if getattr(arguments, name) < least:
            parser.error(f"{name} = {getattr(arguments, name)}: allowed are numbers from {least}")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            f"{arguments.steps:,} steps": watched(steps, WARM_UP, arguments.steps),
            f"{arguments.epochs:,} epochs": watched(
                lambda count: epochs(count, Path(folder)), WARM_UP_EPOCHS, arguments.epochs
            ),
        }
    console = Console()
    for what, own in figures.items():
        table = Table(title=f"{what}, {own['seconds']:.0f} s", title_justify="left")
        for heading in ("what is kept", "start", "middle", "end"):
            table.add_column(heading)
        for name in own["start"]:
            table.add_row(name, *(f"{own[when][name]:.0f}" for when in ("start", "middle", "end")))
        console.print(table)
    about = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    console.print(", ".join(f"{k} {v}" for k, v in about.items()))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
