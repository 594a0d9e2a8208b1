"""Products, roots and eigenvectors of matrices: the same bits in every library, and right."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from harness import slow

from optstudy_core.arrays.eigen import by_size, eigenvectors, orthonormal
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.matrix import inverse_root, matmul, transposed, when
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_jax._backend import JAX
from optstudy_jax._rounding import leaving, outside
from optstudy_torch.engine.eager import Eager

SHAPES = [(3, 5, 4), (1, 1, 1), (40, 300, 17), (4, 0, 3), (0, 3, 2), (2, 3, 0)]
QUICK = [(1, np.float64), (2, np.float32), (5, np.float64)]  # JAX compiles each for seconds
OTHERS = [(n, np.float32) for n in (1, 3, 5, 6, 7, 24)]
OTHERS += [(n, np.float64) for n in (2, 3, 6, 7, 24)]
each_size = pytest.mark.parametrize(("n", "dtype"), [*QUICK, *(slow(*x) for x in OTHERS)])


def in_numpy(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    return np.asarray(function(*(Leaves([x], NumPy()) for x in arrays)).values[0])


@functools.cache
def jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of arrays of JAX, which is compiled once for each shape."""

    def run(*own: Any) -> Any:
        return leaving(function(*(Leaves([outside(x, x.dtype)], JAX()) for x in own)).values[0])

    return jax.jit(run)


def square_root(x: Any) -> Any:
    return inverse_root(x, 2)


def fourth_root(x: Any) -> Any:
    return inverse_root(x, 4)


def everywhere(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    """The result of NumPy, which torch and jitted JAX have bit for bit."""
    wanted = in_numpy(function, *arrays)
    in_torch = function(*(Leaves([torch.tensor(x)], Eager()) for x in arrays)).values[0].numpy()
    with jax.enable_x64(True):
        in_jax = np.asarray(jitted(function)(*arrays))
    for found in (in_torch, in_jax):
        assert found.dtype == wanted.dtype
        assert np.array_equal(found, wanted, equal_nan=True)
    return wanted


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Numbers of 16 decades, with zeros."""
    x = rng.normal(size=shape) * 10.0 ** rng.uniform(-8, 8, shape) * (rng.random(shape) > 0.1)
    return np.asarray(x, dtype)


def symmetric(rng: np.random.Generator, n: int, dtype: Any, decades: float = 3.0) -> np.ndarray:
    """A matrix whose eigenvalues lie apart."""
    q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    a = (q * np.geomspace(1, 10**decades, n)) @ q.T
    return np.asarray((a + a.T) / 2, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_products_are_right_and_have_no_order(m: int, n: int, k: int, dtype: Any) -> None:
    rng = np.random.default_rng(m)
    x, y = draw(rng, (m, n), dtype), draw(rng, (n, k), dtype)
    found = everywhere(matmul, x, y)
    order = rng.permutation(n)
    assert np.array_equal(found, in_numpy(matmul, x[:, order], y[order]))
    exact = x.astype(np.longdouble) @ y.astype(np.longdouble)
    tops = abs(x).max(1, initial=0)[:, None] * abs(y).max(0, initial=0)[None].astype(np.longdouble)
    slices = {np.float32: 2, np.float64: 3}[dtype]
    bits = (52 - max(n * slices - 1, 0).bit_length()) // 2
    bound = (slices + 1) * n * 2.0 ** (6 - slices * bits) * tops  # as the module says
    assert np.all(abs(found - exact) <= bound + np.finfo(dtype).eps * abs(exact))


def test_what_is_not_finite_stays_in_its_row_and_column() -> None:
    x, y = np.ones((3, 4), np.float32), np.ones((4, 2), np.float32)
    x[0, 1], y[2, 1] = np.nan, np.inf
    found = everywhere(matmul, x, y)
    assert np.array_equal(np.isnan(found), [[True, True], [False, True], [False, True]])
    assert np.all(found[1:, 0] == 4)


def test_numbers_near_the_ends_of_the_range() -> None:
    x = np.array([[1e-300, 2e-300], [1e300, -3e299]])
    y = np.array([[1e7, 1e-3], [3e6, 1e-5]])
    assert np.allclose(everywhere(matmul, x, y), x @ y, rtol=1e-15)
    # As the bound says: what is tiny beside another number of its row is lost.
    assert everywhere(matmul, np.array([[1e30, 1.0]]), np.array([[0.0], [1.0]])) == 0


@pytest.mark.parametrize(("order", "root"), [(2, square_root), (4, fourth_root)])
@each_size
def test_inverse_roots(n: int, dtype: Any, order: int, root: Any) -> None:
    a = symmetric(np.random.default_rng(n), n, dtype)
    w, q = np.linalg.eigh(a.astype(np.float64))
    wanted = (q * w ** (-1 / order)) @ q.T
    found = everywhere(root, a)
    # Rounded to float32; in float64 the condition of 1e3 costs three digits.
    assert abs(found - wanted).max() <= {np.float32: 2e-7, np.float64: 1e-12}[dtype]


def test_a_root_of_nan_is_nan_and_comes_to_an_end() -> None:
    a = np.eye(5)
    a[0, 1] = np.nan
    for function in (square_root, eigenvectors, orthonormal):
        assert np.isnan(everywhere(function, a)).any()


@each_size
def test_eigenvectors(n: int, dtype: Any) -> None:
    a = symmetric(np.random.default_rng(n), n, dtype)
    v = everywhere(eigenvectors, a).astype(np.float64)
    # What rounding the vectors to their dtype leaves, relative to the largest eigenvalue.
    near = 50 * np.finfo(dtype).eps
    assert abs(v.T @ v - np.eye(n)).max() <= near
    values = np.linalg.eigvalsh(a.astype(np.float64))[::-1]
    assert abs(v.T @ a @ v - np.diag(values)).max() <= near * values[0]


def test_eigenvectors_of_few_values() -> None:
    """A unit matrix, zeros, and one of rank 1: nothing to turn, or ties."""
    for a in (np.eye(5), np.zeros((5, 5)), np.ones((5, 5))):
        v = everywhere(eigenvectors, a)
        assert abs(v.T @ v - np.eye(len(a))).max() <= 1e-14
        assert abs(a @ v - v * np.diag(v.T @ a @ v)).max() <= 1e-14


@each_size
def test_an_orthonormal_basis_is_that_of_qr(n: int, dtype: Any) -> None:
    a = np.asarray(np.random.default_rng(n).normal(size=(n, n)), dtype)
    q = everywhere(orthonormal, a).astype(np.float64)
    wanted = np.linalg.qr(a.astype(np.float64))[0]
    signs = np.sign(np.sum(q * wanted, axis=0))
    # Rounded to float32; in float64 what the condition of the matrix costs.
    assert abs(q * signs - wanted).max() <= {np.float32: 1e-7, np.float64: 1e-12}[dtype]
    singular = np.ones((n, n), dtype)  # Q is orthonormal all the same
    q = everywhere(orthonormal, singular).astype(np.float64)
    assert abs(q.T @ q - np.eye(n)).max() <= 50 * np.finfo(dtype).eps


def test_rows_and_columns_by_size() -> None:
    x, sizes = np.arange(6.0).reshape(2, 3), np.array([[1.0, 3.0, 2.0]])
    assert everywhere(lambda a, s: by_size(a, s, 1), x, sizes).tolist() == [[1, 2, 0], [4, 5, 3]]
    assert everywhere(lambda a, s: by_size(a, s, 0), x.T, sizes)[:, 0].tolist() == [1, 2, 0]


def test_bare_arrays_are_measured_on_the_host() -> None:
    a = symmetric(np.random.default_rng(0), 4, np.float64)
    for convert in (np.asarray, torch.tensor):
        own = convert(a)
        for function in (eigenvectors, orthonormal, square_root):
            found = function(own)
            assert type(found) is type(own)
            assert np.array_equal(np.asarray(found), in_numpy(function, a))
        product = matmul(own, transposed(own))
        assert np.array_equal(np.asarray(product), in_numpy(matmul, a, a.T))


def test_what_is_not_asked_for_is_not_computed() -> None:
    def never(x: Any) -> Any:
        raise AssertionError

    x, no = np.ones(2), np.bool_(False)
    assert when(no, never, (x,), (2 * x,))[0].tolist() == [2.0, 2.0]
    trees = (Leaves([x], NumPy()),)
    assert when(Leaves([no], NumPy()), never, trees, trees) is trees
