"""Kernels of Flax in PyTorch's order of axes."""

from __future__ import annotations

from typing import Any

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from harness import slow_unless_quick

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS
from optstudy_jax import in_torch_layout, torch_axes

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KERNELS = {"dense": (4, 6), "square": (5, 5), "conv": (3, 2, 2, 4), "attention": (4, 2, 3)}
NOT_MATRICES = ("conv", "attention")


def _draw(seed: int, names: list[str]) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        name: {
            "kernel": rng.normal(size=KERNELS[name]).astype(np.float32),
            "bias": rng.normal(size=KERNELS[name][-1:]).astype(np.float32),
        }
        for name in names
    }


def _axes(name: str, leaf: Any) -> tuple[int, ...] | None:
    return (1, 2, 0) if name == "attention/kernel" else torch_axes(name, leaf)


def _in_torch(name: str, leaf: np.ndarray) -> torch.Tensor:
    order = _axes(name, leaf)
    turned = leaf if order is None else leaf.transpose(order)
    return torch.from_numpy(np.array(turned, order="C"))


@pytest.mark.parametrize(
    "name", slow_unless_quick((n for n, a in ALGORITHMS.items() if a.leafwise), quick={"sm3"})
)
def test_rules_of_rows_and_columns_have_the_bits_of_torch(name: str) -> None:
    layers = [x for x in KERNELS if name != "muon" or x not in NOT_MATRICES]
    start, grads = _draw(0, layers), [_draw(seed, layers) for seed in (1, 2, 3)]
    given = {"dialect": "paper"} if name == "muon" else {}  # torch's has no vectors
    tx = in_torch_layout(optstudy_jax.from_core(name)(1e-2, **given), _axes)
    params = jax.tree.map(jnp.asarray, start)
    state = tx.init(params)
    update = jax.jit(tx.update)
    theirs = {
        (x, k): torch.nn.Parameter(_in_torch(f"{x}/{k}", leaf))
        for x, layer in start.items()
        for k, leaf in layer.items()
    }
    optimizer = optstudy_torch.from_core(name)(theirs.values(), lr=1e-2, **given)
    for row in grads:
        updates, state = update(jax.tree.map(jnp.asarray, row), state, params)
        params = optax.apply_updates(params, updates)
        for (x, k), p in theirs.items():
            p.grad = _in_torch(f"{x}/{k}", row[x][k])
        optimizer.step()
    for (x, k), p in theirs.items():
        ours = _in_torch(f"{x}/{k}", np.asarray(params[x][k]))
        assert torch.equal(ours, p.detach()), (x, k)


@pytest.mark.slow  # Studies train one with a method in the quick tier.
def test_of_a_network_of_nnx() -> None:
    net = nnx.Sequential(
        nnx.Linear(4, 6, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(6, 1, rngs=nnx.Rngs(1))
    )
    weights = [np.asarray(net.layers[i].kernel[...]) for i in (0, 2)]
    rule = optstudy_jax.adafactor(1e-2)  # it takes axes apart, and compiles fast
    optimizer = nnx.Optimizer(net, in_torch_layout(rule), wrt=nnx.Param)
    grads = nnx.grad(lambda net: jnp.sum(net(jnp.ones((2, 4)))))(net)
    theirs = [torch.nn.Parameter(_in_torch("kernel", x)) for x in weights]
    for i, p in zip((0, 2), theirs, strict=True):
        p.grad = _in_torch("kernel", np.asarray(grads["layers"][i]["kernel"][...]))
    nnx.jit(lambda net, optimizer, grads: optimizer.update(net, grads))(net, optimizer, grads)
    optstudy_torch.Adafactor(theirs, lr=1e-2).step()
    for i, p in zip((0, 2), theirs, strict=True):
        ours = _in_torch("kernel", np.asarray(net.layers[i].kernel[...]))
        assert torch.equal(ours, p.detach())


def test_inputs_like_the_gradient_are_transposed_too() -> None:
    params = jax.tree.map(jnp.asarray, _draw(0, ["dense"]))
    grads, hessian = (jax.tree.map(jnp.asarray, _draw(seed, ["dense"])) for seed in (1, 2))
    found = []
    for tx in (optstudy_jax.sophia(1e-2), in_torch_layout(optstudy_jax.sophia(1e-2))):
        updates, _ = tx.update(grads, tx.init(params), params, hessian=hessian)
        found.append(updates)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, *found))


def test_numbers_beside_the_gradient_stay() -> None:
    params = jnp.ones(())
    tx = in_torch_layout(optstudy_jax.polyak_sgd(), lambda *_: None)
    updates, _ = tx.update(params, tx.init(params), params, value=2.0)
    assert updates.shape == ()


def test_what_optax_needs_without_params() -> None:
    params = jax.tree.map(jnp.asarray, _draw(0, ["dense"]))
    tx = in_torch_layout(optax.sgd(1e-2))
    updates, _ = tx.update(params, tx.init(params))
    np.testing.assert_array_equal(updates["dense"]["kernel"], -1e-2 * params["dense"]["kernel"])


def test_shapes_and_tools_of_optax() -> None:
    params = jax.tree.map(jnp.asarray, _draw(0, ["dense", "conv"]))
    tx = in_torch_layout(optstudy_jax.adam(1e-3))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    m = tx.init(shapes).inner.m
    assert m["dense"]["kernel"].shape == (6, 4)
    assert m["conv"]["kernel"].shape == (4, 2, 3, 2)
    doubled = optax.tree_map_params(tx, lambda x: x + 1, tx.init(params))
    assert jax.tree.all(jax.tree.map(lambda x: jnp.all(x == 1), doubled.inner.m))


def test_an_order_of_other_axes_is_refused() -> None:
    tx = in_torch_layout(optstudy_jax.muon(1e-2), lambda *_: (0, 2))
    with pytest.raises(
        ValueError, match=r"axes of 'w' = \(0, 2\): allowed are orders of its 2 axes"
    ):
        tx.init({"w": jnp.ones((2, 3))})


def test_dimension_numbers_say_which_axes_are_rows_and_columns() -> None:
    """Against optax, in float64 and with its own words; leaves that are no matrices take AdamW."""
    dims = optax.contrib.MuonDimensionNumbers
    numbers = {"experts": dims(1, 2), "heads": dims((0,), (1, 2)), "plain": dims(), "bias": None}
    rng = np.random.default_rng(0)
    shapes = {"experts": (2, 4, 3), "heads": (4, 3, 2), "plain": (3, 5), "bias": (4,)}
    with jax.enable_x64(True):
        draw = [{k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()} for _ in range(3)]
        begin, *grads = draw
        given = {"weight_decay": 0.1, "muon_weight_dimension_numbers": numbers, "ns_steps": 1}
        rest = {"adam_learning_rate": 0.03, "adam_weight_decay": 0.2}
        del begin["bias"], numbers["bias"]  # optax's AdamW looks ahead
        grads = [{k: g[k] for k in begin} for g in grads]
        theirs = optax.contrib.muon(0.1, **given, **rest)
        ours = optstudy_jax.muon(0.1, dialect="optax", adam_lr=0.03, **given)
        states, params = [ours.init(begin), theirs.init(begin)], [begin, begin]
        for grad in grads:
            for i, tx in enumerate((ours, theirs)):
                updates, states[i] = jax.jit(tx.update)(grad, states[i], params[i])
                params[i] = optax.apply_updates(params[i], updates)
        for name in begin:
            assert np.abs(params[0][name] - params[1][name]).max() < 1e-13  # roundings


def test_a_leaf_without_dimension_numbers_is_no_matrix() -> None:
    numbers = {"a": None, "b": optax.contrib.MuonDimensionNumbers()}
    given = {"adam_lr": 0.5, "ns_steps": 0}
    tx = optstudy_jax.muon(0.1, muon_weight_dimension_numbers=lambda _: numbers, **given)
    params = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((2, 3))}
    state = tx.init(params)
    assert state.inner.b["a"] is None
    assert state.inner.m["b"] is None
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    assert np.allclose(updates["a"], -0.5)
