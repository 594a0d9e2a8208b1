"""``eval()`` and ``train()``: averages of the weights in the place of the parameters, and back."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from optstudy_core import ALGORITHMS, averaged, cautious, lookahead
from optstudy_core.parts.schedule_free import schedule_free_eval_params
from optstudy_torch import Adam, Muon, ScheduleFreeAdamW, ScheduleFreeSGD, from_core

RULES = {
    "schedule_free_sgd": ALGORITHMS["schedule_free_sgd"],
    "schedule_free_adamw": ALGORITHMS["schedule_free_adamw"],
    "averaged": averaged(ALGORITHMS["adam"]),
    "averaged lookahead": averaged(lookahead(ALGORITHMS["sgd"])),
}
rules = pytest.mark.parametrize("name", RULES)


def make(name: str, dtype: Any = torch.float32) -> tuple[list[Any], Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (5,), ()]
    params = [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]
    return params, from_core(RULES[name])(params, lr=0.1)


def train(params: list[Any], optimizer: Any, steps: int = 3) -> None:
    for _ in range(steps):
        for p in params[:2]:  # the last one has no state
            p.grad = p.detach().sin() + 0.5
        optimizer.step()


def bits(params: list[Any]) -> list[bytes]:
    return [p.detach().double().numpy().tobytes() for p in params]


@rules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_average_comes_and_goes(name: str, dtype: Any) -> None:
    params, optimizer = make(name, dtype)
    optimizer.eval()  # before there is a state
    train(params, optimizer)
    optimizer.train()  # nothing to bring back
    before = bits(params)
    work = torch.float32 if dtype == torch.bfloat16 else dtype
    wanted = []
    for p in params[:2]:
        own = optimizer.state[p]
        if "average.z" in own:
            z, y = (x.detach().to(work).numpy() for x in (own["average.z"], p))
            average = torch.from_numpy(np.asarray(schedule_free_eval_params(z, y, 0.9)))
        else:
            average = own["average"].clone()
        wanted.append(average.to(dtype))
    for _ in range(2):
        optimizer.eval()
        assert bits(params) == bits([*wanted, params[2]])
        assert bits(params[:2]) != before[:2]
    with pytest.raises(RuntimeError, match=r"averages, after eval\(\): allowed is a step after"):
        train(params, optimizer, 1)
    for _ in range(2):
        optimizer.train()
        assert bits(params) == before
    others, alone = make(name, dtype)
    train(others, alone, 5)
    train(params, optimizer, 2)
    assert bits(params) == bits(others)


@rules
@pytest.mark.parametrize("how", ["saved", "pickled", "copied"])
def test_what_is_saved_during_an_evaluation_goes_on(name: str, how: str) -> None:
    params, optimizer = make(name)
    train(params, optimizer)
    optimizer.eval()
    if how == "saved":
        file = io.BytesIO()
        torch.save([[p.detach() for p in params], optimizer.state_dict()], file)
        file.seek(0)
        values, state = torch.load(file, weights_only=True)
        others, other = make(name)
        with torch.no_grad():
            for p, x in zip(others, values, strict=True):
                p.copy_(x)
        other.load_state_dict(state)
    elif how == "pickled" and name in ALGORITHMS:  # others have no name to be found by
        others, other = pickle.loads(pickle.dumps((params, optimizer)))
    else:
        others, other = copy.deepcopy((params, optimizer))
    with pytest.raises(RuntimeError, match="averages"):
        train(others, other, 1)
    for own, one in ((params, optimizer), (others, other)):
        one.train()
        train(own, one)
    assert bits(params) == bits(others)


def test_a_saved_evaluation_of_other_shapes_is_refused() -> None:
    params, optimizer = make("averaged")
    train(params, optimizer)
    optimizer.eval()
    state = optimizer.state_dict()
    state["state"][0]["trained"] = torch.ones(2)
    with pytest.raises(ValueError, match=r"trained of shape \(2,\)"):
        optimizer.load_state_dict(state)


def test_rules_without_an_average_stay() -> None:
    for rule in (ALGORITHMS["adam"], cautious(ALGORITHMS["schedule_free_sgd"])):
        w = torch.nn.Parameter(torch.ones(3))
        optimizer = from_core(rule)([w], lr=0.1)
        train([w], optimizer)
        before = w.tolist()
        optimizer.eval()
        assert w.tolist() == before
        train([w], optimizer, 1)
        optimizer.train()
    state = Adam([w]).state_dict()
    state["state"] = {0: {"m": w, "v": w, "t": 1, "trained": w}}
    with pytest.raises(ValueError, match="trained"):
        Adam([w]).load_state_dict(state)


def test_groups_have_averages_of_their_own() -> None:
    w, b = torch.nn.Parameter(torch.ones(4, 3)), torch.nn.Parameter(torch.ones(3))
    rest = {"params": [b], "algorithm": "schedule_free_adamw"}
    optimizer = Muon([{"params": [w]}, rest], lr=0.1)
    train([w, b], optimizer)
    before = bits([w, b])
    optimizer.eval()
    assert bits([w]) == before[:1]
    assert bits([b]) != before[1:]
    optimizer.train()
    assert bits([w, b]) == before


@pytest.mark.parametrize("kind", [ScheduleFreeSGD, ScheduleFreeAdamW])
def test_an_average_that_cannot_be_found(kind: Any) -> None:
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = kind([w], **{"b1": 0.0} if kind is ScheduleFreeSGD else {"betas": (0.0, 0.9)})
    train([w], optimizer)
    with pytest.raises(ValueError, match=r"b1 = 0.0: allowed are numbers in \(0, 1\)"):
        optimizer.eval()
