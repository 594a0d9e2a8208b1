"""Products of int8 digits have the bits of the float64 products: any shapes, magnitudes and NaN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from harness import same

import optstudy_jax
from optstudy_core.arrays import matrix
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_jax import _rounding
from optstudy_torch import from_core
from optstudy_torch._plans import NO_INPUTS
from optstudy_torch.engine import integer_products
from optstudy_torch.engine.memory import OnDevice
from optstudy_torch.engine.phases import Branch, Cycle
from optstudy_torch.engine.trace import Product


class Recording(NumPy):
    """Records the pairs of matrices that keep 20 bits."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []

    def rough_matmul(self, x: Any, y: Any) -> Any:
        self.pairs.append((x, y))
        return super().rough_matmul(x, y)


def factors(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return the slices of which a rough product is made."""
    backend = Recording()
    matrix.matmul(Leaves([x], backend), Leaves([y], backend), rough=True)
    (pair,) = backend.pairs
    return [np.ascontiguousarray(own) for own in pair]


def in_torch(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return integer_products.product(torch.from_numpy(x), torch.from_numpy(y)).numpy()


def in_jax(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(_rounding._of_digits(jnp.asarray(x), jnp.asarray(y)))


everywhere = pytest.mark.parametrize("product", [in_torch, in_jax])


def drawn(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return float32 elements with rows of any magnitude."""
    values = rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-38, 38, (rows, 1))
    return values.astype(np.float32)


@everywhere
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (64, 50, 64), (33, 9000, 20)])
def test_the_bits_are_those_of_the_float64_product(
    product: Any, shape: tuple[int, int, int]
) -> None:
    rows, length, columns = shape
    rng = np.random.default_rng(length)
    for _ in range(5):
        x, y = drawn(rng, rows, length), drawn(rng, columns, length).T
        left, right = factors(x, y)
        assert same(product(left, right), left @ right)


@everywhere
def test_the_ends_of_the_range(product: Any) -> None:
    """Rows of zeros, subnormals, powers of two, the next number below one, NaN and infinities."""
    rows = [0.0, 1e-45, 2.0, np.nextafter(np.float32(2), 0), -3.4e38, np.nan, np.inf, -np.inf]
    x = np.float32(np.outer(rows, [1.0, -0.5, 0.25, 1.0]))
    left, right = factors(x, x.T)
    with np.errstate(all="ignore"):
        wanted = left @ right
    assert same(product(left, right), wanted)


@everywhere
def test_every_digit_reaches_its_ends(product: Any) -> None:
    """All integers of 20 bits and both signs, also 2²⁰ itself."""
    whole = np.arange(-(2.0**20), 2.0**20 + 1, 977)[:, None]
    rows = np.concatenate([whole, np.full_like(whole, 2.0**20)], 1)
    assert same(product(rows, np.array([[1.0], [0.0]])), whole)


@pytest.mark.parametrize(
    ("platform", "size", "digits"),
    [("cuda", 1536, True), ("cuda", 1024, False), ("cpu", 1536, False)],
)
def test_xla_multiplies_so_only_on_a_gpu_and_only_large_matrices(
    platform: str, size: int, digits: bool
) -> None:
    tx, p = optstudy_jax.muon(0.1), jnp.zeros((size, size))
    traced = jax.jit(tx.update).trace(p, tx.init(p), p)
    assert ("xi8>" in traced.lower(lowering_platforms=(platform,)).as_text()) == digits


def test_torch_multiplies_so_only_products_of_20_bits(monkeypatch: Any) -> None:
    memory = OnDevice(torch.float32, torch.device("cpu"))
    x = torch.full((2, 2), 1 + 2.0**-40, dtype=torch.float64)
    assert torch.equal(memory.product(x, x, rough=True), x @ x)  # a CPU never does
    monkeypatch.setattr(integer_products, "are_faster", lambda x, y: True)
    assert torch.equal(memory.product(x, x, rough=False), x @ x)
    assert torch.equal(memory.product(x, x, rough=True), torch.full_like(x, 2.0))


def products(phases: Any) -> Iterator[Product]:
    """Yield the products of the phases of a program."""
    for barrier in (x for phase in phases for x in phase.barriers):
        if isinstance(barrier, Product):
            yield barrier
        elif isinstance(barrier, Branch | Cycle):
            yield from products(barrier.phases)


@pytest.mark.parametrize(("name", "rough"), [("muon", True), ("shampoo", False)])
def test_products_of_muon_keep_20_bits_and_those_of_shampoo_do_not(name: str, rough: bool) -> None:
    p = torch.nn.Parameter(torch.zeros(6, 4))
    optimizer = from_core(name)([p])
    plan = optimizer._plan(0, optimizer.param_groups[0], NO_INPUTS)
    assert {x.rough for x in products(plan.of_shape(p, True).program.phases)} == {rough}


def test_a_device_that_cannot_is_found(monkeypatch: Any) -> None:
    def refused(*_: Any) -> Any:
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")

    tried = integer_products.are_exact.__wrapped__
    assert tried(torch.device("cpu"))
    monkeypatch.setattr(torch, "_int_mm", refused)
    assert not tried(torch.device("cpu"))
    monkeypatch.setattr(torch, "_int_mm", lambda x, y: x.int() @ y.int() + 1)
    assert not tried(torch.device("cpu"))
