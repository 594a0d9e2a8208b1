"""Trainings that move between PyTorch and Flax: parameters, buffers, states, and the next steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from harness import slow
from torch import nn
from travelling import (
    InFlax,
    InTorch,
    N,
    feed_flax,
    feed_torch,
    gradients,
    of_flax,
    of_torch,
    same,
    to_channels_first,
    to_channels_last,
    torch_run,
)

import optstudy_jax
import optstudy_torch

pytestmark = pytest.mark.usefixtures("compiled_quickly")

RULES: list[tuple[str, dict[str, Any]]] = [
    ("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
    ("SGD", {"lr": 1e-2, "momentum": 0.9, "nesterov": True}),
    ("Adafactor", {"momentum": 0.5}),
    ("LAMB", {"lr": 1e-2}),
    ("Muon", {"lr": 1e-2, "dialect": "paper"}),
    ("ScheduleFreeAdamW", {"lr": 1e-2}),
    ("SM3", {"lr": 1e-2}),
    ("Prodigy", {}),
    ("Adam", {"amsgrad": True}),
    ("NAdam", {"dialect": "optax"}),
    ("SignSGD", {}),
    ("Shampoo", {"momentum": 0.9}),
    ("SOAP", {}),
]
QUICK = {"AdamW", "SGD"}
rules = pytest.mark.parametrize(
    ("name", "given"), [r if r[0] in QUICK else slow(*r) for r in RULES], ids=[n for n, _ in RULES]
)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "run.safetensors")


def states(optimizer: Any) -> dict[str, Any]:
    found = optimizer.state_dict()
    groups = [{k: v for k, v in g.items() if k != "param_names"} for g in found["param_groups"]]
    own = {k: v for k, v in found["state"].items() if v}
    return {"state": own, "param_groups": groups}


def assert_equal(x: Any, y: Any) -> None:
    assert type(x) is type(y)
    if isinstance(x, dict):
        assert x.keys() == y.keys()
        for key, value in x.items():
            assert_equal(value, y[key])
    elif isinstance(x, list | tuple):
        assert len(x) == len(y)
        for a, b in zip(x, y, strict=True):
            assert_equal(a, b)
    elif isinstance(x, torch.Tensor):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)
    else:
        assert x == y


@rules
def test_there_and_back_and_the_next_step(name: str, given: dict[str, Any], file: str) -> None:
    model, optimizer = torch_run(getattr(optstudy_torch, name), **given)
    sample = torch.randn(2, N, 4, 4)
    optstudy_torch.export_run(file, model, optimizer, sample=sample)
    net = InFlax()
    there = optstudy_jax.import_run(file, net, forward=to_channels_last)
    assert there.model is net
    assert same(of_flax(net), of_torch(model))
    np.testing.assert_array_equal(net.norm.mean[...], model.norm.running_mean)
    assert there.names["first"] == "z"

    sample = jnp.asarray(sample.numpy()).transpose(0, 2, 3, 1)
    optstudy_jax.export_run(file, net, there.optimizer, sample=sample)
    again = InTorch()
    back = optstudy_torch.import_run(file, again, forward=to_channels_first)
    if name != "Adam":  # which comes back as AMSGrad
        assert type(back.optimizer) is type(optimizer)
        assert_equal(states(back.optimizer), states(optimizer))
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(again.state_dict()[key], value)

    for own, its in ((model, optimizer), (again, back.optimizer)):
        feed_torch(own, its, gradients(2))
    feed_flax(net, there.optimizer, gradients(2))
    assert same(of_torch(again), of_torch(model))
    assert same(of_flax(net), of_torch(model))


@pytest.mark.parametrize(
    ("title", "dialect", "first"),
    [slow("Muon", "paper", None), ("Muon", "optax", 0), ("AdaMuon", "paper", None)],
)
def test_muon_as_flax_has_its_matrices(
    title: str, dialect: str, first: int | None, file: str
) -> None:
    """Outputs last and no layout around it: the same state but for its order of axes."""
    given = {"dialect": dialect, "weight_decay": 0.1, "ns_steps": 1}
    model, optimizer = torch_run(
        getattr(optstudy_torch, title), 1, lr=1e-2, output_axis=first, **given
    )
    optstudy_torch.export_run(file, model, optimizer)
    net = InFlax()
    tx = getattr(optstudy_jax, title.lower())(1e-2, output_axis=-1, **given)
    own = nnx.Optimizer(net, tx, wrt=nnx.Param)
    notes = optstudy_jax.import_run(file, net, own).notes
    assert not any("output_axis" in note for note in notes)
    b = own.opt_state.inner.b["z"]["kernel"][...]
    np.testing.assert_array_equal(b.T, optimizer.state[model.first.weight]["b"])
    optstudy_jax.export_run(file, net, own)
    again = InTorch()
    back = optstudy_torch.import_run(file, again)
    assert_equal(states(back.optimizer), states(optimizer))
    feed_torch(model, optimizer, gradients(1))
    feed_flax(net, own, gradients(1))
    assert same(of_flax(net), of_torch(model))


def test_conventions_are_noted(file: str) -> None:
    model, optimizer = torch_run(optstudy_torch.SGD)
    model.drop.p = 0.5
    optstudy_torch.export_run(file, model, optimizer)
    net = InFlax()
    net.norm.epsilon, net.norm.momentum = 1e-3, 0.99
    found = optstudy_jax.import_run(file, net).notes
    assert found == (
        "norm: epsilon = 0.001, in the file 1e-05",
        "norm: momentum of running statistics = 0.01, in the file 0.1",
        "norm: running variance over = n, in the file n − 1",
        "drop: rate = 0.2, in the file 0.5",
        "2 layers of equal shapes were matched in declared order, and no sample input checks this: "
        "export with sample=",
    )


def test_given_optimizers_are_written_in_place(file: str) -> None:
    model, optimizer = torch_run(optstudy_torch.AdamW, lr=0.25)
    optstudy_torch.export_run(file, model, optimizer)
    net = InFlax()
    own = nnx.Optimizer(net, optstudy_jax.adamw(0.5), wrt=nnx.Param)
    found = optstudy_jax.import_run(file, net, own)
    assert found.optimizer is own
    assert own.opt_state.count[...] == own.step[...] == found.steps == 2
    assert any(note.startswith("lr = 0.5, in the file 0.25") for note in found.notes)
    optstudy_jax.export_run(file, net, own)
    other = optstudy_torch.AdamW(model.parameters(), lr=1.0)
    assert optstudy_torch.import_run(file, model, other).optimizer is other
    assert other.param_groups[0]["lr"] == 0.5
    assert_equal(states(other)["state"], states(optimizer)["state"])


def test_groups_and_parameters_that_stand_still(file: str) -> None:
    def make(params: Any) -> Any:
        first, *rest = params
        rest.pop().requires_grad_(requires_grad=False)
        return optstudy_torch.AdamW([{"params": [first], "lr": 0.5}, {"params": rest}])

    model, optimizer = torch_run(make)
    optstudy_torch.export_run(file, model, optimizer)
    net = InFlax()
    there = optstudy_jax.import_run(file, net)
    feed_flax(net, there.optimizer, gradients(2))
    feed_torch(model, optimizer, gradients(2))
    assert same(of_flax(net), of_torch(model))
    optstudy_jax.export_run(file, net, there.optimizer)
    again = InTorch()
    back = optstudy_torch.import_run(file, again)
    assert_equal(states(back.optimizer), states(optimizer))


def test_steps_of_a_state_within_a_state(file: str) -> None:
    optstudy_torch.export_run(file, *torch_run(optstudy_torch.ScheduleFreeSGD))
    assert optstudy_torch.import_run(file, InTorch()).steps == 2


def test_names_that_are_the_same_go_before_the_order(file: str) -> None:
    model, other = (nn.ModuleDict({k: nn.Linear(N, N) for k in names}) for names in ("ab", "ba"))
    optstudy_torch.export_run(file, model, optstudy_torch.SGD(model.parameters()))
    assert optstudy_torch.import_run(file, other).notes == ()
    assert torch.equal(other["a"].weight, model["a"].weight)


def test_masks_are_groups(file: str) -> None:
    net = InFlax()
    tx = optstudy_jax.adamw(0.5, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params))
    optstudy_jax.export_run(file, net, nnx.Optimizer(net, tx, wrt=nnx.Param))
    model = InTorch()
    groups = optstudy_torch.import_run(file, model).optimizer.param_groups
    found = {g["weight_decay"]: {p.ndim > 1 for p in g["params"]} for g in groups}
    assert found == {0.01: {True}, 0.0: {False}}


def make_injected(rate: Any) -> Any:
    return optax.inject_hyperparams(optstudy_jax.adamw)(learning_rate=rate)


AROUND = {
    "chain": lambda: optax.chain(optax.clip(9.0), optstudy_jax.adamw(0.01)),
    "layout": lambda: optax.chain(optstudy_jax.in_torch_layout(optstudy_jax.adamw(0.01))),
    "injected": lambda: make_injected(optax.linear_schedule(0.01, 0.02, 10)),
    "split": lambda: optax.multi_transform(
        {"z": optstudy_jax.adamw(0.01), "b": optstudy_jax.adamw(0.01)},
        lambda p: jax.tree.map(lambda x: "z" if x.ndim > 1 else "b", p),
    ),
}


@pytest.mark.parametrize("around", AROUND)
def test_within_other_transformations(around: str, file: str) -> None:
    model, optimizer = torch_run(optstudy_torch.AdamW)
    optstudy_torch.export_run(file, model, optimizer)
    net = InFlax()
    own = nnx.Optimizer(net, AROUND[around](), wrt=nnx.Param)
    notes = optstudy_jax.import_run(file, net, own).notes
    assert "the hyperparameters of the optimizer are not known: compare them with the file" in notes
    if around == "layout":  # its state lies as in PyTorch
        kernel = own.opt_state[0].inner.m["z"]["kernel"][...]
        np.testing.assert_array_equal(kernel, optimizer.state[model.first.weight]["m"])
    optstudy_jax.export_run(file, net, own)
    again = InTorch()
    made = optstudy_torch.AdamW(again.parameters(), lr=0.3)
    optstudy_torch.import_run(file, again, made)
    assert made.param_groups[0]["lr"] == 0.3  # the file does not know
    assert_equal(states(made)["state"], states(optimizer)["state"])
    if around == "injected":  # its schedule is where the training is
        assert own.opt_state.count[...] == 2


def test_trees_and_variables_of_linen(file: str) -> None:
    model, optimizer = torch_run(optstudy_torch.AdamW)
    optstudy_torch.export_run(file, model, optimizer)
    params = {
        "Conv_0": {"kernel": jnp.zeros((N, N, N, N)), "bias": jnp.zeros(N)},
        "BatchNorm_0": {"scale": jnp.zeros(N), "bias": jnp.zeros(N)},
        **{f"Dense_{i}": {"kernel": jnp.zeros((N, N)), "bias": jnp.zeros(N)} for i in (2, 10)},
    }
    batch_stats = {"BatchNorm_0": {"mean": jnp.zeros(N), "var": jnp.zeros(N)}}
    tree = {"params": params, "batch_stats": batch_stats}
    there = optstudy_jax.import_run(file, tree)
    got = there.model
    np.testing.assert_array_equal(
        got["params"]["Dense_10"]["kernel"].T, model.second.weight.detach()
    )
    np.testing.assert_array_equal(
        got["batch_stats"]["BatchNorm_0"]["mean"], model.norm.running_mean
    )
    assert any("a tree of arrays has no" in note for note in there.notes)
    optstudy_jax.export_run(file, got, there.optimizer, there.state)
    back = optstudy_torch.import_run(file, InTorch())
    assert_equal(states(back.optimizer), states(optimizer))


@pytest.mark.parametrize("dims", [1, slow(3)])
def test_convolutions_whose_dimensions_are_all_equal(dims: int, file: str) -> None:
    torch.manual_seed(0)
    kind = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    model = nn.Sequential(nn.Embedding(N, N), kind(N, N, N, padding=1), nn.LayerNorm(N))

    def call(model: Any, numbers: Any) -> Any:
        x = model[0](numbers)
        x = x.reshape(x.shape[0], *[N] * (dims + 1))
        return model[2](model[1](x))

    def call_flax(net: Any, numbers: Any) -> Any:
        x = net.layers[0](numbers).reshape(numbers.shape[0], *[N] * (dims + 1))
        x = net.layers[1](jnp.moveaxis(x, 1, -1))
        return net.layers[2](jnp.moveaxis(x, -1, 1))

    optimizer = optstudy_torch.AdamW(model.parameters())
    sample = torch.randint(N, (2, N**dims))
    optstudy_torch.export_run(file, model, optimizer, sample=sample, forward=call)
    rngs = nnx.Rngs(0)
    net = nnx.Sequential(
        nnx.Embed(N, N, rngs=rngs),
        nnx.Conv(N, N, (N,) * dims, rngs=rngs),
        nnx.LayerNorm(N, epsilon=1e-5, rngs=rngs),
    )
    assert optstudy_jax.import_run(file, net, forward=call_flax).notes == ()


def attention_in_torch() -> nn.MultiheadAttention:
    torch.manual_seed(0)
    return nn.MultiheadAttention(4, 2, batch_first=True)


def attention_in_flax() -> nnx.MultiHeadAttention:
    return nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))


def attend(model: Any, x: Any) -> Any:
    return model(x, x, x, need_weights=False)[0]


def trained(model: Any, make: Any) -> Any:
    optimizer = make(model.parameters(), lr=1e-2)
    torch.nn.init.normal_(model.in_proj_bias)
    attend(model, torch.randn(2, 5, 4)).square().sum().backward()
    optimizer.step()
    return optimizer


def test_packed_attention_travels_with_an_elementwise_rule(file: str) -> None:
    model = attention_in_torch()
    optimizer = trained(model, optstudy_torch.AdamW)
    optstudy_torch.export_run(file, model, optimizer, sample=torch.randn(2, 5, 4), forward=attend)
    net = attention_in_flax()
    there = optstudy_jax.import_run(file, net)
    assert there.notes == ()
    sample = jnp.ones((2, 5, 4))
    optstudy_jax.export_run(file, net, there.optimizer, sample=sample)
    again = attention_in_torch()
    back = optstudy_torch.import_run(file, again, forward=attend)
    assert_equal(dict(again.state_dict()), dict(model.state_dict()))
    assert_equal(states(back.optimizer), states(optimizer))


@pytest.mark.parametrize(
    ("name", "reason"), [("LAMB", "sums over the elements"), ("Adafactor", "rows and columns")]
)
def test_packed_attention_with_other_rules(name: str, reason: str, file: str) -> None:
    model = attention_in_torch()
    optimizer = trained(model, getattr(optstudy_torch, name))
    optstudy_torch.export_run(file, model, optimizer)
    with pytest.raises(ValueError, match=f"from in_proj_.*: {name.lower()} .*{reason}"):
        optstudy_jax.import_run(file, attention_in_flax())
    again = attention_in_torch()  # packed as it was
    assert_equal(states(optstudy_torch.import_run(file, again).optimizer), states(optimizer))


def test_half_precision(file: str) -> None:
    model = nn.Linear(N, N, dtype=torch.bfloat16)
    optimizer = optstudy_torch.AdamW(model.parameters())
    model(torch.ones(1, N, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    sample = torch.ones(1, N, dtype=torch.bfloat16)
    optstudy_torch.export_run(file, model, optimizer, sample=sample)
    net = nnx.Linear(N, N, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    there = optstudy_jax.import_run(file, net, forward=lambda net, x: net(x.view(jnp.bfloat16)))
    assert net.kernel.dtype == jnp.bfloat16
    assert there.state.inner.m["kernel"].dtype == jnp.float32
    optstudy_jax.export_run(file, net, there.optimizer)
    again = nn.Linear(N, N, dtype=torch.bfloat16)
    back = optstudy_torch.import_run(file, again)
    assert torch.equal(again.weight, model.weight)
    assert_equal(states(back.optimizer), states(optimizer))


def test_positions_of_schedules(file: str) -> None:
    def scheduled() -> Any:
        model, optimizer = torch_run(optstudy_torch.SGD, 0, lr=1.0)
        return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))

    model, optimizer, scheduler = scheduled()
    for i in range(3):
        feed_torch(model, optimizer, gradients(i))
        scheduler.step()
    optstudy_torch.export_run(file, model, optimizer, scheduler, steps=3)
    again, other, own = scheduled()
    optstudy_torch.import_run(file, again, other, own)
    assert own.state_dict() == scheduler.state_dict()
    assert other.param_groups[0]["lr"] == 0.25

    net = InFlax()
    tx = optstudy_jax.sgd(lambda t: 1 / (1 + t))
    there = optstudy_jax.import_run(file, net, tx)
    assert there.optimizer.opt_state.count[...] == 3
    optstudy_jax.export_run(file, net, there.optimizer)
    again, other, own = scheduled()
    optstudy_torch.import_run(file, again, other, own)
    own.step()
    assert (own.last_epoch, other.param_groups[0]["lr"]) == (4, 0.2)


def test_the_declared_order_outlives_compilation(file: str) -> None:
    net = InFlax()
    own = nnx.Optimizer(net, optstudy_jax.sgd(0.1), wrt=nnx.Param)
    feed_flax(net, own, gradients(0))
    assert [k for k in vars(net) if not k.startswith("_")] == ["a", "drop", "kernels", "norm", "z"]
    optstudy_jax.export_run(file, nnx.clone(net), own)
    model = InTorch()
    optstudy_torch.import_run(file, model)
    assert same(of_torch(model), of_flax(net))
