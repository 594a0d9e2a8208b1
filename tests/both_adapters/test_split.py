"""The parameters of a model by kind, and trainings of two algorithms, in PyTorch and in Flax."""

from __future__ import annotations

import copy
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from harness import slow
from torch.nn import functional as F  # noqa: N812

import optstudy_jax
import optstudy_torch
from optstudy_jax import adamw, in_torch_layout, muon
from optstudy_torch import Muon

pytestmark = pytest.mark.usefixtures("compiled_quickly")

WIDTH, TOKENS, LENGTH = 8, 12, 5


# One small model of each family, in both libraries, declared alike.


class TorchBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.o = (
            torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)
        )
        self.norm2 = torch.nn.LayerNorm(WIDTH)
        self.up = torch.nn.Linear(WIDTH, 2 * WIDTH)
        self.down = torch.nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        mixed = F.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y), is_causal=True)
        x = x + self.o(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class TorchGPT(torch.nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(TOKENS, WIDTH)
        self.places = torch.nn.Embedding(LENGTH, WIDTH)
        self.blocks = torch.nn.ModuleList([TorchBlock()])
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.head = torch.nn.Linear(WIDTH, TOKENS, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.tokens(x) + self.places(torch.arange(x.shape[-1]))
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y))


class TorchCNN(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(4)
        self.conv2 = torch.nn.Conv2d(4, 6, 3)
        self.hidden = torch.nn.Linear(6, 7)
        self.head = torch.nn.Linear(7, TOKENS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(torch.relu(self.norm(self.conv1(x))))
        return self.head(torch.relu(self.hidden(y.mean((-2, -1)))))


ZEROS = nnx.initializers.zeros  # compiled at once
RNGS = nnx.Rngs(0)
conv = functools.partial(nnx.Conv, kernel_init=ZEROS, rngs=RNGS)
linear = functools.partial(nnx.Linear, kernel_init=ZEROS, rngs=RNGS)


class FlaxBlock(nnx.Module):
    def __init__(self) -> None:
        self.norm1 = nnx.LayerNorm(WIDTH, rngs=RNGS)
        self.q, self.k, self.v, self.o = (linear(WIDTH, WIDTH, use_bias=False) for _ in range(4))
        self.norm2 = nnx.LayerNorm(WIDTH, rngs=RNGS)
        self.up = linear(WIDTH, 2 * WIDTH)
        self.down = linear(2 * WIDTH, WIDTH)


class FlaxGPT(nnx.Module):
    def __init__(self, tied: bool = False) -> None:
        self.tokens = nnx.Embed(TOKENS, WIDTH, embedding_init=ZEROS, rngs=RNGS)
        self.places = nnx.Embed(LENGTH, WIDTH, embedding_init=ZEROS, rngs=RNGS)
        self.blocks = nnx.List([FlaxBlock()])
        self.norm = nnx.LayerNorm(WIDTH, rngs=RNGS)
        if not tied:  # else self.tokens.attend(x)
            self.head = linear(WIDTH, TOKENS, use_bias=False)


class FlaxCNN(nnx.Module):
    def __init__(self) -> None:
        self.conv1 = conv(3, 4, (3, 3), use_bias=False)
        self.norm = nnx.BatchNorm(4, rngs=RNGS)
        self.conv2 = conv(4, 6, (3, 3))
        self.hidden = linear(6, 7)
        self.head = linear(7, TOKENS)


MODELS: list[Any] = [(TorchGPT, FlaxGPT), (TorchCNN, FlaxCNN)]
models = pytest.mark.parametrize(("of_torch", "of_flax"), MODELS, ids=["GPT", "CNN"])


def flax_name(name: str, p: torch.Tensor, model: torch.nn.Module) -> str:
    """What Flax calls a parameter of PyTorch's."""
    layer, _, last = name.rpartition(".")
    kind = type(model.get_submodule(layer)).__name__
    if last == "weight":
        last = "embedding" if kind == "Embedding" else "scale" if "Norm" in kind else "kernel"
    return f"{layer.replace('.', '/')}/{last}"


def to_flax(name: str, value: torch.Tensor) -> np.ndarray:
    """A value of PyTorch's in Flax's order of axes."""
    x = value.detach().numpy()
    if name.endswith("kernel"):
        return np.array(x.transpose(*range(2, x.ndim), 1, 0))
    return np.array(x)


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, x in leaves.items():
        *path, last = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = x
    return tree


@models
def test_a_model_is_split_alike_in_both_libraries(of_torch: Any, of_flax: Any) -> None:
    model = of_torch()
    ours = {p.name: p.kind for p in optstudy_torch.split(model).parts}
    names = {name: flax_name(name, p, model) for name, p in model.named_parameters()}
    theirs = {p.name: p.kind for p in optstudy_jax.split(of_flax()).parts}
    assert {names[name]: kind for name, kind in ours.items()} == theirs
    hidden = {name.rpartition(".")[0] for name, kind in ours.items() if kind == "hidden"}
    if of_torch is TorchGPT:
        inside = ("q", "k", "v", "o", "up", "down")
        assert hidden == {f"blocks.0.{x}" for x in inside}
        assert {n for n, kind in ours.items() if kind == "embedding"} == {
            "tokens.weight",
            "places.weight",
        }
    else:
        assert hidden == {"conv1", "conv2", "hidden"}
    assert [name for name, kind in ours.items() if kind == "head"] == ["head.weight"]
    assert {kind for name, kind in ours.items() if "norm" in name} == {"norm"}


@pytest.mark.parametrize(  # a GPT has Muon for matrices of three shapes to compile
    ("of_torch", "of_flax"), [slow(TorchGPT, FlaxGPT, id="GPT"), pytest.param(*MODELS[1], id="CNN")]
)
def test_two_algorithms_train_a_model_in_both_libraries_to_the_same_bits(
    of_torch: Any, of_flax: Any
) -> None:
    """From one description, on the gradients of the PyTorch model."""
    torch.manual_seed(0)
    model = of_torch()
    names = {name: flax_name(name, p, model) for name, p in model.named_parameters()}
    of_hidden: dict[str, Any] = {"weight_decay": 0.01, "ns_coefficients": ((2.0, -1.5, 0.5),)}
    of_rest: dict[str, Any] = {"weight_decay": 0.1}

    optimizer = Muon(
        optstudy_torch.split(model).groups(
            hidden={"lr": 0.02, **of_hidden},
            rest={"algorithm": "adamw", "lr": 3e-3, "betas": (0.9, 0.95), **of_rest},
        )
    )
    rules = {
        "hidden": in_torch_layout(muon(0.02, **of_hidden)),
        "rest": adamw(3e-3, b1=0.9, b2=0.95, **of_rest),
    }
    tx = optax.multi_transform(rules, optstudy_jax.split(of_flax()).labels(rules))
    leaves = {names[n]: jnp.asarray(to_flax(names[n], p)) for n, p in model.named_parameters()}
    params = nested(leaves)
    state = tx.init(params)
    step = jax.jit(tx.update)

    losses = []
    for _ in range(2):
        if of_torch is TorchGPT:
            x = torch.randint(TOKENS, (4, LENGTH + 1))
            logits, wanted = model(x[:, :-1]).reshape(-1, TOKENS), x[:, 1:].reshape(-1)
        else:
            logits, wanted = model(torch.randn(4, 3, 9, 9)), torch.randint(TOKENS, (4,))
        optimizer.zero_grad()
        loss = F.cross_entropy(logits, wanted)
        loss.backward()
        losses.append(loss.item())
        grads = {names[n]: to_flax(names[n], p.grad) for n, p in model.named_parameters()}
        updates, state = step(nested(grads), state, params)
        params = optax.apply_updates(params, updates)
        optimizer.step()
    found = {
        optstudy_jax._paths.leaf_name(path): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    }
    for n, p in model.named_parameters():
        assert found[names[n]].tobytes() == to_flax(names[n], p).tobytes(), n
        assert not np.array_equal(found[names[n]], leaves[names[n]]), n
    assert np.all(np.isfinite(losses))


# What a head is.


def kinds_of(model: Any, **more: Any) -> dict[str, str]:
    make = optstudy_torch.split if isinstance(model, torch.nn.Module) else optstudy_jax.split
    return {part.name: part.kind for part in make(model, **more).parts}


def test_a_table_that_is_the_head_too_is_an_embedding() -> None:
    found = kinds_of(TorchGPT(tied=True))
    assert found["tokens.weight"] == "embedding"
    assert "head.weight" not in found
    assert found["blocks.0.down.weight"] == "hidden"
    # In Flax nothing is declared where the table is used again.
    found = kinds_of(FlaxGPT(tied=True))
    assert found["blocks/0/down/kernel"] == "hidden"
    assert "head" not in found.values()


def test_the_last_layer_may_be_a_convolution() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Conv2d(2, 3, 1))
    kinds = {"0.weight": "hidden", "0.bias": "bias", "2.weight": "head", "2.bias": "bias"}
    assert kinds_of(model) == kinds
    two = nnx.Sequential(conv(1, 2, (3, 3)), conv(2, 3, (1, 1)))
    assert {n: k for n, k in kinds_of(two).items() if n.endswith("kernel")} == {
        "layers/0/kernel": "hidden",
        "layers/1/kernel": "head",
    }


def test_the_order_is_that_of_the_declarations_and_not_of_the_names() -> None:
    class Net(nnx.Module):
        def __init__(self) -> None:
            self.z = linear(2, 3)
            self.towers = nnx.Dict(m=linear(3, 3))
            self.a = linear(3, 4)
            self.z_again = self.z

    found = kinds_of(Net())
    assert (found["a/kernel"], found["z/kernel"]) == ("head", "hidden")
    assert found["towers/m/kernel"] == "hidden"


@pytest.mark.parametrize("copied", [nnx.clone, copy.deepcopy])
def test_a_copy_whose_attributes_have_lost_the_order_is_split_alike(copied: Any) -> None:
    model, other = FlaxCNN(), copied(FlaxCNN())
    assert [*vars(other)] != [*vars(model)]
    assert kinds_of(other) == kinds_of(model)


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        ({"*.down.weight": "head"}, ("head", "hidden")),
        ({"blocks.0.down.*": "head", "*": "hidden"}, ("head", "hidden")),
        ({"head.weight": "hidden"}, ("hidden", "hidden")),
        ({"blocks.*.down.weight": "router"}, ("router", "head")),
        (lambda name, p: "head" if p.shape[0] == WIDTH else None, ("head", "hidden")),
    ],
)
def test_the_user_says_what_types_do_not(kinds: Any, wanted: tuple[str, str]) -> None:
    found = kinds_of(TorchGPT(), kinds=kinds)
    assert (found["blocks.0.down.weight"], found["head.weight"]) == wanted


def test_layers_of_other_types() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3, 3))
            self.attention = torch.nn.MultiheadAttention(4, 2, add_bias_kv=True)
            self.gru = torch.nn.GRU(3, 4)
            self.norm = OwnRMSNorm()
            self.last = torch.nn.Linear(4, 2)

    class OwnRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

    found = kinds_of(Own())
    assert found["scale"] == found["gru.weight_hh_l0"] == "other"
    assert found["attention.in_proj_weight"] == found["attention.out_proj.weight"] == "hidden"
    assert found["attention.bias_k"] == found["gru.bias_ih_l0"] == "bias"
    assert (found["norm.weight"], found["last.weight"]) == ("norm", "head")
    attention = nnx.MultiHeadAttention(2, 4, kernel_init=ZEROS, rngs=RNGS, decode=False)
    found = kinds_of(attention, kinds={"out/kernel": "head"})
    assert {found[f"{x}/kernel"] for x in ("query", "key", "value")} == {"hidden"}
    assert {kind for name, kind in found.items() if "bias" in name} == {"bias"}


def test_a_tree_without_types_is_split_by_names() -> None:
    tree = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "out": jnp.ones((2, 3))}
    split = optstudy_jax.split(tree, {"*/kernel": "hidden"})
    assert {p.name: p.kind for p in split.parts} == {
        "dense/kernel": "hidden",
        "dense/bias": "other",
        "out": "other",
    }
    assert split.labels(["hidden", "rest"])(tree) == {
        "dense": {"kernel": "hidden", "bias": "rest"},
        "out": "rest",
    }
    with pytest.raises(ValueError, match="leaf 'wide': allowed are those of the model"):
        split.labels(["rest"])({"wide": 1.0})


def test_only_variables_that_are_trained_are_split() -> None:
    class Scale(nnx.Variable):
        pass

    model = FlaxCNN()
    model.scale = Scale(jnp.ones(()))
    assert "scale" not in kinds_of(model)
    assert kinds_of(model, wrt=Scale) == {"scale": "other"}


# Groups.


def test_what_takes_no_gradient_is_in_no_group() -> None:
    model = TorchGPT()
    model.tokens.requires_grad_(False)
    split = optstudy_torch.split(model)
    assert str(split).splitlines()[-2:] == [
        "frozen: 1 tensor, 96 elements",
        "  tokens.weight          Embedding  (12, 8)",
    ]
    groups = split.groups(rest={}, hidden={"lr": 0.1}, head={"lr": 0.2})
    assert [len(g["params"]) for g in groups] == [9, 6, 1]
    assert not any(model.tokens.weight is p for g in groups for p in g["params"])
    assert groups[2] == {"params": [model.head.weight], "lr": 0.2}


def test_kinds_without_parameters_have_no_group() -> None:
    model = torch.nn.Linear(2, 2)
    (group,) = optstudy_torch.split(model).groups(hidden={}, embedding={}, rest={"lr": 0.1})
    assert group["lr"] == 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: s.groups(hiden={}, rest={}), "'hiden': did you mean 'hidden'"),
        (
            lambda s: s.groups(hidden={}, bias={}),
            "no values for embedding, norm, head: pass values",
        ),
        (lambda s: s.groups(frozen={}, rest={}), "'frozen': allowed are|'frozen': "),
    ],
)
def test_what_groups_may_not_be(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(optstudy_torch.split(TorchGPT()))


def test_a_pattern_that_fits_nothing() -> None:
    with pytest.raises(
        ValueError, match=r"kinds: 'haed\.weight' matches no parameter; did you mean"
    ):
        optstudy_torch.split(TorchGPT(), {"haed.weight": "head"})
