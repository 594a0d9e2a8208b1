"""Measure the cost of recording on a GPU, and check that no step waits for the device."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

import optstudy_torch

WIDTH, DEPTH, BATCH = 2000, 4, 512
ROUNDS = 30
EPOCH = ("loss", "step_size", "angle")
STEP = ("usual",)


def _twin() -> tuple[Any, Any, Callable[[], torch.Tensor]]:
    """Return a network of 16 million parameters, its optimizer, and a step."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for _ in range(DEPTH):
        layers += [torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers).cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    x, y = torch.randn(2, BATCH, WIDTH, device="cuda")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, step


def _milliseconds(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Time functions in turn with events of the device; return medians."""
    times: dict[str, list[Any]] = {name: [] for name in functions}
    for i in range(rounds + 3):
        for name, function in functions.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            function()
            end.record()
            if i > 2:
                times[name].append((begin, end))
    torch.cuda.synchronize()
    return {
        name: statistics.median(a.elapsed_time(b) for a, b in pairs)
        for name, pairs in times.items()
    }


def measure() -> dict[str, Any]:
    """Return times with and without a recorder, and whether a step waited."""
    model, optimizer, step = _twin()
    _, _, bare = _twin()
    with optstudy_torch.Recorder(model, optimizer, epoch=(), step=STEP) as recorder:
        found: dict[str, Any] = {
            "step": _milliseconds({"with": lambda: recorder.step(step()), "without": bare}, ROUNDS)
        }
        torch.cuda.set_sync_debug_mode("error")
        try:
            recorder.step(step())
            found["waits"] = False
        except RuntimeError as error:
            found["waits"] = str(error)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    model, optimizer, step = _twin()
    with optstudy_torch.Recorder(model, optimizer, epoch=EPOCH) as recorder:
        recorder.step(step())
        recorder.end_epoch()
        recorder.step(step())
        found["end_epoch"] = _milliseconds({"ms": recorder.end_epoch}, 10)["ms"]
    found["parameters"] = sum(p.numel() for p in model.parameters())
    # A step of the optimizer must not wait either, compiled or not.
    for compiled in (False, None):
        p = torch.nn.Parameter(torch.randn(1000, 1000, device="cuda"))
        q = torch.nn.Parameter(torch.randn(1000, device="cuda"))
        ours = optstudy_torch.AdamW([p, q], lr=1e-3, compile=compiled)
        name = f"AdamW, compile={compiled}, waits"
        for i in range(4):
            p.grad, q.grad = torch.randn_like(p), torch.randn_like(q)
            torch.cuda.set_sync_debug_mode("error" if i > 1 else "default")
            try:
                ours.param_groups[0]["lr"] = 1e-3 / (1 + i)
                ours.step()
                found[name] = False
            except RuntimeError as error:
                found[name] = str(error)
                break
            finally:
                torch.cuda.set_sync_debug_mode("default")
    return found
