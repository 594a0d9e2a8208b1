"""What runs on a GPU, as far as it can be tried without one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from harness import QUICK, ROOT, slow, slow_unless_quick

from optstudy_core import ALGORITHMS
from optstudy_core.arrays.leaves import Leaves, Step, Trees
from optstudy_torch import _plans, from_core
from optstudy_torch._plans import NO_INPUTS
from optstudy_torch._recent import Recent
from optstudy_torch._states import WORKING_DTYPE
from optstudy_torch.engine import (
    exact_sums_in_triton,
    kernels_in_triton,
    shapes_in_triton,
    triton_source,
)
from optstudy_torch.engine.eager import Eager
from optstudy_torch.engine.source import rows
from optstudy_torch.engine.triton_source import dtype_of

LONG = {("madgrad", torch.float64), ("madgrad", torch.bfloat16)}
LEAFWISE = [name for name, algorithm in ALGORITHMS.items() if algorithm.leafwise]
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
    """LAMB has moments and sums over a leaf; Adafactor looks at shapes, and sums along axes."""
    _interpret("lamb", "adafactor")


@pytest.mark.slow
def test_every_algorithms_kernels_have_the_definitions_bits() -> None:
    _interpret()


@pytest.mark.slow
def test_kernels_of_random_formulas_of_shapes_have_the_definitions_bits() -> None:
    _interpret("formulas")


# What the compiler makes of a kernel, without a GPU to run it on.

_ROUNDED_OTHERWISE = re.compile(
    r"\s((?:fma|mad)\.\S*f(?:32|64)|div\.full|\w+\.approx|rsqrt|ex2|lg2)\b"
)


KINDS = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.bool: "i1"}
OF_ALL = {"table": "*i64", "size_of": "*i64", "found": "*i64", "c": "*fp64"}
OF_ALL |= dict.fromkeys(("leaf_of", "part_of", "column_of"), "*i32")
OF_ALL |= dict.fromkeys(("count", "leaves", "parts", "size", "width", "whole", "e0", "e1"), "i32")
"""What kernels are handed, by the names of their arguments."""


def _assembled(kernel: Any, own: dict[str, str], default: str, fusion: bool = False) -> str:
    """Return what is assembled of a kernel, for cards of NVIDIA's Hopper generation.

    Args:
        kernel: of Triton.
        own: types of arguments by name.
        default: of other arguments.
        fusion: whether the compiler may contract operations.
    """
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = [p.name for p in kernel.params if p.name != "BLOCK"]
    signature = {n: (OF_ALL | own).get(n, default) for n in names}
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    source = ASTSource(
        fn=kernel,
        signature=signature | {"BLOCK": "constexpr"},
        constexprs={"BLOCK": triton_source.BLOCK},
        attrs=attributes,
    )
    options = {"enable_fp_fusion": fusion, "num_warps": triton_source.WARPS}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    text: str = made.asm["ptx"]
    return text


def _plan(name: str, dtype: torch.dtype) -> tuple[Any, torch.nn.Parameter]:
    pytest.importorskip("triton")
    p = torch.nn.Parameter(torch.zeros(64, 48, dtype=dtype))
    optimizer = from_core(name)([p])
    return optimizer._plan(0, optimizer.param_groups[0], NO_INPUTS), p


def _assembly(name: str, dtype: torch.dtype, fusion: bool = False) -> str:
    """Return what is assembled of the kernels of a rule for leaves of any shape."""
    plan, _ = _plan(name, dtype)
    working = WORKING_DTYPE[dtype]
    own = dict.fromkeys(("first_p", "first_g"), f"*{KINDS[dtype]}")
    program = plan.machine.program
    results = [line.result for phase in program.phases for line in phase.scalars]
    results += [symbol for _, symbol in program.numbers.values()]
    own |= {f"{at}_{x.name}": "*i1" for x in results if x.is_truth for at in ("in", "out")}
    texts = []
    default = f"*{KINDS[working]}"
    kernels = kernels_in_triton.Kernels(program, working)
    for arrays in kernels.arrays:
        own_dtypes = {"p": dtype, "g": dtype}
        dtypes = [own_dtypes.get(row, working) for row in rows(arrays._body, True)]
        kernel = arrays._made(True, dtypes, True, working, None)[0]
        texts.append(_assembled(kernel, own, default, fusion))
    made = [x._made(working)[0] for x in kernels.scalars if x._lines]
    texts += [_assembled(kernel, own, default, fusion) for kernel in made]
    return "\n".join(texts)


def _assembly_of_shape(name: str, dtype: torch.dtype) -> str:
    """Return what is assembled of the kernels of a rule for leaves of one shape."""
    plan, p = _plan(name, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_plans, "SHAPES", {"cpu": shapes_in_triton.Kernels})
        patch.setattr(_plans, "_SHAPES", Recent(4))
        kernels = plan.of_shape(p, True)
    texts = []

    def add(kernel: Any, read: Any) -> None:
        own = {f"in_{x.name}": f"*{KINDS[dtype_of(x.kind, dtype)]}" for x in read}
        texts.append(_assembled(kernel, own, f"*{KINDS[dtype]}"))

    for own in kernels._made.values():
        for x in own:
            if isinstance(x, shapes_in_triton._Body):
                for kernel, *_ in x._kernels.values():
                    add(kernel._kernel, x._body.scalars.values())
            elif isinstance(x, shapes_in_triton._Along):
                for terms, first in ((16, True), (4, False)):
                    add(x._kernel(terms, first)._kernel, x._body.scalars.values())
    return "\n".join(texts)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [  # roots of the third order take seconds
        (n, dtype) if n in QUICK and (n, dtype) not in LONG else slow(n, dtype)
        for n, a in ALGORITHMS.items()
        if not a.leafwise and not a.inputs and not a.has_sums
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
    ],
    ids=str,
)
def test_operations_are_rounded_once(name: str, dtype: torch.dtype) -> None:
    text = _assembly(name, dtype)
    assert not _ROUNDED_OTHERWISE.findall(text)
    if dtype == torch.float32:
        assert "ld.global.v4" in text  # four numbers at once


def test_the_compiler_would_contract() -> None:
    assert _ROUNDED_OTHERWISE.findall(_assembly("adam", torch.float32, fusion=True))


@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.float64)], ids=str)
@pytest.mark.parametrize("name", slow_unless_quick(LEAFWISE, {"adafactor"}))
def test_operations_of_shapes_are_rounded_once(name: str, dtype: torch.dtype) -> None:
    assert not _ROUNDED_OTHERWISE.findall(_assembly_of_shape(name, dtype))


@pytest.mark.parametrize("extremes", [False, True])
def test_sums_are_rounded_once(extremes: bool) -> None:
    lines = ("multiply", "x0", "c0"), ("add", "t0", "c1"), ("subtract", "x1", "t1")
    kernel = exact_sums_in_triton._kernel(
        lines, 2, ("t1", "t2"), (torch.float32, torch.float64), extremes
    )
    assert not _ROUNDED_OTHERWISE.findall(_assembled(kernel, {}, "*fp64"))
