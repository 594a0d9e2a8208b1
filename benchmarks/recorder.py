"""``python -m benchmarks.recorder``: the cost of recording, timed with and without in turn.

Epochs: full epochs of AllCNN of PV-finder. In a longer epoch (the published epoch has 240,000
events) the relative cost is smaller in proportion, except for the cost of each step, which is
measured separately. Steps: forward, backward and Adam of a perceptron with 16 million parameters,
with the usual quantities of a step. Both are also measured for the small network of the digits. Its
steps take a fraction of a millisecond, so calls count more than elements. Quantities with a
separate interval are timed one by one at every step of the network of the digits.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import optstudy_torch
from studies.problems.pv_finder import torch_models
from studies.problems.pv_finder.event import BINS
from studies.problems.table import load

STEP = ("usual",)
BATCHES = (256, 512)
PUBLISHED = 240_000  # events of an epoch
WIDTH, DEPTH = 2000, 4

Step = Callable[[], torch.Tensor]
Made = Callable[[], tuple[torch.nn.Module, torch.optim.Optimizer, Step]]


def perceptron(batch: int) -> tuple[torch.nn.Module, torch.optim.Optimizer, Step]:
    """Return a network of 16 million parameters, its optimizer, and a step."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for _ in range(DEPTH):
        layers += [torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    x, y = torch.randn(batch, WIDTH), torch.randn(batch, WIDTH)
    return model, optimizer, _step(model, optimizer, torch.nn.functional.mse_loss, x, y)


def vertex_finder(batch: int) -> tuple[torch.nn.Module, torch.optim.Optimizer, Step]:
    """Return AllCNN, its optimizer, and a step."""
    torch.manual_seed(0)
    model = torch_models.AllCNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x = torch.rand(batch, 1, BINS)
    y = torch.rand(batch, BINS) * (torch.rand(batch, BINS) < 0.05)
    return model, optimizer, _step(model, optimizer, torch_models.ratio_loss, x, y)


def digits() -> tuple[torch.nn.Module, torch.optim.Optimizer, Step]:
    """Return the network of the digits, its optimizer, and a step."""
    study = load("digits", 2021)
    assert study.torch_model is not None
    torch.manual_seed(0)
    model = study.torch_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    size = study.batch_size
    x, y = (torch.from_numpy(a[:size]) for a in (study.train.inputs, study.train.targets))
    return model, optimizer, _step(model, optimizer, study.torch_loss, x, y)


def _step(model: Any, optimizer: Any, loss_function: Any, x: Any, y: Any) -> Step:
    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def _keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of new pages.

    Otherwise some gradients are in new pages in some steps, with and without a recorder, which
    takes up to a tenth of a step.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        trim_threshold, mmap_max = -1, -4  # of malloc.h
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(mmap_max, 0)


def _seconds(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _summary(times: list[tuple[float, float]]) -> dict[str, float]:
    low, middle, high = statistics.quantiles([a / b for a, b in times], n=4)
    return {
        "with_ms": 1e3 * statistics.median(a for a, _ in times),
        "without_ms": 1e3 * statistics.median(b for _, b in times),
        "ratio": middle,
        "ratio_low": low,
        "ratio_high": high,
    }


def _in_turn(recorded: Callable[[], Any], bare: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Time both in turn, in alternating order."""
    for function in (recorded, bare):
        function()
    times = []
    for i in range(rounds):
        pair = {}
        for function in (recorded, bare) if i % 2 else (bare, recorded):
            pair[function] = _seconds(function)
        times.append((pair[recorded], pair[bare]))
    return _summary(times)


def epochs(rounds: int, made: Made, batches: int, **options: Any) -> dict[str, float]:
    """Return the cost of recording each epoch: a full epoch with and without recording."""
    model, optimizer, step = made()

    def bare() -> None:
        for _ in range(batches):
            step()

    def recorded() -> None:
        # The time with recording includes making the recorder and removing its hooks.
        with optstudy_torch.Recorder(model, optimizer, **options) as recorder:
            for _ in range(batches):
                recorder.step(step())
            recorder.end_epoch()

    found = _in_turn(recorded, bare, rounds)
    with optstudy_torch.Recorder(model, optimizer, **options) as recorder:
        recorder.end_epoch()  # the first has no angle
        found["end_epoch_ms"] = 1e3 * statistics.median(
            _seconds(recorder.end_epoch) for _ in range(rounds)
        )
    return found


def steps(
    rounds: int, made: Made, step_names: Sequence[str] = STEP, **options: Any
) -> dict[str, float]:
    """Return the cost of recording each step."""
    twins = [made() for _ in range(2)]
    model, optimizer, step = twins[0]
    with optstudy_torch.Recorder(
        model, optimizer, epoch=(), step=step_names, **options
    ) as recorder:

        def recorded() -> None:
            recorder.step(step())

        recorded()  # the first step has no angle
        found = _in_turn(recorded, twins[1][2], rounds)
        found["flush_ms_per_step"] = 1e3 * _seconds(recorder.flush) / len(recorder.steps or [0])
    found["parameters"] = sum(p.numel() for p in model.parameters())
    return found


def peak(kind: str, batch: int) -> float:
    """Return the peak memory in MiB of a process that makes ten steps."""
    model, optimizer, step = perceptron(batch)
    chosen: dict[str, Any] = {
        "bare": {"epoch": ()},
        "epochs": {"epoch": ("loss", "step_size", "angle")},
        "steps": {"epoch": (), "step": STEP},
    }[kind]
    with optstudy_torch.Recorder(model, optimizer, **chosen) as recorder:
        for i in range(10):
            recorder.step(step())
            if i % 3 == 2:
                recorder.end_epoch()
    status = Path("/proc/self/status")
    if status.exists():  # getrusage may return the peak of the parent
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _peak_of_process(kind: str, batch: int, threads: int) -> float:
    command = [sys.executable, "-m", "benchmarks.recorder", "--peak", kind]
    command += ["--batch", str(batch), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.recorder", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="counted pairs (default 20)")
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        default=BATCHES,
        help=f"of the perceptron (default {' and '.join(map(str, BATCHES))})",
    )
    parser.add_argument("--events", type=int, default=32, help="a batch of AllCNN (default 32)")
    parser.add_argument("--batches", type=int, default=10, help="an epoch of AllCNN (default 10)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    parser.add_argument("--peak", choices=("bare", "epochs", "steps"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"rounds = {arguments.rounds}: allowed are whole numbers from 2")
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(peak(arguments.peak, arguments.batch[0]))
        return 0
    _keep_freed_memory()
    rounds, many = arguments.rounds, 25 * arguments.rounds
    of_allcnn = partial(vertex_finder, arguments.events)
    figures = {
        f"epoch of AllCNN, {arguments.batches} batches of {arguments.events}": epochs(
            rounds, of_allcnn, arguments.batches
        ),
        "epoch of the digits, 45 batches of 32": epochs(rounds, digits, 45),
        "step of the digits": steps(many, digits),
    }
    for name in ("distributions", "spectra", "activations", "cost"):
        figures[f"step of the digits, {name}"] = steps(many, digits, (name,))
    for batch in arguments.batch:
        figures[f"step of 16 million, batch {batch}"] = steps(rounds, partial(perceptron, batch))
    console = Console()
    table = Table(title="With a recorder and without: medians, quartiles", title_justify="left")
    for heading in ("what", "with ms", "without ms", "ratio", "quartiles"):
        table.add_column(heading)
    for what, found in figures.items():
        table.add_row(
            what,
            f"{found['with_ms']:.1f}",
            f"{found['without_ms']:.1f}",
            f"{found['ratio']:.4f}",
            f"{found['ratio_low']:.4f} to {found['ratio_high']:.4f}",
        )
    console.print(table)
    epoch, *_, step = figures.values()
    published = epoch["without_ms"] / 1e3 * PUBLISHED / (arguments.events * arguments.batches)
    share = epoch["end_epoch_ms"] / 1e3 / published
    console.print(
        f"end_epoch {epoch['end_epoch_ms']:.2f} ms, {100 * share:.5f} % of an epoch of "
        f"{PUBLISHED:,} events ({published:.0f} s)"
    )
    console.print(f"flush {step['flush_ms_per_step']:.2f} ms a step, once an epoch")
    memory = {
        kind: _peak_of_process(kind, arguments.batch[0], arguments.threads)
        for kind in ("bare", "epochs", "steps")
    }
    console.print("peak memory, MiB: " + ", ".join(f"{k} {v:.0f}" for k, v in memory.items()))
    about = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rounds": arguments.rounds,
    }
    console.print(", ".join(f"{k} {v}" for k, v in about.items()))
    if arguments.json is not None:
        content = {"about": about, "figures": figures, "memory": memory}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
