"""Small parameters share units, large ones are their own: the same bits, whatever is replaced."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from harness import HEAVY_BALL, definition, draw, same, start, to_numpy, to_torch

from optstudy_torch import AdamW, _snapshot, from_core
from optstudy_torch.engine import stages

pytestmark = pytest.mark.usefixtures("machine")

SHAPES = [(), (40_000,), (3,), (0,), (4, 5), (300, 500), (7, 3), (20_000,), (30_000,), (1,)]
GIVEN = {"lr": 0.1, "b1": 0.8, "b2": 0.99, "weight_decay": 0.01}
OURS = {"lr": 0.1, "betas": (0.8, 0.99), "weight_decay": 0.01}


def parameters(values: list[np.ndarray]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(to_torch(v)) for v in values]


def take(optimizer: Any, params: list[Any], grads: list[Any]) -> None:
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else to_torch(g)
    optimizer.step()


def assert_same(params: list[Any], expected: list[np.ndarray]) -> None:
    for i, (p, e) in enumerate(zip(params, expected, strict=True)):
        assert same(to_numpy(p), e), f"leaf {i}"


@pytest.mark.parametrize("step_dtype", [None, "float32"])
@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, ml_dtypes.bfloat16], ids=lambda d: np.dtype(d).name
)
def test_small_and_large_leaves(dtype: Any, step_dtype: str | None) -> None:
    begin, grads = start(SHAPES, dtype=dtype), draw(SHAPES, 3, dtype=dtype)
    params = parameters(begin)
    optimizer = AdamW(params, step_dtype=step_dtype, **OURS)
    for g in grads:
        take(optimizer, params, g)
    assert_same(params, definition("adamw", begin, grads, GIVEN, step_dtype=step_dtype)[0])


@pytest.mark.usefixtures("torch_operations")
def test_torch_operations_on_leaves_that_differ() -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 4)
    grads[1][2] = grads[2][2] = grads[1][7] = None  # type: ignore[call-overload]
    params = parameters(begin)
    optimizer = AdamW(params, **OURS)
    for g in grads:
        take(optimizer, params, g)
    assert_same(params, definition("adamw", begin, grads, GIVEN)[0])


def test_mixed_dtypes_and_a_chunk_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_SCRATCH", 25_000)
    dtypes = [np.float32, ml_dtypes.bfloat16, np.float64, np.float16]
    cast = lambda xs: [x.astype(dtypes[i % 4]) for i, x in enumerate(xs)]  # noqa: E731
    begin, grads = cast(start(SHAPES)), [cast(np.asarray(g) for g in gs) for gs in draw(SHAPES, 3)]
    grads = [[np.clip(g, -1e3, 1e3).astype(g.dtype) for g in gs] for gs in grads]
    params = parameters(begin)
    optimizer = AdamW(params, **OURS)
    for g in grads:
        take(optimizer, params, g)
    assert_same(params, definition("adamw", begin, grads, GIVEN)[0])


def replace_a_state(optimizer: Any, params: list[Any]) -> None:
    optimizer.state[params[2]]["m"] = optimizer.state[params[2]]["m"].clone()


def replace_a_count(optimizer: Any, params: list[Any]) -> None:
    optimizer.state[params[4]]["t"] = optimizer.state[params[4]]["t"].clone()


def move_a_state(optimizer: Any, params: list[Any]) -> None:
    field = optimizer.state[params[2]]["m"]
    field.data = field.data.clone()


def move_a_parameter(optimizer: Any, params: list[Any]) -> None:
    params[1].data = params[1].data.clone()
    params[4].data = params[4].data.clone()


def turn_a_parameter(optimizer: Any, params: list[Any]) -> None:
    params[5].data = params[5].data.t().contiguous().t()


def replace_every_state(optimizer: Any, params: list[Any]) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def replace_a_mapping(optimizer: Any, params: list[Any]) -> None:
    optimizer.state[params[6]] = {k: v.clone() for k, v in optimizer.state[params[6]].items()}


def undo(optimizer: Any, params: list[Any]) -> None:
    kept = _snapshot.optimizer_state(optimizer)
    values = [p.detach().clone() for p in params]
    optimizer.step()
    with torch.no_grad():
        for p, value in zip(params, values, strict=True):
            p.copy_(value)
    _snapshot.restore_optimizer_state(optimizer, kept)


@pytest.mark.parametrize(
    "between",
    [
        replace_a_state,
        replace_a_count,
        move_a_state,
        move_a_parameter,
        turn_a_parameter,
        replace_every_state,
        replace_a_mapping,
        undo,
    ],
    ids=lambda f: f.__name__,
)
def test_what_is_replaced_between_steps_is_used(between: Callable[..., None]) -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 4)
    params = parameters(begin)
    optimizer = AdamW(params, **OURS)
    for g in grads:
        take(optimizer, params, g)
        between(optimizer, params)
    ends, states = definition("adamw", begin, grads, GIVEN)
    assert_same(params, ends)
    for p, state in zip(params, states, strict=True):
        assert same(to_numpy(optimizer.state[p]["m"]), state.m)
        assert same(to_numpy(optimizer.state[p]["t"]), state.t)


def test_what_is_written_into_a_state_is_used() -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 2)
    params = parameters(begin)
    optimizer = from_core(HEAVY_BALL)(params, lr=0.5)
    take(optimizer, params, grads[0])
    for p in params:
        optimizer.state[p]["b"].zero_()
    before = [to_numpy(p) for p in params]
    take(optimizer, params, grads[1])
    for p, b, g in zip(params, before, grads[1], strict=True):
        assert same(to_numpy(p), b + np.float32(-0.5) * g)


def test_a_copy_of_a_state_is_no_larger_than_the_state() -> None:
    params = [torch.nn.Parameter(torch.randn(1000)) for _ in range(50)]
    optimizer = AdamW(params)
    for p in params:
        p.grad = torch.randn(1000)
    optimizer.step()
    kept = _snapshot.optimizer_state(optimizer)
    storages = {
        x.untyped_storage().data_ptr(): x.untyped_storage()
        for s in kept.values()
        for x in s.values()
    }
    assert sum(s.nbytes() for s in storages.values()) <= 1.1 * 2 * 50 * 4000


def test_versions_of_parameters_advance() -> None:
    """Autograd refuses to go back through values that a step has changed."""
    for size in (10, 100_000):
        w = torch.nn.Parameter(torch.ones(size))
        other = torch.nn.Parameter(torch.ones(3))
        optimizer = AdamW([w, other])
        w.grad, other.grad = torch.ones(size), torch.ones(3)
        out = (w * w).sum()
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.backward()


# What may change between steps.


def test_a_model_that_has_another_dtype_now() -> None:
    """Its state is converted, as numbers; the steps after it are those of the new dtype."""
    begin, grads = start([(1000,), (3,)]), draw([(1000,), (3,)], 4)
    ends = []
    for new in (torch.float64, torch.float32):
        params = parameters(begin)
        optimizer = AdamW(params, **OURS)
        take(optimizer, params, grads[0])
        for p in params:
            p.data = p.data.to(new)
        for p, g in zip(params, grads[1], strict=True):
            p.grad = to_torch(g).to(new)
        optimizer.step()
        fields = [x for p in params for x in optimizer.state[p].values()]
        assert {x.dtype for x in fields} == {new, torch.int32}
        ends.append([to_numpy(p).astype(np.float64) for p in params])
    for x, y in zip(*ends, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)  # two steps of 0.1 in float32


def test_a_state_of_another_dtype_is_converted() -> None:
    begin, grads = start([(1000,), (3,)]), draw([(1000,), (3,)], 3)
    params = parameters(begin)
    optimizer = AdamW(params, **OURS)
    for g in grads:
        take(optimizer, params, g)
        for state in optimizer.state.values():
            for name, x in state.items():
                state[name] = x.double()
    assert_same(params, definition("adamw", begin, grads, GIVEN)[0])


@pytest.mark.parametrize("sizes", [(1000, 500), (500, 1000)])
def test_a_parameter_of_another_shape_in_the_same_memory_is_refused(
    sizes: tuple[int, int],
) -> None:
    memory = torch.ones(1000)
    p = torch.nn.Parameter(memory[: sizes[0]])
    optimizer = AdamW([p], **OURS)
    p.grad = torch.ones(sizes[0])
    optimizer.step()
    before = memory.clone()
    p.data = memory[: sizes[1]]
    p.grad = torch.ones(sizes[1])
    with pytest.raises(ValueError, match="of shape"):
        optimizer.step()
    assert torch.equal(memory, before)


def test_counts_of_the_state_that_move_by_themselves() -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 3)
    params = parameters(begin)
    optimizer = AdamW(params, **OURS)
    for g in grads:
        take(optimizer, params, g)
        for state in optimizer.state.values():
            state["t"].share_memory_()
    assert_same(params, definition("adamw", begin, grads, GIVEN)[0])


def test_a_gradient_whose_sign_is_a_note() -> None:
    p = torch.nn.Parameter(torch.ones(4))
    p.grad = torch._neg_view(torch.full((4,), 2.0))
    from_core("sgd")([p], lr=0.5).step()
    assert p.tolist() == [2.0] * 4


def test_gradients_without_memory_are_refused() -> None:
    p = torch.nn.Parameter(torch.ones(1000))
    p.grad = torch.ones(1000)
    p.grad.untyped_storage().resize_(0)
    with pytest.raises((TypeError, RuntimeError)):
        from_core("sgd")([p], lr=0.5).step()
    assert p.detach().eq(1).all()


def test_another_input_on_another_device_is_refused() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match="hessian on meta: allowed is cpu"):
        from_core("sophia")([p]).step(hessian=[torch.ones(3, device="meta")])
