"""Sums on the CPU: loops in C have the bits of NumPy and of torch's operations."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from harness import same, slow

import optstudy_torch
from optstudy_core import Algorithm, sgd
from optstudy_core.arrays import reductions
from optstudy_core.arrays import vectors as sums
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.arrays.passes import HOST
from optstudy_torch import _shapes
from optstudy_torch.engine import c_compiler, dispatch, exact_sums_in_c, kernels_in_c
from optstudy_torch.engine.exact_sums import OPERATIONS, sum_of

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="not run: no compiler")

SUMS = {
    "total": (sums.vector_total, 1),
    "norm": (sums.vector_norm, 1),
    "dot": (sums.vector_dot, 2),
    "cosine": (sums.vector_cosine, 2),
    "chords": (sums.vector_chords, 2),
}
SIZES = (1, 3, 7000, 64, 1)


@pytest.fixture(autouse=True)
def _always_in_c(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads, short parts, and C for whatever there is."""
    monkeypatch.setattr(c_compiler, "BLOCK", 100)
    monkeypatch.setattr(exact_sums_in_c, "_FEW", 0)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was passed over in C."""
    found: list[Any] = []
    run = exact_sums_in_c._run
    monkeypatch.setattr(exact_sums_in_c, "_run", lambda *a: found.append(a) or run(*a))
    return found


def vectors(dtype: torch.dtype, seed: int = 0, decades: float = 6) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def one(size: int) -> torch.Tensor:
        x = torch.empty(size, dtype=torch.float64).uniform_(-decades, decades, generator=generator)
        return (torch.randn(size, generator=generator) * 10**x).to(dtype)

    return [[one(size) for size in SIZES] for _ in range(2)]


def assert_the_same(name: str, u: Any, v: Any) -> None:
    function, arguments = SUMS[name]
    given = (u, v)[:arguments]
    found = sum_of(function, given)
    expected = function(OPERATIONS, *given, exact=True)
    both = (found, expected) if isinstance(found, tuple) else ((found,), (expected,))
    for x, y in zip(*both, strict=True):
        assert isinstance(x, np.float64 | np.ndarray)
        assert same(np.float64(x), y.numpy()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SUMS)
def test_every_sum(name: str, dtype: torch.dtype, passes: list[Any]) -> None:
    u, v = vectors(dtype, decades=2 if dtype is torch.float16 else 6)
    assert_the_same(name, u, v)
    assert bool(passes) == (dtype is not torch.float16)  # NumPy adds these


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize(
    "value", [-0.0, np.nan, -np.inf, 1e-45, 3e38, slow(0.0), slow(-np.nan), slow(np.inf)]
)
def test_values(name: str, value: float, passes: list[Any]) -> None:
    for dtype, where in itertools.product([torch.float32, torch.float64], [0, 2]):
        u, v = vectors(dtype)
        u[where][-1] = value
        assert_the_same(name, u, v)
        assert_the_same(name, [torch.full_like(x, value) for x in u], v)
    assert passes


@pytest.mark.parametrize("name", SUMS)
def test_values_of_every_size(name: str, passes: list[Any]) -> None:
    u, v = vectors(torch.float64, decades=300)
    assert_the_same(name, u, v)
    assert passes


@pytest.mark.parametrize("name", SUMS)
def test_dtypes_and_layouts_side_by_side(
    name: str, passes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: set[Any] = set()
    tables = exact_sums_in_c._tables

    def noted(vectors: Any) -> Any:
        found = tables(vectors)
        dtypes.update(own for own, *_ in found or ())
        return found

    monkeypatch.setattr(exact_sums_in_c, "_tables", noted)
    u, v = vectors(torch.float32)
    u[2], v[3] = u[2].double(), v[3].bfloat16()
    u[2], v[2] = u[2].reshape(70, 100).T, v[2].reshape(100, 70)
    u[3] = torch.nn.Parameter(u[3])
    assert_the_same(name, u, v)
    assert len(dtypes) >= 2
    assert len(passes) >= 2


def test_one_thread_and_many_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    u, v = vectors(torch.float32)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append([sum_of(f, (u, v)[:n]) for f, n in SUMS.values()])
    monkeypatch.setattr(c_compiler, "may_use_threads", lambda: False)
    found.append([sum_of(f, (u, v)[:n]) for f, n in SUMS.values()])
    assert found[0] == found[1] == found[2] == found[3]


def test_threads_are_used_where_the_compiler_has_them() -> None:
    plain = """
#include <stdbool.h>
#ifdef _OPENMP
const bool has_threads = true;
#else
const bool has_threads = false;
#endif
"""
    there = c_compiler.has_threads(c_compiler.library_of(plain))
    made = exact_sums_in_c._made((), 0, ("x0",), (torch.float32,), True)
    assert made is not None
    assert made[1] == there
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    libraries = []
    with pytest.MonkeyPatch.context() as patch:
        make = kernels_in_c.library_of
        patch.setattr(
            kernels_in_c, "library_of", lambda text: libraries.append(make(text)) or libraries[-1]
        )
        mine = Algorithm("mine", sgd.init, sgd.update)  # its program is made again
        optstudy_torch.from_core(mine)([p], lr=0.1, compile=True).step()
    assert [c_compiler.has_threads(x) for x in libraries] == [there]


def test_every_thread_takes_subnormal_numbers_as_the_first_one_does() -> None:
    x = torch.full((7000,), 1e-42)
    try:
        for flushed in (False, True):
            assert torch.set_flush_denormal(flushed)
            total = float(sum_of(sums.vector_total, ([x],)))
            assert total == (0.0 if flushed else 7000 * float(np.float32(1e-42)))
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("failing", ["compiler", "text"])
def test_without_a_compiler_numpy_adds(
    failing: str, passes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(text: str) -> Any:
        raise c_compiler.NoKernelsError(failing)

    monkeypatch.setattr(c_compiler, "library_of", fail)
    exact_sums_in_c._made.cache_clear()
    for dtype in (torch.float32, torch.bfloat16):
        u, v = vectors(dtype)
        for name in SUMS:
            assert_the_same(name, u, v)
    rows = [(x, y) for x, y in zip(u, v, strict=True)]
    assert exact_sums_in_c.scalars_of(sums.vector_dot, rows) is None
    assert not passes
    exact_sums_in_c._made.cache_clear()


class _SumsInC(NumPy):
    def scalars_of(self, function: Any, rows: Any) -> list[Any]:
        found = exact_sums_in_c.scalars_of(function, rows)
        assert found is not None
        return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["leaf_norm", "leaf_dot", "leaf_sum", "leaf_mean", "leaf_rms"])
def test_sums_of_each_leaf(name: str, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    function = getattr(reductions, name)
    # Sums of 2¹² and of 2¹⁷ numbers have other folds.
    sizes = [1, 5, 0, 4096, 4097, 5000, 9000, 70_000, 1, 3, *rng.integers(50, 900, 200)]
    draw = [(10 ** rng.uniform(-9, 9, n) * rng.standard_normal(n)).astype(dtype) for n in sizes]
    draw[3][7], draw[0][0] = np.inf, 0.0
    draw[1], draw[5] = draw[1].astype(np.float64), 1e200 * draw[5].astype(np.float64)
    backends = NumPy(), _SumsInC()
    arguments = 1 + (name == "leaf_dot")
    expected, found = (
        function(*(Leaves(draw, backend) for _ in range(arguments))).values for backend in backends
    )
    for x, y in zip(expected, found, strict=True):
        assert same(x, y)
    # And as one of them alone would be.
    for x, y in zip(draw, found, strict=True):
        alone = function(*(Leaves([x], NumPy()) for _ in range(arguments))).values[0]
        assert same(alone, y)


def test_what_has_no_memory_of_its_own(passes: list[Any]) -> None:
    x = torch.randn(7, 40)
    found = []
    torch.vmap(lambda row: (found.append(exact_sums_in_c.is_plain(row)), row)[1])(x)
    assert found == [False]
    count = len(passes)
    zero = torch._efficientzerotensor(40)
    assert optstudy_torch.geometry.norm(zero).item() == 0.0
    with pytest.raises(ValueError, match="shapes differ"):
        optstudy_torch.geometry.dot(x, x.T)
    assert len(passes) == count
    assert exact_sums_in_c.scalars_of(sums.vector_norm, [(zero,)]) is None


def test_arrays_that_are_not_to_be_written() -> None:
    x = np.arange(5000, dtype=np.float32)
    x.flags.writeable = False
    expected = sums.vector_norm(HOST, [x], exact=True)
    assert sums.vector_norm(exact_sums_in_c.IN_C, [x], exact=True) == expected
    swapped = x.astype(">f4")
    assert sums.vector_norm(exact_sums_in_c.IN_C, [swapped], exact=True) == expected


@pytest.mark.parametrize("name", ["lamb", "lars", "prodigy", "novograd", "adafactor"])
def test_optimizers_use_them_unless_told_not_to(
    name: str, passes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(compiled: bool | None) -> list[torch.Tensor]:
        params = [
            x.reshape(shape) for x, shape in zip(vectors(torch.float32)[0], shapes, strict=True)
        ]
        params = [torch.nn.Parameter(x) for x in params]
        optimizer = optstudy_torch.from_core(name)(params, lr=0.01, compile=compiled)
        for seed in (1, 2, 3):
            for p, g in zip(params, vectors(torch.float32, seed)[0], strict=True):
                p.grad = g.reshape(p.shape)
            optimizer.step()
        return [p.detach() for p in params]

    shapes = [(1,), (3, 1), (70, 100), (8, 8), ()]
    monkeypatch.setattr(_shapes, "_FEW", 0)
    expected = trained(False)
    assert not passes
    found = trained(None)
    assert passes
    assert all(same(x.numpy(), y.numpy()) for x, y in zip(expected, found, strict=True))
    monkeypatch.setattr(dispatch, "KERNELS", {})
    assert all(same(x.numpy(), y.numpy()) for x, y in zip(expected, trained(None), strict=True))
