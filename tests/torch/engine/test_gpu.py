"""What runs on a GPU, as far as it can be tried without one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from harness import ROOT, slow_unless_quick

from optstudy_core import ALGORITHMS
from optstudy_core.arrays.leaves import Leaves, Step, Trees
from optstudy_torch import from_core
from optstudy_torch.engine import kernels_in_triton
from optstudy_torch.engine.eager import Eager
from optstudy_torch.engine.source import rows

HERE = ROOT / "tests" / "support"


class _Everything(Eager):
    """Takes every branch, for tensors without values have none to decide by."""

    def when(self, condition: Leaves, function: Step, trees: Trees, otherwise: Trees) -> Trees:
        return function(*trees)

    def repeat(self, function: Step, go_on: Any, trees: Trees, most: int) -> Trees:
        go_on(*trees)
        return function(*trees)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_everything_is_made_on_the_device(name: str) -> None:
    """Operations of tensors on different devices are refused, also where they have no memory."""
    algorithm, backend = ALGORITHMS[name], _Everything()
    shapes: list[tuple[int, ...]] = [(4, 3), (3,), (), (0, 4), (0,)]
    values = algorithm.resolve(None, {})

    def tree(sizes: list[tuple[int, ...]]) -> Leaves:
        return Leaves([torch.empty(s, device="meta") for s in sizes], backend)

    state = algorithm.start(tree(shapes), values)
    scalars = tree([()] * len(shapes))
    inputs = {k: scalars if k == "value" else tree(shapes) for k in algorithm.inputs}
    for _ in range(2):
        state, step = algorithm.update(state, tree(shapes), tree(shapes), **inputs, **values)
    assert {x.device.type for x in step.values} == {"meta"}


def _interpret(*names: str) -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, str(HERE / "interpreted_kernels.py"), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_kernels_have_the_definitions_bits() -> None:
    _interpret("lamb")  # its moments are Adam's, and it has sums over a leaf


@pytest.mark.slow
def test_every_algorithms_kernels_have_the_definitions_bits() -> None:
    _interpret()


# What the compiler makes of a kernel, without a GPU to run it on.

_ROUNDED_OTHERWISE = re.compile(
    r"\s((?:fma|mad)\.\S*f(?:32|64)|div\.full|\w+\.approx|rsqrt|ex2|lg2)\b"
)


def _assembly(name: str, dtype: torch.dtype, fusion: bool = False) -> str:
    """Return what is assembled of a rule's kernels, for cards of NVIDIA's Hopper generation."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from optstudy_torch._plans import NO_INPUTS
    from optstudy_torch._states import WORKING_DTYPE

    optimizer = from_core(name)([torch.nn.Parameter(torch.zeros(2, dtype=dtype))])
    plan = optimizer._plan(0, optimizer.param_groups[0], NO_INPUTS)
    assert plan.machine is not None
    working = WORKING_DTYPE[dtype]
    kinds = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}
    whole = {"table": "*i64", "size_of": "*i64", "count": "i32", "leaves": "i32"}
    whole |= dict.fromkeys(("leaf_of", "part_of", "column_of"), "*i32")
    own = dict.fromkeys(("first_p", "first_g"), f"*{kinds[dtype]}")
    program = plan.machine.program
    results = [line.result for phase in program.phases for line in phase.scalars]
    own |= {f"{at}_{x.name}": "*i1" for x in results if x.is_truth for at in ("in", "out")}

    def assembled(kernel: Any) -> str:
        names = [p.name for p in kernel.params if p.name != "BLOCK"]
        signature = {n: (whole | own).get(n, f"*{kinds[working]}") for n in names}
        attributes = {
            (i,): [["tt.divisibility", 16]]
            for i, kind in enumerate(signature.values())
            if kind.startswith("*")
        }
        source = ASTSource(
            fn=kernel,
            signature=signature | {"BLOCK": "constexpr"},
            constexprs={"BLOCK": kernels_in_triton.BLOCK},
            attrs=attributes,
        )
        options = {"enable_fp_fusion": fusion, "num_warps": kernels_in_triton._WARPS}
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        text: str = made.asm["ptx"]
        return text

    texts = []
    kernels = kernels_in_triton.Kernels(program, working)
    for arrays in kernels.arrays:
        own_dtypes = {"p": dtype, "g": dtype}
        dtypes = [own_dtypes.get(row, working) for row in rows(arrays._body, True)]
        texts.append(assembled(arrays._made(True, dtypes, True, working, None)[0]))
    scalars = [x for x in kernels.scalars if x._lines]
    texts += [assembled(x._made(working)[0]) for x in scalars]
    return "\n".join(texts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name",
    slow_unless_quick(
        n for n, a in ALGORITHMS.items() if not a.leafwise and not a.inputs and not a.has_sums
    ),
)
def test_operations_are_rounded_once(name: str, dtype: torch.dtype) -> None:
    text = _assembly(name, dtype)
    assert not _ROUNDED_OTHERWISE.findall(text)
    if dtype == torch.float32:
        assert "ld.global.v4" in text  # four numbers at once


def test_the_compiler_would_contract() -> None:
    assert _ROUNDED_OTHERWISE.findall(_assembly("adam", torch.float32, fusion=True))
