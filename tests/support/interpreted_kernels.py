"""Runs kernels of Triton in its interpreter, on the CPU, against the definition.

Not a test itself: test_gpu.py runs it in a process of its own, since Triton reads once whether it
is to interpret. Its bfloat16 truncates, so float16 stands for the small dtypes.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from harness import definition, draw, same, start, to_numpy, to_torch

from optstudy_core import ALGORITHMS
from optstudy_torch import _as_written, from_core
from optstudy_torch.engine import dispatch, kernels_in_triton, stages

SHAPES = [(), (1500,), (3,), (0,), (4, 5), (1,)]
STEPS = 3
RATE = torch.tensor(1e-3, dtype=torch.float64)


def mismatches(name: str, dtype: Any, step_dtype: str | None = None, **given: Any) -> list[str]:
    """Return the leaves whose bits are not the definition's."""
    algorithm = ALGORITHMS[name]
    begin, grads = start(SHAPES, dtype=dtype), draw(SHAPES, STEPS, dtype=dtype)
    params = [torch.nn.Parameter(to_torch(x)) for x in begin]
    with torch.no_grad():  # one that is dense in another order, and one that is not dense
        params[4] = torch.nn.Parameter(params[4].t().contiguous().t())
        params[1] = torch.nn.Parameter(torch.stack([params[1], params[1]], 1)[:, 0])
    made = from_core(name)(params, step_dtype=step_dtype, **given)
    for row in grads:
        for p, x in zip(params, row, strict=True):
            p.grad = to_torch(x)
        inputs: dict[str, Any] = {}
        if "value" in algorithm.inputs:
            inputs["value"] = 1.0
        if "hessian" in algorithm.inputs:
            inputs["hessian"] = [torch.ones_like(p) for p in params]
        made.step(None, **inputs)
    assert all(stage.direct for staged in made._staged.values() for stage in staged.stages)
    if algorithm.has_global_sums:  # the definition of the tests goes leaf by leaf
        return []
    ends, _ = definition(name, begin, grads, step_dtype=step_dtype)
    return [
        f"{name} {np.dtype(dtype).name} {step_dtype} leaf {i}"
        for i, (p, end) in enumerate(zip(params, ends, strict=True))
        if not same(to_numpy(p), end)
    ]


def main() -> None:
    """Try the algorithms that are named, or all."""
    stages.HOST = _as_written.HOST = ""
    dispatch.KERNELS = {"cpu": kernels_in_triton.Kernels}
    names = sys.argv[1:] or [n for n, a in ALGORITHMS.items() if not a.leafwise]
    wrong = []
    for name in names:
        for dtype in (np.float32, np.float64):
            wrong += mismatches(name, dtype)
        wrong += mismatches(name, np.float16, "float32")
        wrong += mismatches(name, np.float16)
        wrong += mismatches(name, np.float32, lr=RATE) if name == "adam" else []
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
