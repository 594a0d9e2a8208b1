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
from shape_programs import by_loops, by_numpy, random_rule_of_shapes

from optstudy_core import ALGORITHMS, geometry
from optstudy_core.arrays.passes import HOST
from optstudy_torch import _plans, _shapes, from_core
from optstudy_torch.engine import (
    dispatch,
    exact_sums_in_triton,
    integer_products,
    kernels_in_triton,
    shapes_in_triton,
    stages,
)

SHAPES = [(), (1500,), (3,), (0,), (4, 5), (1,)]
STEPS = 2
RATE = torch.tensor(1e-3, dtype=torch.float64)


def mismatches(name: str, dtype: Any, step_dtype: str | None = None, **given: Any) -> list[str]:
    """Return the leaves whose bits are not the definition's."""
    algorithm = ALGORITHMS[name]
    begin, grads = start(SHAPES, dtype=dtype), draw(SHAPES, STEPS, dtype=dtype)
    params = [torch.nn.Parameter(to_torch(x)) for x in begin]
    with torch.no_grad():  # one that is dense in another order, and one that is not dense
        params[4] = torch.nn.Parameter(params[4].t().contiguous().t())
        params[1] = torch.nn.Parameter(torch.stack([params[1], params[1]], 1)[:, 0])
    dialect = "paper" if name == "muon" else algorithm.default_dialect  # vectors too
    made = from_core(name)(params, step_dtype=step_dtype, dialect=dialect, **given)
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
    assert not algorithm.leafwise or len(_plans._SHAPES)
    if algorithm.has_global_sums:  # the definition of the tests goes leaf by leaf
        return []
    ends, _ = definition(name, begin, grads, step_dtype=step_dtype, dialect=dialect)
    return [
        f"{name} {np.dtype(dtype).name} {step_dtype} leaf {i}"
        for i, (p, end) in enumerate(zip(params, ends, strict=True))
        if not same(to_numpy(p), end)
    ]


def sums_that_differ() -> list[str]:
    """Return the sums over leaves of several sizes and dtypes that differ from the definition."""
    exact_sums_in_triton._TURNS = 1  # several instances for a leaf
    wrong, kinds = [], [(1, "f4"), (700, "f8"), (2500, "f4"), (700, "f8")]
    rng = np.random.default_rng(0)
    for name, count in (("norm", 1), ("total", 1), ("dot", 2), ("cosine", 2), ("chords", 2)):
        function = getattr(geometry, f"vector_{name}")
        vectors = [
            [(10.0**k * rng.standard_normal(n)).astype(x) for k, (n, x) in enumerate(kinds)]
            for _ in range(count)
        ]
        tensors = [[torch.from_numpy(x) for x in vector] for vector in vectors]
        found = function(exact_sums_in_triton.IN_TRITON, *tensors, exact=True)
        expected = function(HOST, *vectors, exact=True)
        pairs = zip(np.ravel(np.array(found)), np.ravel(np.array(expected)), strict=True)
        wrong += [f"sum {name}"] * (not all(same(np.float64(x), y) for x, y in pairs))
    return wrong


def formulas_that_differ(count: int) -> list[str]:
    """Return the random formulas of shapes that differ from the definition."""
    wrong = []

    def kernels(program: Any) -> Any:
        return shapes_in_triton.Kernels(program, torch.device("cpu"))

    for seed in range(count):
        rng, function = np.random.default_rng(seed), random_rule_of_shapes(seed)
        dtype = (np.float32, np.float64)[seed % 2]
        columns = [[rng.standard_normal((9, 11)).astype(dtype) for _ in range(3)] for _ in range(2)]
        both = by_numpy(function, columns), by_loops(function, columns, kernels, torch.from_numpy)
        for x, y in zip(*both, strict=True):
            alike = (
                same(np.asarray(a), np.asarray(b)) for a, b in zip(x.values, y.values, strict=True)
            )
            wrong += [f"formula {seed}"] * (not all(alike))
    return wrong


def main() -> None:
    """Try the algorithms that are named, or all."""
    stages.HOST = _shapes.HOST = ""
    dispatch.KERNELS = {"cpu": kernels_in_triton.Kernels}
    _plans.SHAPES = {"cpu": shapes_in_triton.Kernels}
    integer_products.are_faster = lambda x, y: True
    names = sys.argv[1:] or [*ALGORITHMS]
    wrong = sums_that_differ() if "lamb" in names else []
    if "formulas" in names:
        names.remove("formulas")
        wrong += formulas_that_differ(20)
    for name in names:
        for dtype in (np.float32, np.float64):
            wrong += mismatches(name, dtype)
        wrong += mismatches(name, np.float16, "float32")
        wrong += mismatches(name, np.float16) if not sys.argv[1:] else []
        wrong += mismatches(name, np.float32, lr=RATE) if name == "adam" else []
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
