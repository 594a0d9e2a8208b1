"""What an algorithm is given besides the gradient: the loss, an estimate of the Hessian."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.nn.functional import softplus

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS, Algorithm, sophia

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def a_parameter() -> torch.nn.Parameter:
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    p.grad = 2 * p.detach()
    return p


def test_the_table_says_what_is_needed() -> None:
    needed = {name: dict(a.inputs) for name, a in ALGORITHMS.items() if a.inputs}
    value = {"value": True}
    assert needed == {
        "momo": value,
        "momo_adam": value,
        "polyak_sgd": value,
        "sophia": {"hessian": False},
    }
    assert "value" not in ALGORITHMS["momo"].defaults()


def test_torch_takes_the_loss_of_the_closure_or_as_a_number() -> None:
    ends = []
    for how in ("closure", "number", "tensor"):
        p = a_parameter()
        optimizer = optstudy_torch.PolyakSGD([p])
        if how == "closure":
            assert optimizer.step(lambda p=p: (p.detach() ** 2).sum()) == 25
        else:
            optimizer.step(value=25.0 if how == "number" else torch.tensor([25.0]))
        ends.append(p.tolist())
    assert ends == [[1.5, 2.0]] * 3  # half of the way to the minimum


def test_torch_refuses_what_is_missing_or_unknown() -> None:
    optimizer = optstudy_torch.PolyakSGD([a_parameter()])
    with pytest.raises(TypeError, match=r"polyak_sgd without value: call step\(closure\)"):
        optimizer.step()
    with pytest.raises(TypeError, match="polyak_sgd has no input 'valeu'; did you mean 'value'"):
        optimizer.step(valeu=1.0)
    with pytest.raises(TypeError, match="adam has no input 'value'; it takes the gradient only"):
        optstudy_torch.Adam([a_parameter()]).step(value=1.0)
    with pytest.raises(ValueError, match=r"value of shape \(2,\): allowed are scalars"):
        optimizer.step(value=torch.ones(2))
    p = a_parameter()
    second_order = optstudy_torch.Sophia([p])
    for hessian, error, message in (
        ([], ValueError, "hessian of length 0: allowed is 1"),
        ([torch.ones(3)], ValueError, r"hessian of shape \(3,\): allowed is \(2,\)"),
        ([torch.ones(2).double()], TypeError, "hessian of dtype torch.float64"),
        ([None], TypeError, "hessian of type NoneType: allowed are tensors"),
    ):
        with pytest.raises(error, match=message):
            second_order.step(hessian=hessian)
    assert p.tolist() == [3.0, 4.0]


def test_jax_refuses_what_is_missing_or_does_not_fit() -> None:
    params = jnp.ones(2)
    tx = optstudy_jax.momo()
    with pytest.raises(TypeError, match=r"momo without value: call update\(grads, state, params"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match=r"value of shape \(2,\)"):
        tx.update(params, tx.init(params), params, value=params)
    tx = optstudy_jax.sophia()
    with pytest.raises(ValueError, match=r"hessian of shape \(3,\): allowed is \(2,\)"):
        tx.update(params, tx.init(params), params, hessian=jnp.ones(3))
    with pytest.raises(ValueError, match="hessian and the gradients have different structures"):
        tx.update([params], tx.init([params]), [params], hessian={"w": params})


def test_a_chain_in_jax_hands_them_on() -> None:
    params = {"w": jnp.array([3.0, 4.0])}
    tx = optax.chain(optax.clip(100.0), optstudy_jax.polyak_sgd())

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, grads = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 2))(params)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    assert step(params, tx.init(params))[0]["w"].tolist() == [1.5, 2.0]


def test_an_input_without_a_name_of_its_own_is_a_hyperparameter_without_a_default() -> None:
    def update(state: Any, grad: Any, params: Any = None, *, curvature: Any) -> Any:
        return state, -grad

    with pytest.raises(TypeError, match="hyperparameters without a default: curvature"):
        Algorithm("own", lambda params: None, update)


def loss_in_torch(w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    x = torch.linspace(-1, 1, 6).reshape(3, 2)
    return softplus(x @ w + b).sum() + (w**4).sum()


def loss_in_jax(params: Any) -> Any:
    x = jnp.linspace(-1, 1, 6).reshape(3, 2)
    w, b = params
    return jax.nn.softplus(x @ w + b).sum() + (w**4).sum()


def test_hutchinsons_estimate_is_the_same_in_both_and_its_mean_is_the_diagonal() -> None:
    w, b = np.float32([0.3, -0.7]), np.float32(0.2)
    signs = [np.float32([1.0, -1.0]), np.float32(-1.0)]
    params = [torch.tensor(x, requires_grad=True) for x in (w, b)]
    found = optstudy_torch.hutchinson(loss_in_torch(*params), params, [*map(torch.tensor, signs)])
    in_jax = optstudy_jax.hutchinson(loss_in_jax, [w, b], signs=signs)
    for x, y in zip(found, in_jax, strict=True):
        np.testing.assert_allclose(x.numpy(), y, rtol=1e-5)  # sums of three terms, exponentials
    whole = jax.hessian(lambda v: loss_in_jax((v[:2], v[2])))(jnp.append(w, b))
    total = np.zeros(3)
    for z in np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T:  # all signs
        own = [jnp.float32(z[:2]), jnp.float32(z[2])]
        estimate = optstudy_jax.hutchinson(loss_in_jax, [w, b], signs=own)
        total += np.append(estimate[0], estimate[1]) / 8
    np.testing.assert_allclose(total, np.diag(whole), rtol=1e-5)


def test_hutchinson_draws_from_what_it_is_given_and_writes_nothing() -> None:
    params = [torch.tensor([0.3, -0.7], requires_grad=True), torch.tensor(0.2, requires_grad=True)]
    ends = []
    for _ in range(2):
        before = torch.get_rng_state()
        generator = torch.Generator().manual_seed(3)
        loss = loss_in_torch(*params)
        ends.append(optstudy_torch.hutchinson(loss, params, generator=generator))
        assert torch.equal(before, torch.get_rng_state())
        loss.backward()  # the graph is still there
        for p in params:
            p.grad = None
    assert all(torch.equal(x, y) for x, y in zip(*ends, strict=True))
    unused = torch.ones(2, requires_grad=True)
    linear = params[0].sum()
    zeros = optstudy_torch.hutchinson(linear, [params[0], unused])
    assert [h.tolist() for h in zeros] == [[0.0, 0.0]] * 2
    key = jax.random.key(0)
    one, two = (optstudy_jax.hutchinson(loss_in_jax, [*map(jnp.ones, (2, ()))], key) for _ in "ab")
    assert all(map(np.array_equal, one, two))
    with pytest.raises(TypeError, match="either a key or signs"):
        optstudy_jax.hutchinson(loss_in_jax, [jnp.ones(2), jnp.ones(())])


@pytest.mark.parametrize("compiled", [False, True])
def test_sophia_in_torch_is_the_function_with_and_without_an_estimate(compiled: bool) -> None:
    """Several leaves, of which one has no gradient at first and one is of float16."""
    rng = np.random.default_rng(0)
    dtypes = (torch.float32, torch.float32, torch.float16)
    params = [torch.nn.Parameter(torch.tensor(rng.normal(size=3), dtype=d)) for d in dtypes]
    twins = [p.detach().clone() for p in params]
    optimizer = optstudy_torch.Sophia(params, update_interval=1.0, compile=compiled)
    states: list[Any] = [None] * 3
    for t in range(6):
        hessian = [torch.tensor(rng.uniform(0, 9, 3), dtype=p.dtype) for p in params]
        given = hessian if t % 3 else None
        for i, p in enumerate(params):
            p.grad = None if i == 1 and t < 2 else torch.tensor(rng.normal(size=3), dtype=p.dtype)
            if p.grad is None:
                continue
            theta, g, h = (x.detach().float().numpy() for x in (twins[i], p.grad, hessian[i]))
            if states[i] is None:
                states[i] = sophia.init(theta)
            more = {"hessian": None if given is None else h, "update_interval": 1.0}
            states[i], step = sophia.update(states[i], g, theta, **more)
            twins[i] = twins[i] + torch.tensor(step).to(p.dtype)
        optimizer.step(hessian=given)
    for p, q, state in zip(params, twins, states, strict=True):
        assert torch.equal(p, q)
        assert np.array_equal(optimizer.state[p]["h"].numpy(), state.h)
