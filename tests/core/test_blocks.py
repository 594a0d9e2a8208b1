"""Which axes of a leaf are rows and columns, and what is a block of its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from harness import same, slow

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS
from optstudy_core.arrays.blocks import matrices_of
from optstudy_core.arrays.leaves import Leaves, fields_of
from optstudy_core.arrays.numpy_backend import NumPy

pytestmark = pytest.mark.usefixtures("compiled_quickly")

RULES = ["adamuon", "muon", "normuon", "shampoo", "soap"]
STEPS = 3


def trained(name: str, grads: list[np.ndarray], **given: Any) -> tuple[np.ndarray, list[Any]]:
    """Return the last step and the state after gradients, of a leaf that starts at 0."""
    algorithm = ALGORITHMS[name]
    values = algorithm.resolve(None, given)
    theta = Leaves([np.ones_like(grads[0])], NumPy())
    state = algorithm.start(theta, values)
    for grad in grads:
        state, step = algorithm.update(state, Leaves([grad], NumPy()), theta, **values)
    return step.values[0], [x.values[0] for x in fields_of(state)]


def drawn(*shape: int, dtype: str = "float32") -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.normal(size=shape).astype(dtype) for _ in range(STEPS)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RULES)
def test_a_kernel_of_flax_takes_the_step_of_the_same_kernel_of_pytorch(name, dtype):
    for shape, order in (
        ((5, 5), (1, 0)),  # also a square one
        ((3, 7), (1, 0)),
        ((4, 3, 3, 3), (2, 3, 1, 0)),
        ((2, 3, 5), (2, 1, 0)),
    ):
        grads = drawn(*shape, dtype=dtype)
        step, _ = trained(name, grads)
        other, _ = trained(name, [g.transpose(order) for g in grads], output_axis=-1)
        if name in ("adamuon", "muon") or (name == "normuon" and len(shape) == 2):
            assert same(other, step.transpose(order))
        else:  # the other axis comes first, and roots and bases of the columns are others
            assert other.shape == step.transpose(order).shape


@pytest.mark.parametrize("name", RULES)
def test_each_matrix_of_a_stack_is_alone(name):
    grads = drawn(3, 4, 2)
    step, state = trained(name, grads, output_axis=1, reduction_axis=2)
    alone = [trained(name, [g[i] for g in grads]) for i in range(3)]
    assert same(step, np.stack([s for s, _ in alone]))
    for k, field in enumerate(state):
        own = [fields[k] for _, fields in alone]
        if own[0] is None:
            assert field is None
        elif own[0].shape == (4, 2):
            assert same(field, np.stack(own))
        elif own[0].ndim == 1:
            assert same(field, np.concatenate(own))
        else:
            assert field == own[0] == STEPS
    step, _ = trained(name, [g.transpose(1, 0, 2) for g in grads], output_axis=0, reduction_axis=2)
    assert same(step, np.stack([s for s, _ in alone], 1))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("split", "rows"), [(3, (2, 2, 2)), ((3, 1, 2), (3, 1, 2))])
def test_each_block_of_outputs_is_alone(name, split, rows):
    grads, ends = drawn(6, 4), np.cumsum(rows)[:-1]
    step, _ = trained(name, grads, split=split)
    parts = [trained(name, [np.split(g, ends)[i] for g in grads])[0] for i in range(3)]
    assert same(step, np.concatenate(parts))


def test_several_axes_are_the_outputs():
    """As in an attention of Flax, whose kernels are (in, heads, size of a head)."""
    grads = drawn(4, 3, 2)
    step, _ = trained("muon", grads, output_axis=(1, 2), reduction_axis=0)
    whole, _ = trained("muon", [g.reshape(4, 6).T for g in grads])
    assert same(step, whole.T.reshape(4, 3, 2))


@pytest.mark.parametrize("name", ["muon", *map(slow, ("adamuon", "normuon", "shampoo", "soap"))])
@pytest.mark.parametrize("given", [{"output_axis": 1}, {"output_axis": 2, "reduction_axis": 0}])
def test_both_frameworks_compute_them(name, given):
    grads = drawn(4, 3, 2)
    step, _ = trained(name, grads, lr=0.1, weight_decay=0.0, **given)
    p = torch.ones((4, 3, 2), requires_grad=True)
    rest = {"lr": 0.1, "weight_decay": 0.0, "compile": False} | given
    optimizer = optstudy_torch.from_core(name)([p], **rest)
    tx = optstudy_jax.from_core(name)(0.1, weight_decay=0.0, **given)
    theta = jnp.ones((4, 3, 2))
    state = tx.init(theta)
    for grad in grads:
        with torch.no_grad():
            p.fill_(0)
        p.grad = torch.tensor(grad)
        optimizer.step()
        updates, state = jax.jit(tx.update)(jnp.asarray(grad), state, theta)
    assert same(p.detach().numpy(), step)
    assert same(np.asarray(updates), step)


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        ((3,), {}),
        ((), {}),
        ((3, 4), {"output_axis": ()}),
        ((3, 4, 2), {"flatten": False}),
        ((0, 4, 2), {"output_axis": 1, "reduction_axis": 2}),
    ],
)
def test_what_is_no_matrix(shape, given):
    assert matrices_of(shape, **given) is None


def test_a_leaf_without_elements_is_trained():
    for shape in ((0, 3), (3, 0), (0, 4, 2)):
        for name in RULES:
            step, _ = trained(name, drawn(*shape), output_axis=1)
            assert step.shape == shape


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"output_axis": 2}, r"output_axis = 2 of a leaf of shape \(6, 4\): allowed are its axes"),
        ({"output_axis": (0, 0)}, r"output_axis = \(0, 0\) .* allowed are its axes"),
        ({"reduction_axis": -3}, "reduction_axis = -3 .* allowed are its axes"),
        ({"reduction_axis": 0}, "allowed are axes of their own for both"),
        ({"output_axis": (0, 1)}, "allowed are axes of their own for both"),
        ({"split": 4}, "split = 4 of a matrix with 6 rows"),
        ({"split": (3, 2)}, r"split = \(3, 2\) of a matrix with 6 rows"),
    ],
)
def test_axes_that_a_leaf_does_not_have(given, words):
    for name in RULES:
        with pytest.raises(ValueError, match=words):
            trained(name, drawn(6, 4), **given)
