"""Checkpoints whose content is damaged: loaded, or refused with nothing changed."""

import random

import numpy as np
import pytest
from damage import changed, parts, told

from optstudy_core.records import Run, pack

pytestmark = pytest.mark.usefixtures("compiled_quickly")

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

import optstudy_jax.checkpoint  # noqa: E402
import optstudy_torch.checkpoint  # noqa: E402

ODD = [
    None, True, -1, 2**63, 10**400, float("nan"), "x", "torch.float32", b"xyz", [], [1, "x"], {},
    {"torch.float32": 1}, {"torch.load": np.zeros(3)}, {"torch.float64": np.zeros(3, np.int8)},
    {"array": np.zeros(3), "dtype": "float32"}, {"value": "x"}, {"generator": {}}, {"key": 3}, (1,),
    np.zeros(3), np.zeros((2, 7), np.float32), np.array(True), np.float32(3), "\u202e", [[[]]],
]  # fmt: skip


class Torch:
    """A model, an optimizer and generators."""

    adapter = optstudy_torch.checkpoint

    def __init__(self):
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        self.optimizer = optstudy_torch.Adam(self.net.parameters(), lr=0.1)
        self.objects = {
            "net": self.net, "optimizer": self.optimizer,
            "random": [random.Random(3), np.random.default_rng(4), torch.Generator()],
        }  # fmt: skip
        self.advance()

    def advance(self):
        torch.manual_seed(torch.randint(1000, ()).item())
        self.net(torch.rand(4, 3)).sum().backward()
        self.optimizer.step()
        self.objects["random"][0].random()

    def load(self, run):
        self.adapter.load(run, **self.objects)


class JAX:
    """Trees of arrays, keys and generators."""

    adapter = optstudy_jax.checkpoint

    def __init__(self):
        self.objects = {
            "params": {"w": jax.numpy.ones((2, 3)), "b": jax.numpy.float32(2)},
            "rest": [jax.random.key(1), 0.5, "x", True, np.arange(3)],
            "random": [np.random.default_rng(4), random.Random(3)],
        }
        self.advance()

    def advance(self):
        self.objects["random"][0].random()
        self.objects["random"][1].random()

    def load(self, run):
        trees = self.adapter.load(run, **self.objects).trees
        assert jax.tree.structure(trees) == jax.tree.structure(self.objects)


@pytest.fixture(params=[Torch, JAX])
def training(request):
    return request.param()


@pytest.mark.parametrize(("seed", "count"), parts(120, 2000))
def test_whatever_a_checkpoint_holds(tmp_path, training, seed, count):
    draw, said = random.Random(seed), 0
    with Run.create(tmp_path, {}, tensorboard=False) as run:
        whole = training.adapter.state(**training.objects)
        for _ in range(count):
            damaged = changed(whole, draw, ODD)
            run.checkpoint(1, *pack(damaged))
            training.advance()
            before = repr(training.adapter.state(**training.objects))
            try:
                training.load(run)
            except Exception as error:
                try:
                    message = told(error)
                except Exception as other:
                    raise AssertionError(damaged) from other
                assert ".safetensors: " in message, message
                words = ("allowed", "expected", "structure", "does not accept")
                assert any(word in message for word in words), message
                assert repr(training.adapter.state(**training.objects)) == before, damaged
                said += 1
    assert count >= said > count / 2


def test_all_is_as_before_where_the_last_object_refuses(tmp_path):
    training = Torch()
    with Run.create(tmp_path, {}, tensorboard=False) as run:
        tree = training.adapter.state(**training.objects)
        training.advance()
        tree["objects"]["random"][2]["state"] = "x"
        run.checkpoint(1, *pack(tree))
        before = repr(training.adapter.state(**training.objects))
        with pytest.raises(ValueError, match=r"safetensors: random: the object does not accept"):
            training.load(run)
        assert repr(training.adapter.state(**training.objects)) == before


def test_no_generator_changes_where_the_last_refuses(tmp_path):
    training = JAX()
    with Run.create(tmp_path, {}, tensorboard=False) as run:
        tree = training.adapter.state(**training.objects)
        training.advance()
        tree["random"]["[1]"] = {"generator": (3,)}
        run.checkpoint(1, *pack(tree))
        before = repr(training.adapter.state(**training.objects))
        with pytest.raises(ValueError, match=r"safetensors: random\[1\]: allowed is a state of a"):
            training.load(run)
        assert repr(training.adapter.state(**training.objects)) == before
