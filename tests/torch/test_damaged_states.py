"""Saved states that are damaged: loaded, and a step made, or refused with nothing changed."""

import copy
import random

import numpy as np
import pytest
from damage import changed, parts, told

torch = pytest.importorskip("torch")

import optstudy_torch as ours  # noqa: E402

ODD = [
    None, True, -1, 0, 2**63, 10**400, 1.5, float("nan"), float("inf"), "", "x", "adam", [], {}, (),
    [1, "x"], {"a": 1}, 1j, b"x", [[[]]], "\u202e", np.zeros(3), np.array("x"), np.zeros(2, "V3"),
    torch.zeros(3), torch.zeros(2, 3), torch.ones(()), torch.zeros(3, dtype=torch.complex64),
    torch.zeros(3, dtype=torch.int8), torch.full((3,), float("nan")), torch.empty(3, device="meta"),
    torch.eye(3).to_sparse(), torch.full((), 1e30),
]  # fmt: skip
MAKE = {
    "AdamW": lambda p: ours.AdamW(
        [{"params": p[:2], "lr": 0.1}, {"params": p[2:], "betas": (0.5, 0.9)}]
    ),
    "SGD": lambda p: ours.SGD(p, lr=0.1, momentum=0.9),
    "Muon": lambda p: ours.Muon([p[1]], lr=0.1),
    "Shampoo": lambda p: ours.Shampoo(p[:2], lr=0.1),
}


def stepped(name):
    """An optimizer after a step, whose parameters have gradients."""
    params = [torch.ones(shape, requires_grad=True) for shape in ((3,), (2, 3), ())]
    for p in params:
        p.grad = torch.full_like(p, 0.5)
    optimizer = MAKE[name](params)
    optimizer.step()
    return optimizer


def test_what_was_saved_is_loaded():
    for name in MAKE:
        optimizer = stepped(name)
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer.load_state_dict(saved)
        assert repr(optimizer.state_dict()) == repr(saved)


@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_what_is_nested_too_deep_is_refused_in_words(kind):
    deep = kind()
    for _ in range(5000):
        deep = {"a": deep} if kind is dict else kind([deep])
    optimizer = stepped("AdamW")
    for key in (*optimizer.param_groups[0], "of the user"):
        saved = copy.deepcopy(optimizer.state_dict())
        if key != "params":
            saved["param_groups"][0][key] = deep
        else:
            saved["state"][0]["m"] = deep
        with pytest.raises(ValueError, match="state_dict with more than 64 levels"):
            optimizer.load_state_dict(saved)
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(("seed", "count"), parts(200, 8000))
def test_whatever_is_loaded(seed, count):
    draw, said = random.Random(seed), 0
    made = {name: stepped(name) for name in MAKE}
    whole = {name: copy.deepcopy(optimizer.state_dict()) for name, optimizer in made.items()}
    for _ in range(count):
        name = draw.choice(list(made))
        damaged = changed(whole[name], draw, ODD)
        before = repr(made[name].state_dict())
        try:
            made[name].load_state_dict(damaged)
            made[name].step()
        except Exception as error:
            try:
                message = told(error)
            except Exception as other:
                raise AssertionError(damaged) from other
            assert "state" in message, (damaged, message)
            assert repr(made[name].state_dict()) == before
            said += 1
        else:
            made[name].load_state_dict(whole[name])
    assert count > said > count / 2


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("lr", "x", r"state_dict, group 0: lr = 'x': allowed are"),
        ("momentum", float("nan"), "state_dict, group 0: momentum = nan"),
        ("params", [0, 0, 1], "each only once"),
        ("params", [0, 1], "doesn't match the size"),
        ("compile", 7.5, "group 0: compile = 7.5: allowed are"),
        ("dialect", "tensorflow", "group 0: dialect = 'tensorflow'"),
    ],
)
def test_entries_of_a_group(entry, value, message):
    optimizer = stepped("SGD")
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0][entry] = value
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x", "of type str: allowed are dense tensors"),
        (torch.zeros(3, dtype=torch.complex64), "of type Tensor: allowed are dense tensors"),
        (torch.empty(3, device="meta"), "of type Tensor: allowed are dense tensors"),
        (np.array(["a", "b", "c"]), "of type ndarray: allowed are"),
        (torch.zeros(4), r"of shape \(4,\) for a parameter of shape \(3,\)"),
    ],
)
def test_fields_of_a_state(value, message):
    optimizer = stepped("SGD")
    saved = copy.deepcopy(optimizer.state_dict())
    name = next(n for n, field in saved["state"][0].items() if field.shape == (3,))
    saved["state"][0][name] = value
    with pytest.raises(ValueError, match=f"state_dict has {name} {message}"):
        optimizer.load_state_dict(saved)
    saved["state"] = {99: {}}
    with pytest.raises(ValueError, match=r"states for \{99\}, which are in no group"):
        optimizer.load_state_dict(saved)
