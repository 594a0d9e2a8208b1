"""Programs of a shape: what loops in C compute, when, and where it goes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from harness import same, slow, slow_unless_quick
from shape_programs import by_loops, by_numpy, program_of, random_rule_of_shapes

import optstudy_torch
from optstudy_core import ALGORITHMS, Algorithm, clipped, namespace
from optstudy_core import random_formulas as formulas
from optstudy_core.arrays import axes, reductions
from optstudy_core.arrays.leafwise import shapewise
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.matrix import gram, identity, inverse_root, matmul, transposed, when
from optstudy_torch import _plans, _shapes
from optstudy_torch._recent import Recent
from optstudy_torch.engine import c_compiler, errors, exact_sums_in_c, shapes_in_c
from optstudy_torch.engine.errors import NoKernelsError

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="not run: no compiler")

DTYPES = [np.float32, np.float64]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.3, -7.5, 1e-3, 3e4, 1e30, -1e-30, np.inf, -np.inf, np.nan]


@pytest.fixture(autouse=True)
def _parts(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads, and few numbers for each."""
    monkeypatch.setattr(c_compiler, "BLOCK", 100)


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The operations of each loop that ran, and what it wrote."""
    found: list[tuple[str, ...]] = []
    run = shapes_in_c._Loop.__call__

    def ran(loop: Any, execution: Any) -> Any:
        found.append(tuple(line.operation for line in loop._body.lines))
        return run(loop, execution)

    monkeypatch.setattr(shapes_in_c._Loop, "__call__", ran)
    return found


def numbers(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 10.0 ** rng.uniform(-8, 8, shape)
    return np.where(rng.random(shape) < 0.2, rng.choice(SPECIAL, shape), x).astype(dtype)


def assert_same(function: Callable[..., Any], *columns: list[np.ndarray]) -> None:
    for expected, found in zip(
        by_numpy(function, columns), by_loops(function, columns), strict=True
    ):
        for x, y in zip(expected.values, found.values, strict=True):
            assert x.dtype == y.dtype
            assert same(np.asarray(x), np.asarray(y))


OPERATIONS: dict[str, Callable[..., Leaves]] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "negative": lambda x, y: -x,
    "abs": lambda x, y: abs(y),
    "sign": lambda x, y: namespace(x).sign(x) * y,
    "sqrt": lambda x, y: namespace(x).sqrt(abs(x)) + y,
    "maximum": lambda x, y: namespace(x).maximum(x, y),
    "minimum": lambda x, y: namespace(x).minimum(x, y),
    "where": lambda x, y: namespace(x).where(x < y, x, y),
    "numbers": lambda x, y: namespace(x).where(y >= 1, 0.1, x) - 3 * y / (2 - x),
    "isfinite": lambda x, y: namespace(x).isfinite(x * y),
    "comparisons": lambda x, y: ((x <= y) | (x > 2)) & ~((x == y) | (x != 0.5)),
    "truths": lambda x, y: namespace(x).logical_not(namespace(x).logical_and(x > y, y > 0)),
}


PAIRS = [((40, 30), (40, 30)), ((40, 30), (1, 30)), ((40, 1), (1, 30)), ((3, 1, 5), (3, 4, 1))]
PAIRS += [((7,), (7,)), ((2, 3, 4, 5), (1, 3, 4, 1)), ((1, 1), (1, 1)), ((1, 9), (1, 1))]


def assert_computed(name: str, pair: Any, dtype: Any) -> None:
    columns = [[numbers(shape, dtype, 3 * i + k) for i in range(3)] for k, shape in enumerate(pair)]
    # Truths are no state.
    assert_same(lambda x, y: _as_numbers(OPERATIONS[name](x, y), x), *columns)


def _as_numbers(found: Leaves, like: Leaves) -> Leaves:
    is_truth = found.values[0].dtype == bool
    xp = namespace(found)
    return xp.where(found, like, 0.5) if is_truth else found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation(name: str, dtype: Any, loops: list[Any]) -> None:
    assert_computed(name, PAIRS[0], dtype)
    assert loops


# A loop is compiled for each way in which shapes differ: for one operation in `make test`.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", slow_unless_quick(OPERATIONS, {"subtract"}))
def test_every_pair_of_shapes(name: str, dtype: Any, loops: list[Any]) -> None:
    for pair in PAIRS:
        assert_computed(name, pair, dtype)
    assert loops


def test_scalars_and_layouts(loops: list[Any]) -> None:
    arrays = [numbers((30, 20), np.float32, i) for i in range(3)]
    layouts = [arrays[0].T, arrays[1].T[::-1], np.repeat(arrays[2], 2, 1)[:, ::2].T]
    scalars = [np.asarray(x, np.float32) for x in (0.5, -2.0, 1e-20)]
    assert_same(lambda x, y: x * y + y, layouts, scalars)
    assert loops == [("multiply", "add")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [0, 1, slow(2), slow(3)])
def test_random_formulas(seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    rule = formulas.rule([formulas.random_formula(rng) for _ in range(4)])
    theta, first, second = (
        [numbers((9, 11), dtype, 10 * k + i) for i in range(2)] for k in range(3)
    )

    def two_steps(params: Leaves, *grads: Leaves) -> tuple[Leaves, ...]:
        state = rule.init(params)
        for grad in grads:
            state, step = rule.update(state, grad, params)
            params = params + step
        return (*state, params)

    assert_same(two_steps, theta, first, second)


@pytest.mark.parametrize(
    ("seed", "dtype"),
    [
        (0, np.float32),
        (1, np.float64),
        *(slow(seed, dtype) for seed in range(30) for dtype in DTYPES),
    ],
)
def test_random_formulas_of_shapes(seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    columns = [[rng.standard_normal((9, 11)).astype(dtype) for _ in range(3)] for _ in range(2)]
    assert_same(random_rule_of_shapes(seed), *columns)


LENGTHS = (1, 2, 3, 5, 8, 33, 100, 257)
EVERY_SHAPE: list[tuple[int, ...]] = [*itertools.product(LENGTHS, (1, 7, 70)), (3, 5, 2, 9)]
FEW_SHAPES = [(1, 70), (5, 1), (8, 7), (33, 7), (257, 70), (3, 5, 2, 9)]
"""With sums of each kind: of a few terms, of eight at once, of halves."""


@pytest.mark.parametrize(
    ("shapes", "dtype", "scratch"),
    [
        (FEW_SHAPES, np.float32, 64),
        (FEW_SHAPES, np.float64, 1 << 14),
        *(slow(EVERY_SHAPE, d, n) for d in (np.float32, np.float64) for n in (64, 1 << 14)),
    ],
)
def test_sums_along_every_axis(
    shapes: Any, dtype: Any, scratch: int, monkeypatch: pytest.MonkeyPatch, loops: list[Any]
) -> None:
    monkeypatch.setattr(shapes_in_c, "_SCRATCH", scratch)
    for shape in shapes:
        x = [np.nan_to_num(numbers(shape, dtype, i), posinf=3.0, neginf=-7.0) for i in range(3)]
        row = [numbers((*shape[:-1], 1), dtype, i) for i in range(3)]
        for axis in {0, 1, len(shape) - 1, -1}:
            assert_same(_along(axis), x, row)
    assert not [
        x for x in loops if x.count("multiply") > 1
    ]  # squares are taken where they are added


def _along(axis: int) -> Callable[..., tuple[Leaves, ...]]:
    def sums(x: Leaves, row: Leaves) -> tuple[Leaves, ...]:
        return (
            axes.axis_sum(x, axis),
            axes.axis_mean(0.5 * x - x * x, axis),
            axes.axis_mean(x * row, axis),
            axes.axis_mean(reductions.leaf_norm(x) * x, axis),
        )

    return sums


def test_a_sum_of_zeros_has_numpys_signs() -> None:
    for rows in 1, 2, 3, 4, 7:
        zeros = [np.full((rows, 50), -0.0, np.float32)]
        expected, found = (
            by(lambda x: axes.axis_sum(x, 0), [zeros])[0].values[0] for by in (by_numpy, by_loops)
        )
        assert np.array_equal(np.signbit(expected), np.signbit(found))


def test_what_is_not_asked_for_is_not_computed(loops: list[Any]) -> None:
    x = [numbers((40, 30), np.float32)]

    def one(x: Leaves) -> Leaves:
        y = x * x
        return (y - x, y + 1.0)[1]

    assert_same(one, x)
    assert loops == [("multiply", "add")]


def test_what_comes_again_is_computed_once(loops: list[Any]) -> None:
    def again(x: Leaves) -> Leaves:
        y = x * x
        return y * (y + y)

    assert_same(again, [numbers((40, 30), np.float32)])
    assert loops == [("multiply", "add", "multiply")]


def test_what_is_smaller_is_computed_once(loops: list[Any]) -> None:
    x, row = [numbers((40, 30), np.float32)], [numbers((40, 1), np.float32)]
    assert_same(lambda a, r: (r * r + 1.0) * a, x, row)
    assert loops == [("multiply", "add"), ("multiply",)]


def test_what_numpy_refuses_is_refused() -> None:
    x, y = ([numbers(shape, np.float32)] for shape in ((40, 30), (40, 31)))
    with pytest.raises(ValueError, match="broadcast"):
        program_of(lambda x, y: x + y, [x, y])


def moved_parts(x: Leaves) -> tuple[Leaves, ...]:
    """Rearrangements, sums of what they make, a branch and a cycle."""
    turned = transposed(x)
    norm = reductions.leaf_norm(turned)
    (chosen,) = when(norm > 60.0, lambda y: (y + y,), (turned,), (turned,))

    def halved(y: Leaves, size: Leaves) -> tuple[Leaves, Leaves]:
        return y * 0.5, reductions.leaf_norm(y) * 0.5

    small, size = x.backend.repeat(halved, lambda y, size: size > 20.0, (chosen, norm), 50)
    return transposed(small), size, x.backend.rearrange(lambda y: y[:1] * 1, chosen)


@pytest.mark.parametrize("dtype", DTYPES)
def test_leaves_that_part_ways(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    leaves = [(10.0**k * rng.standard_normal((40, 30))).astype(dtype) for k in (0, 3, -2, 1)]
    assert_same(moved_parts, leaves)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(text: str) -> Any:
        raise NoKernelsError("there is no C compiler")

    for module in c_compiler, shapes_in_c:
        monkeypatch.setattr(module, "library_of", refused)
    exact_sums_in_c._made.cache_clear()
    monkeypatch.setattr(exact_sums_in_c, "_made", exact_sums_in_c._made.__wrapped__)
    monkeypatch.setattr(_plans, "_SHAPES", Recent(64))


def trained(
    name: str, compiled: bool | None, dtype: torch.dtype = torch.float32, **values: Any
) -> Any:
    generator = torch.Generator().manual_seed(0)
    shapes = [(40, 30), (40, 30), (6, 5), (17,), (2, 3, 4), (0, 3), ()]
    params = [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]
    params[1].data = params[1].data.T.contiguous().T  # a layout of its own
    optimizer = optstudy_torch.from_core(name)(params, compile=compiled, **values)
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        optimizer.step()
    states = [x for p in params for x in optimizer.state[p].values()]
    return [x.detach() for x in (*params, *states)]


def assert_trained_the_same(name: str, compiled: bool | None, **values: Any) -> None:
    for x, y in zip(trained(name, False, **values), trained(name, compiled, **values), strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


TERMS = {"momentum": 0.9, "weight_decay": 0.1}
RULES: list[tuple[str, dict[str, Any]]] = [
    ("adafactor", {}),
    ("adafactor", TERMS | {"eps_in_square": True}),
    ("muon", TERMS | {"dialect": "paper"}),  # vectors too
    ("sm3", {}),
    ("soap", {"weight_decay": 0.1}),
]


@pytest.mark.parametrize(
    ("name", "values", "dtype"),
    [
        ("adafactor", TERMS | {"eps_in_square": True}, torch.float32),
        slow("adafactor", {}, torch.bfloat16),
        ("muon", TERMS | {"dialect": "paper"}, torch.float32),
        ("sm3", {}, torch.float64),
        *(
            slow(*rule, dtype)
            for rule in RULES
            for dtype in (torch.float32, torch.float64, torch.bfloat16)
        ),
    ],
)
def test_optimizers(name: str, values: Any, dtype: torch.dtype) -> None:
    assert_trained_the_same(name, True, dtype=dtype, **values)


@pytest.mark.parametrize("shapes", [[(40, 30), (17,)], [(40, 30), (17,), (), (0, 3)]])
def test_a_sum_over_leaves_of_several_shapes(shapes: Any) -> None:
    rule = clipped(ALGORITHMS["adafactor"])
    ends = []
    for compiled in False, True:
        params = [p for shape in shapes for p in parameters(2, shape)]
        optimizer = optstudy_torch.from_core(rule)(params, compile=compiled, max_norm=0.1)
        for _ in range(2):
            optimizer.step()
        ends.append([*params, *(x for p in params for x in optimizer.state[p].values())])
    for x, y in zip(*ends, strict=True):
        assert torch.equal(x, y)


def test_roots_and_products_in_double(loops: list[Any]) -> None:
    def root(x: Leaves) -> Leaves:
        own = gram(x)
        return matmul(inverse_root(own + identity(own), 4), x)

    assert_same(root, [numbers((5, 7), np.float32) for _ in range(2)])
    assert loops


def test_a_branch_may_return_a_view_of_what_is_written() -> None:
    def first(grad: Any, params: Any, lr: Any) -> Any:
        norm = reductions.leaf_norm(grad)
        return when(norm > 0, lambda x: (axes.reshaped(x, x.shape),), (params,), (params,))[0]

    def step(grad: Any, params: Any, lr: Any) -> Any:
        return -lr * grad

    rule = own_rule(step, lambda grad, params, _: first(grad, params, None))
    assert_the_same_steps(lambda: parameters(1), rule)


class _Rows(NamedTuple):
    rows: Any


def test_a_field_that_is_read_while_it_is_written() -> None:
    @shapewise
    def init(params: Any) -> Any:
        return _Rows(axes.axis_sum(params, 0) if params.shape else params)

    @shapewise
    def update(state: Any, grad: Any, params: Any, *, lr: Any = 0.1) -> Any:
        return _Rows(0.5 * state.rows), -lr * grad * state.rows

    assert_the_same_steps(parameters, optstudy_torch.from_core(Algorithm("own", init, update)))


def test_a_step_in_float32_is_not_rounded_before_it_is_added() -> None:
    assert_trained_the_same("adafactor", True, dtype=torch.bfloat16, step_dtype="float32")


def test_without_a_compiler_numpy_computes(
    no_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_shapes, "_FEW", 0)
    errors.warn_of_slow_steps.cache_clear()
    with pytest.warns(RuntimeWarning, match="2 to 4 times as long"):
        assert_trained_the_same("adafactor", None)
    with pytest.raises(RuntimeError, match=r"compile = True on cpu: there is no C compiler"):
        trained("adafactor", True)


def test_a_step_is_added_where_the_parameter_lies(loops: list[Any]) -> None:
    p = torch.nn.Parameter(torch.randn(40, 30))
    p.grad = torch.randn(40, 30)
    place, version = p.data_ptr(), p._version
    optstudy_torch.Adafactor([p], compile=True).step()
    assert loops
    assert p.data_ptr() == place
    assert p._version > version


def _gradient(grad: Any, params: Any, step: Any) -> Any:
    return grad


def own_rule(step: Callable[..., Any], field: Callable[..., Any] = _gradient) -> Any:
    """Return an optimizer of a rule that is this step, and keeps this in its state."""

    @shapewise
    def init(params: Any) -> Any:
        return ALGORITHMS["sgd"].init(params, momentum=0.9)

    @shapewise
    def update(state: Any, grad: Any, params: Any, *, lr: Any = 0.1) -> Any:
        own = step(grad, params, lr)
        return state._replace(b=field(grad, params, own)), own

    return optstudy_torch.from_core(Algorithm("own", init, update))


def parameters(count: int = 4, shape: tuple[int, ...] = (40, 30)) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn(shape, generator=generator)
    return params


def assert_the_same_steps(make: Callable[[], list[torch.nn.Parameter]], rule: Any) -> None:
    ends = []
    for compiled in False, True:
        params = make()
        optimizer = rule(params, compile=compiled)
        for _ in range(3):
            optimizer.step()
        ends.append([*params, *(x for p in params for x in optimizer.state[p].values())])
    for x, y in zip(*ends, strict=True):
        assert torch.equal(x, y)


def decayed(grad: Any, params: Any, lr: Any) -> Any:
    return -lr * (params + grad)


def test_a_step_that_is_a_field_too() -> None:
    assert_the_same_steps(parameters, own_rule(decayed, lambda *given: given[-1]))


def test_a_field_that_is_a_view_of_the_parameters_does_not_move_with_them() -> None:
    p = parameters(1)[0]
    before = p.detach().clone()
    for compiled in False, True:
        optimizer = own_rule(decayed, lambda _, params, step: axes.reshaped(params, params.shape))(
            [p], compile=compiled
        )
        before = p.detach().clone()
        optimizer.step()
        assert torch.equal(optimizer.state[p]["b"], before)


def _first_row(x: Any) -> Any:
    return axes.parts(axes.reshaped(x, (x.shape[0] * x.shape[1],)), [(1, x.shape[1])])[0]


def test_a_step_that_reads_parameters_elsewhere() -> None:
    rule = own_rule(lambda grad, params, lr: -lr * (params - _first_row(params)) - lr * grad)
    assert_the_same_steps(parameters, rule)


def _tied() -> list[torch.nn.Parameter]:
    params = parameters()
    params[1].data = params[0].data
    return params


def _overlapping() -> list[torch.nn.Parameter]:
    params, base = parameters(2), torch.randn(50, 30, generator=torch.Generator().manual_seed(1))
    params[0].data, params[1].data = base[:40], base[10:]
    return params


def _gradients_of_others() -> list[torch.nn.Parameter]:
    params = parameters()
    for i, p in enumerate(params):
        p.grad = params[i - 1].data
    return params


def _shifted_gradient() -> list[torch.nn.Parameter]:
    params, base = parameters(1), torch.randn(41, 30, generator=torch.Generator().manual_seed(1))
    params[0].data, params[0].grad = base[1:], base[:-1]
    return params


def _of_two_shapes() -> list[torch.nn.Parameter]:
    params, others = parameters(2), parameters(2, (30, 40))
    params[0].grad = others[1].data.reshape(40, 30)
    others[0].grad = params[1].data.reshape(30, 40)
    return [*params, *others]


SHARED = [_tied, _overlapping, _gradients_of_others, _shifted_gradient, _of_two_shapes]


@pytest.mark.parametrize("make", SHARED)
def test_memory_that_is_shared(make: Any) -> None:
    assert_the_same_steps(make, own_rule(decayed))


def test_a_gradient_that_is_the_parameter() -> None:
    def own_gradients() -> list[torch.nn.Parameter]:
        params = parameters()
        for p in params:
            p.grad = p.data
        return params

    assert_the_same_steps(own_gradients, own_rule(decayed))


STEPS = {
    "transposed": lambda g: g.backend.rearrange(lambda x: x.T.copy(), g),  # NumPy's alone
    "part": lambda g: g.backend.rearrange(lambda x: x[:2] * 1, g),
    "wider": lambda g: g.backend.rearrange(lambda x: np.stack([x, x]), g),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_another_shape_is_refused(name: str, compiled: bool) -> None:
    p = parameters(1)
    with pytest.raises(RuntimeError, match=r"match|broadcast"):
        own_rule(lambda g, _, lr: -lr * STEPS[name](g))(p, compile=compiled).step()


def test_a_step_that_is_repeated_along_an_axis() -> None:
    def step(grad: Any, params: Any, lr: Any) -> Any:
        return -lr * axes.reshaped(axes.axis_sum(grad, 0), (grad.shape[1],))

    assert_the_same_steps(parameters, own_rule(step))


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_that_is_not_there_is_refused(axis: int) -> None:
    with pytest.raises((IndexError, ValueError)):
        program_of(lambda x: axes.axis_sum(x, axis), [[numbers((40, 30), np.float32)]])
