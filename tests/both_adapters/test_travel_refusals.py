"""Trainings that do not fit, and damaged files: one message, and nothing half loaded."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from damage import changed, damaged
from flax import nnx
from torch import nn
from travelling import InFlax, InTorch, N, of_flax, of_torch, same, to_channels_last, torch_run

import optstudy_jax
import optstudy_torch

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.safetensors"


@pytest.fixture
def exported(file: Path) -> Path:
    model, optimizer = torch_run(optstudy_torch.AdamW)
    optstudy_torch.export_run(file, model, optimizer, sample=torch.randn(2, N, 4, 4))
    return file


def refused(call: Callable[[], Any], *texts: str) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the texts are looked for below
        call()
    for text in texts:
        assert text in str(caught.value), (text, str(caught.value))
    return str(caught.value)


def test_a_mismatch_lists_both_sides(exported: Path) -> None:
    net = nnx.Sequential(nnx.Linear(N, N, rngs=nnx.Rngs(0)), nnx.Linear(N, 4, rngs=nnx.Rngs(0)))
    text = refused(
        lambda: optstudy_jax.import_run(exported, net),
        f"{exported}: layers do not fit each other; in the file:\n",
        "    conv: conv2, weight 3×3×3×3, bias 3\n",
        "  in the model:\n",
        "    layers/1: linear, weight 4×3, bias 4\n",
        "names={layer of the file: layer of the model}",
    )
    model = nn.Sequential(nn.Linear(N, N), nn.Linear(N, 4))
    there = refused(lambda: optstudy_torch.import_run(exported, model), "    1: linear, weight 4×3")
    assert there.splitlines()[:6] == text.splitlines()[:6]


class Swapped(InFlax):
    """The same model, whose linear layers are declared in the other order."""

    def __init__(self) -> None:
        super().__init__()
        z = self.z
        del self.z
        self.z = z


def test_the_sample_proves_the_order(exported: Path) -> None:
    net = Swapped()
    before = of_flax(net)
    refused(
        lambda: optstudy_jax.import_run(exported, net, forward=to_channels_last),
        f"{exported}: sample: the outputs differ by",
        "Nothing was imported.",
    )
    assert same(of_flax(net), before)
    names = {"first": "z", "second": "a"}
    found = optstudy_jax.import_run(exported, net, names=names, forward=to_channels_last)
    assert found.names["first"] == "z"

    model = InTorch()
    model.conv.padding_mode = "circular"
    start = of_torch(model)
    refused(lambda: optstudy_torch.import_run(exported, model), "sample: the outputs differ by")
    assert same(of_torch(model), start)
    refused(
        lambda: optstudy_torch.import_run(exported, InTorch(), forward=lambda m, x: m(x[0])),
        "sample: the model does not accept it",
        "forward=",
    )


def test_names_by_hand(file: Path) -> None:
    torch.manual_seed(0)
    model = nn.ConvTranspose1d(2, N, 5)
    optimizer = optstudy_torch.AdamW(model.parameters())
    model(torch.ones(1, 2, 4)).square().sum().backward()
    optimizer.step()
    optstudy_torch.export_run(file, model, optimizer)
    net = nnx.ConvTranspose(2, N, (5,), rngs=nnx.Rngs(0))
    refused(lambda: optstudy_jax.import_run(file, net), "weight: ConvTranspose1d, value 2×3×5")
    found = optstudy_jax.import_run(file, net, names={"weight": ("kernel", (2, 0, 1))})
    expected = optimizer.state[model.weight]["m"].numpy().transpose(2, 0, 1)
    np.testing.assert_array_equal(found.state.inner.m["kernel"], expected)
    refused(
        lambda: optstudy_jax.import_run(file, net, names={"weight": ("kernel", (0, 0, 1))}),
        "names: 'weight' with axes (0, 0, 1): allowed are orders",
    )
    refused(
        lambda: optstudy_jax.import_run(file, net, names={"weight": "kernel"}),
        "names: 'weight' and 'kernel' do not fit each other",
    )
    refused(
        lambda: optstudy_jax.import_run(file, net, names={"w": "x"}), "the file has no layer 'w'"
    )


def test_rules_of_rows_and_columns_need_the_layout(file: Path) -> None:
    net = InFlax()
    own = nnx.Optimizer(net, optstudy_jax.adafactor(1e-2), wrt=nnx.Param)
    text = "adafactor depends on rows and columns, which differ in PyTorch"
    refused(lambda: optstudy_jax.export_run(file, net, own), text, "in_torch_layout")
    assert not file.exists()
    model, optimizer = torch_run(optstudy_torch.Adafactor, 0)
    optstudy_torch.export_run(file, model, optimizer)
    refused(lambda: optstudy_jax.import_run(file, net, own), str(file), text)
    table = {"embedding": jnp.ones((N, N))}
    for tree, tx in (
        (table, optstudy_jax.muon(output_axis=-1)),  # as it is in PyTorch, and not the first axis
        ({"kernel": jnp.ones((N, N))}, optstudy_jax.muon()),
        ({"kernel": jnp.ones((N, N))}, optstudy_jax.shampoo(output_axis=-1)),
        ({"kernel": jnp.ones((N, N))}, optstudy_jax.normuon(output_axis=-1)),
    ):
        refused(lambda tree=tree, tx=tx: optstudy_jax.export_run(file, tree, tx, tx.init(tree)),
                "depends on rows and columns", "in_torch_layout")  # fmt: skip
    heads = nnx.LinearGeneral(N, (N, 2), rngs=nnx.Rngs(0))
    flat = nn.Linear(N, 2 * N)
    optstudy_torch.export_run(file, flat, optstudy_torch.Muon(flat.parameters(), dialect="paper"))
    refused(lambda: optstudy_jax.import_run(file, heads), ": muon depends on rows and columns")


def test_other_optimizers(exported: Path) -> None:
    model = InTorch()
    params = list(model.parameters())

    def into(optimizer: Any, *texts: str) -> None:
        before = of_torch(model), copy.deepcopy(optimizer.state_dict())
        refused(
            lambda: optstudy_torch.import_run(exported, model, optimizer), str(exported), *texts
        )
        assert same(of_torch(model), before[0])
        assert str(optimizer.state_dict()) == str(before[1])

    into(optstudy_torch.Adam(params), "algorithm 'adamw'; expected is 'adam'")
    into(optstudy_torch.AdamW(params, dialect="optax"), "dialect 'torch'; expected is 'optax'")
    into(optstudy_torch.AdamW(params[1:]), "optimizer lacks conv.weight")
    into(optstudy_torch.AdamW([*params, nn.Parameter(torch.ones(1))]), "the file does not train")
    with pytest.raises(TypeError, match="allowed are classes of optstudy_torch"):
        optstudy_torch.import_run(exported, model, torch.optim.AdamW(params))
    with pytest.raises(TypeError, match="load_state_dict"):
        optstudy_torch.export_run(exported, model, torch.optim.AdamW(params))

    net = InFlax()
    for tx, text in [
        (optstudy_jax.adam(1e-2), "algorithm 'adamw' of a/bias; expected is 'adam'"),
        (optstudy_jax.adamw(1e-2, dialect="optax"), "dialect 'torch' of"),
    ]:
        before = of_flax(net)
        refused(lambda tx=tx: optstudy_jax.import_run(exported, net, tx), str(exported), text)
        assert same(of_flax(net), before)


def test_groups_have_to_be_those_of_the_file(file: Path) -> None:
    def make(params: Any) -> Any:
        first, *rest = params
        return optstudy_torch.AdamW([{"params": [first], "lr": 0.5}, {"params": rest}])

    optstudy_torch.export_run(file, *torch_run(make))
    model = InTorch()
    optimizer = optstudy_torch.AdamW(model.parameters())
    refused(
        lambda: optstudy_torch.import_run(file, model, optimizer),
        "optimizer, group 0 has conv.bias, which has other hyperparameters in the file; expected "
        "are the groups [conv.weight] and [conv.bias,",
    )


def test_dtypes_and_ties(exported: Path, file: Path) -> None:
    refused(
        lambda: optstudy_torch.import_run(exported, InTorch().double()),
        "conv.weight of dtype float32: expected is float64",
    )
    model = nn.Sequential(nn.Linear(N, N, bias=False), nn.Linear(N, N, bias=False))
    model[1].weight = model[0].weight
    optstudy_torch.export_run(file, model, optstudy_torch.AdamW(model.parameters()))
    free = nn.Sequential(nn.Linear(N, N, bias=False), nn.Linear(N, N, bias=False))
    refused(lambda: optstudy_torch.import_run(file, free), "is tied to another parameter on one")
    optstudy_torch.import_run(file, copy.deepcopy(model))


def test_schedulers_of_another_class(file: Path) -> None:
    model, optimizer = torch_run(optstudy_torch.SGD, 0, lr=1.0)
    one = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    optstudy_torch.export_run(file, model, optimizer, one)
    model, optimizer = torch_run(optstudy_torch.SGD, 0, lr=0.5)
    other = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    before = of_torch(model), other.state_dict()
    model.conv.weight.data += 1
    refused(
        lambda: optstudy_torch.import_run(file, model, optimizer, other),
        f"{file}: scheduler StepLR; expected is ExponentialLR",
    )
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert other.state_dict() == before[1]


def error_of(call: Callable[[], Any]) -> str | None:
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


def notes_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_notes(header: dict[str, Any], rest: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + rest


def test_damaged_files(exported: Path) -> None:
    draw = random.Random(0)
    whole = exported.read_bytes()
    header, rest = notes_of(whole)
    state = json.loads(header["__metadata__"]["state"])
    model = InTorch()
    optimizer = optstudy_torch.AdamW(model.parameters())
    before = of_torch(model)
    for i in range(60):
        if i % 2:
            how, content = damaged(whole[: len(whole) - len(rest)], draw)
            content += rest
        else:
            how = "json"
            new = header["__metadata__"] | {"state": json.dumps(changed(state, draw))}
            content = with_notes(header | {"__metadata__": new}, rest)
        exported.write_bytes(content)
        text = error_of(partial(optstudy_torch.import_run, exported, model, optimizer))
        if text is None:  # what was damaged is not needed, or a number
            optimizer = optstudy_torch.AdamW(model.parameters())
            before = of_torch(model)
            continue
        assert text.startswith(str(exported)), (how, text)
        assert same(of_torch(model), before), how
        assert not any(optimizer.state_dict()["state"].values()), how


def test_missing_entries(exported: Path) -> None:
    header, rest = notes_of(exported.read_bytes())
    for name, text in [
        ("model/conv.weight", "model/conv.weight is missing; expected is an array"),
        ("state/m/first.bias", "state/m/first.bias is missing; expected is an array"),
    ]:
        moved = {k + "'" if k == name else k: v for k, v in header.items()}
        exported.write_bytes(with_notes(moved, rest))
        refused(lambda: optstudy_jax.import_run(exported, InFlax()), f"{exported}: {text}")
    state = json.loads(header["__metadata__"]["state"])
    state["states"]["first.bias"].remove("v")
    new = header["__metadata__"] | {"state": json.dumps(state)}
    exported.write_bytes(with_notes(header | {"__metadata__": new}, rest))
    refused(
        lambda: optstudy_jax.import_run(exported, InFlax(), forward=to_channels_last),
        "state of z/bias has m, t; expected for adamw are m, v, t",
    )
    refused(lambda: optstudy_torch.import_run(exported, InTorch()), f"{exported}: ", "['m', 't']")
    exported.write_bytes(b"not a file of ours")
    refused(lambda: optstudy_torch.import_run(exported, InTorch()), "not a safetensors file")
    exported.unlink()
    refused(lambda: optstudy_torch.import_run(exported, InTorch()), f"{exported}: is missing")


def test_trees_need_a_call_for_a_sample(file: Path) -> None:
    params = {"kernel": jnp.ones((N, N))}
    tx = optstudy_jax.adamw(1e-2)
    sample = jnp.ones((1, N))
    refused(
        lambda: optstudy_jax.export_run(file, params, tx, tx.init(params), sample=sample),
        "forward=",
    )
    call = lambda params, x: x @ params["kernel"]  # noqa: E731
    optstudy_jax.export_run(file, params, tx, tx.init(params), sample=sample, forward=call)
    assert optstudy_jax.import_run(file, params, forward=call).notes == ()
    linear = nn.Linear(N, N, bias=False)
    optstudy_torch.import_run(file, linear)
    np.testing.assert_array_equal(linear.weight.detach(), np.ones((N, N)))


def rewritten(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what a file says besides its arrays."""
    header, rest = notes_of(file.read_bytes())
    state = json.loads(header["__metadata__"]["state"])
    change(state)
    new = header["__metadata__"] | {"state": json.dumps(state)}
    file.write_bytes(with_notes(header | {"__metadata__": new}, rest))


def test_entries_that_do_not_fit(exported: Path) -> None:
    whole = exported.read_bytes()

    def into_torch(change: Callable[[dict[str, Any]], None], *texts: str) -> None:
        exported.write_bytes(whole)
        rewritten(exported, change)
        refused(lambda: optstudy_torch.import_run(exported, InTorch()), str(exported), *texts)

    def rows(state: dict[str, Any]) -> None:
        state["layers"][0][2]["weight"] = ["conv.weight", 2, 9]

    def algorithm(state: dict[str, Any]) -> None:
        state["groups"][0][1] = "adamz"

    into_torch(rows, "rows (2, 9) of conv.weight: expected are rows of (3, 3, 3, 3)")
    into_torch(algorithm, "algorithm 'adamz' is unknown: pass an optimizer that has it")
    into_torch(lambda s: s["groups"][0][3].pop("lr"), "lack hyperparameters of adamw")
    into_torch(lambda s: s["groups"][0][3].update(b1=2.0), "b1 = 2.0")
    into_torch(lambda s: s["groups"][0][3].update(b1="x"), "groups: group 0: b1 = 'x'")
    into_torch(lambda s: s["groups"][0][0].append("w"), "groups have w: expected are")
    into_torch(lambda s: s["groups"].clear(), "algorithms none; expected is the same for all")
    into_torch(lambda s: s.pop("layers"), "entry 'layers' is missing or damaged")
    into_torch(lambda s: s["layers"].pop(-1), "  in the model:\n", "second: linear")
    exported.write_bytes(whole)
    rewritten(exported, lambda s: s["groups"][0][3].update(b1="x"))
    refused(lambda: optstudy_jax.import_run(exported, InFlax()), "groups: b1 = 'x'")


def test_outputs_have_to_be_alike(exported: Path) -> None:
    refused(
        lambda: optstudy_torch.import_run(exported, InTorch(), forward=lambda m, x: m(x)[0]),
        "sample: an output of shape (3,); expected is (2, 3)",
    )
    for call in (
        lambda: optstudy_torch.import_run(exported, InTorch(), forward=lambda m, x: [m(x)]),
        lambda: optstudy_jax.import_run(
            exported, InFlax(), forward=lambda m, x: [to_channels_last(m, x)]
        ),
    ):
        refused(call, "output of type list", "forward=")


def test_parts_have_to_have_one_state(file: Path) -> None:
    net = nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))
    own = nnx.Optimizer(net, optstudy_jax.adamw(1e-2), wrt=nnx.Param)
    count = own.opt_state.inner.t.int32
    count.set_value(jnp.arange(count.shape[0]))
    optstudy_jax.export_run(file, net, own)
    model = nn.MultiheadAttention(4, 2)
    refused(lambda: optstudy_torch.import_run(file, model), "t of its parts differ (")
    count.set_value(jnp.zeros_like(count[...]))
    optstudy_jax.export_run(file, net, own)
    rewritten(file, lambda state: state["states"].pop("key/kernel"))
    refused(lambda: optstudy_torch.import_run(file, model), "have states with different fields")

    def other_rate(state: dict[str, Any]) -> None:
        names, *rest, values = state["groups"][0]
        names.remove("key/kernel")
        state["groups"].append([["key/kernel"], *rest, values | {"lr": 0.5}])

    optstudy_jax.export_run(file, net, own)
    rewritten(file, other_rate)
    refused(lambda: optstudy_torch.import_run(file, model), "are trained with different hyper")


class WithMask(nn.Linear):
    """A linear layer with a buffer and a parameter besides."""

    def __init__(self) -> None:
        super().__init__(N, N)
        self.register_buffer("mask", torch.ones(N))
        self.gain = nn.Parameter(torch.full((2, 3), 7.0))


class WithGain(nnx.Linear):
    """The same without the buffer."""

    def __init__(self) -> None:
        super().__init__(N, N, rngs=nnx.Rngs(0))
        self.gain = nnx.Param(jnp.zeros((2, 3)))


def test_what_one_side_has_alone_is_noted(file: Path) -> None:
    model = nn.Sequential(WithMask(), nn.Dropout(0.5))
    optimizer = optstudy_torch.SGD(model.parameters())
    optstudy_torch.export_run(file, model, optimizer)
    own = nnx.Sequential(WithGain())
    notes = optstudy_jax.import_run(file, own).notes
    assert notes == ("dropout layers: 0, in the file 1", "buffers only in the file: 0.mask")
    assert own.layers[0].gain[0, 0] == 7


class Odd(torch.Tensor):
    """A tensor without memory of its own."""

    @staticmethod
    def __new__(cls, size: int) -> Odd:
        return torch.Tensor._make_wrapper_subclass(cls, (size,))

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError("not to be computed with")


def test_optimizers_that_do_not_fit(file: Path) -> None:
    model, optimizer = torch_run(optstudy_torch.AdamW, 1)
    with pytest.raises(ValueError, match="that is not in the model"):
        optstudy_torch.export_run(file, nn.Linear(1, 1), optimizer)
    half = nn.Linear(N, N, dtype=torch.complex64)
    with pytest.raises(TypeError, match="weight: allowed are dense tensors of real numbers"):
        optstudy_torch.export_run(file, half, optimizer)
    odd = InTorch()
    odd.conv._buffers["mask"] = Odd(N)
    with pytest.raises(TypeError, match=r"conv\.mask of type Odd: allowed are tensors with"):
        optstudy_torch.export_run(file, odd, optimizer)
    optstudy_torch.export_run(file, model, optimizer)
    net = InFlax()
    rows = optstudy_jax.in_torch_layout(
        optstudy_jax.adamw(1e-2), lambda name, leaf: (1, 0, 2, 3) if leaf.ndim == 4 else None
    )
    for tx, text in [
        (optax.adamw(1e-2), "optimizer without a state of optstudy_jax: convert the state with"),
        (rows, "m of kernels/kernel has axes in an order given to in_torch_layout"),
        (
            optax.masked(optstudy_jax.adamw(1e-2), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
            "is trained in the file",
        ),
    ]:
        refused(lambda tx=tx: optstudy_jax.import_run(file, net, tx), str(file), text)
    with pytest.raises(TypeError, match=r"allowed are nnx\.Optimizer and transformations"):
        optstudy_jax.import_run(file, net, "adamw")
    tx = optstudy_jax.adamw(1e-2)
    refused(lambda: optstudy_jax.export_run(file, net, tx, ()), "state: expected is a state of")


def test_positions_that_are_not_known(file: Path) -> None:
    model, optimizer = torch_run(optstudy_torch.SignSGD, 1, lr=1.0)
    optstudy_torch.export_run(file, model, optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    text = "the number of steps is missing; the scheduler needs it"
    refused(lambda: optstudy_torch.import_run(file, model, optimizer, scheduler), text)
    optstudy_torch.export_run(file, model, optimizer, scheduler)
    rewritten(file, lambda state: state["scheduler"]["state"].update(speed=1))
    text = "scheduler with speed; expected are "
    refused(lambda: optstudy_torch.import_run(file, model, optimizer, scheduler), text)
