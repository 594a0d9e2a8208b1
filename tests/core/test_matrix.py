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

from optstudy_core import newton_schulz
from optstudy_core.arrays.eigen import by_size, eigenvectors, orthonormal
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.matrix import gram, inverse_root, matmul, transposed, when
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


def rough(x: Any, y: Any) -> Any:
    return matmul(x, y, rough=True)


def rough_gram(x: Any) -> Any:
    return gram(x, rough=True)


def scaled_integers(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return elements as integers of 20 bits and a sign, and the power of two of each row."""
    tops = np.max(np.abs(x.astype(np.float64)), axis=axis, keepdims=True)
    exponent = np.floor(np.log2(tops)).astype(int) - 19
    return np.rint(np.ldexp(x.astype(np.float64), -exponent)).astype(np.int64), exponent


def digits(x: np.ndarray) -> list[np.ndarray]:
    """Return three digits from -64 to 64 of integers of 20 bits and a sign."""
    low = (x + 64) % 128 - 64
    middle = ((x - low) // 128 + 64) % 128 - 64
    high = ((x - low) // 128 - middle) // 128
    found = [high, middle, low]
    assert all(np.abs(d).max() <= 64 for d in found)
    return [d.astype(np.int8) for d in found]


def test_a_rough_product_is_nine_products_of_small_integers() -> None:
    """As integer tensor cores compute them: int8 digits, int32 sums."""
    rng = np.random.default_rng(3)
    for m, n, k in ((5, 7, 3), (20, 2000, 11)):
        x, y = (np.exp(2 * rng.normal(size=s)).astype(np.float32) for s in ((m, n), (n, k)))
        x *= rng.choice([-1, 1], x.shape)
        (left, a), (right, b) = scaled_integers(x, 1), scaled_integers(y, 0)
        total = np.zeros((m, k), np.int64)
        for i, p in enumerate(digits(left)):
            for j, q in enumerate(digits(right)):
                part = p.astype(np.int32) @ q.astype(np.int32)
                total += part.astype(np.int64) << 7 * (4 - i - j)
        wanted = np.ldexp(total.astype(np.float64), a + b).astype(np.float32)
        assert np.array_equal(in_numpy(rough, x, y), wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 5), (6, 300), (1, 1), (3, 0), (0, 3)])
def test_a_gram_matrix_is_the_product_with_the_transpose(shape: Any, dtype: Any) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    for found, product in ((gram, matmul), (rough_gram, rough)):
        wanted = in_numpy(lambda a, f=product: f(a, transposed(a)), x)
        assert np.array_equal(in_numpy(found, x), wanted)


@pytest.mark.parametrize("function", [rough_gram, slow(gram)])
def test_a_gram_matrix_has_the_same_bits_everywhere(function: Any) -> None:
    rng = np.random.default_rng(1)
    for dtype in (np.float32, np.float64):
        x = (rng.normal(size=(5, 40)) * 10.0 ** rng.integers(-20, 18, (5, 1))).astype(dtype)
        everywhere(function, x)


@pytest.mark.parametrize("n", [8, 1000, 8192, 8193, 40_000])
def test_rough_products_are_as_near_as_is_said_and_know_no_order(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = (rng.normal(size=s).astype(np.float32) for s in ((3, n), (n, 4)))
    x[0], y[:, 0] = np.float32(1.9999999), np.float32(1.9999999)  # the largest sums
    found, order = in_numpy(rough, x, y), rng.permutation(n)
    assert np.array_equal(found, in_numpy(rough, x[:, order], y[order]))
    bits = min(20, (53 - int(np.ceil(np.log2(n)))) // 2)
    tops = np.abs(x).max(1, keepdims=True) * np.abs(y).max(0, keepdims=True)
    exact = x.astype(np.float64) @ y.astype(np.float64)
    bound = n * 2.0 ** (1 - bits) * (1 + 2.0**-bits) * tops + np.abs(exact) * 2.0**-23
    assert (np.abs(found - exact) <= bound).all()
    assert (np.abs(found - exact) > 0).any()


@pytest.mark.parametrize("function", [rough, matmul])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_makes_its_row_nan(function: Any, bad: float, dtype: Any) -> None:
    x, y = np.ones((3, 4), dtype), np.zeros((4, 2), dtype)
    x[1, 2] = bad
    nan = np.isnan(in_numpy(function, x, y))
    assert np.array_equal(nan, [[False] * 2, [True] * 2, [False] * 2])
    y[0, 1] = bad
    nan = np.isnan(in_numpy(function, np.zeros((3, 4), dtype), y))
    assert np.array_equal(nan, [[False, True]] * 3)


def test_muons_iteration_is_as_near_to_float64_as_is_said() -> None:
    """Far nearer than torch's, which iterates in bfloat16."""
    rng = np.random.default_rng(0)
    for m, n in ((16, 16), (64, 200), (128, 512)):
        g = rng.normal(size=(m, n)) @ np.diag(rng.uniform(0, 2, n) ** 3)
        g /= np.linalg.norm(g)
        simple = newton_schulz.triples("simple")
        wanted = newton_schulz.iterated(g, simple)
        near = np.abs(newton_schulz.iterated(g.astype(np.float32), simple) - wanted).max()
        assert near < 1.3e-4
        theirs = torch.optim._muon._zeropower_via_newtonschulz
        rounded = theirs(torch.tensor(g).float(), (3.4445, -4.775, 2.0315), 5, 1e-7)
        assert np.abs(rounded.float().numpy() - wanted).max() > 20 * near


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
