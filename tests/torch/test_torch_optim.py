"""Checkpoints of torch.optim: taken over, given back, and the training between."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch

import optstudy_torch
from optstudy_core import ALGORITHMS
from optstudy_torch import to_torch_optim

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {}),
    ("Adam", {"weight_decay": 0.01}),
    ("Adam", {"amsgrad": True}),
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.01}),
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, "maximize": True}),
    ("Adamax", {}),
    ("NAdam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("RAdam", {}),
    ("Adagrad", {"lr_decay": 0.01, "initial_accumulator_value": 0.1}),
    ("Adadelta", {"lr": 1.0}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("RMSprop", {}),
    ("Rprop", {}),
    ("ASGD", {"lambd": 0.01, "t0": 5.0}),
    ("Adafactor", {}),
    ("Adafactor", {"eps": (1e-3, 1e-3), "weight_decay": 0.1}),
    ("Muon", {"ns_steps": 3, "adjust_lr_fn": "match_rms_adamw"}),
]
cases = pytest.mark.parametrize(
    ("name", "given"), CASES, ids=[f"{n}-{'-'.join(g)}" for n, g in CASES]
)
SHAPES = [(4, 3), (6, 2)]
"""Muon of torch takes matrices only."""


def drawn(steps: int, dtype: torch.dtype, seed: int = 0) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randn(s, generator=generator, dtype=dtype) for s in SHAPES] for _ in range(steps)
    ]


def parameters(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(x) for x in drawn(1, dtype, seed=1)[0]]


def run(optimizer: torch.optim.Optimizer, grads: list[list[torch.Tensor]]) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for row in grads:
        for p, g in zip(params, row, strict=True):
            p.grad = g.clone()
        optimizer.step()


def groups(params: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[:1]}, {"params": params[1:], "lr": 0.02}]


def same(x: Any, y: Any) -> bool:
    """Tell whether two states are the same, bit by bit, and dtype by dtype."""
    if isinstance(x, torch.Tensor):
        return x.dtype == y.dtype and torch.equal(x, y)
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(same(v, y[k]) for k, v in x.items())
    if isinstance(x, list | tuple):
        return len(x) == len(y) and all(map(same, x, y))
    return bool(x == y)


@pytest.fixture
def in_double() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@cases
@pytest.mark.usefixtures("in_double")
def test_a_training_goes_on_in_either(name: str, given: dict[str, Any]) -> None:
    theirs, ours = getattr(torch.optim, name), getattr(optstudy_torch, name)
    grads = drawn(120, torch.float64)
    stayed = theirs(groups(parameters(torch.float64)), **given)
    with pytest.MonkeyPatch.context() as patch:
        if name == "Muon":  # without its rounding to bfloat16
            patch.setattr(torch.Tensor, "bfloat16", lambda x: x.clone())
        run(stayed, grads)
        moving = theirs(groups(parameters(torch.float64)), **given)
        for begin, cls in ((0, None), (7, ours), (60, theirs), (90, ours)):
            if cls is not None:
                state = moving.state_dict()
                state = to_torch_optim(moving) if cls is theirs else state
                params = [p for group in moving.param_groups for p in group["params"]]
                moving = cls(groups(params))
                moving.load_state_dict(copy.deepcopy(state))
            run(moving, grads[begin : {0: 7, 7: 60, 60: 90, 90: 120}[begin]])
    for group, other in zip(stayed.param_groups, moving.param_groups, strict=True):
        for p, q in zip(group["params"], other["params"], strict=True):
            # Rounding alone: 120 steps, of parameters around 1.
            apart, size = (float(x.detach().abs().max()) for x in (p - q, p))
            assert apart <= 1e-12 * max(1.0, size)


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back_is_the_same(name: str, given: dict[str, Any], dtype: torch.dtype) -> None:
    theirs, ours = getattr(torch.optim, name), getattr(optstudy_torch, name)
    first = theirs(groups(parameters(dtype)), **given)
    torch.optim.lr_scheduler.StepLR(first, 3)  # which writes to the groups
    run(first, drawn(3, dtype))
    state = copy.deepcopy(first.state_dict())
    second = ours(groups(parameters(dtype)))
    second.load_state_dict(first.state_dict())
    back = to_torch_optim(second)
    if name == "Rprop":  # the gradient's sign is what is kept
        for own in (*state["state"].values(),):
            own["prev"] = own["prev"].sign()
    assert same(back["state"], state["state"]), (back["state"], state["state"])
    assert [g.keys() for g in back["param_groups"]] == [g.keys() for g in state["param_groups"]]
    for group, other in zip(back["param_groups"], state["param_groups"], strict=True):
        changed = {k: (v, other[k]) for k, v in group.items() if v != other[k]}
        assert not changed.keys() - {"foreach", "fused", "capturable"}, changed
    third = theirs(groups(parameters(dtype)))
    third.load_state_dict(copy.deepcopy(back))
    run(third, drawn(1, dtype))
    fourth = ours(groups(parameters(dtype)))
    fourth.load_state_dict(back)
    assert same(fourth.state_dict()["state"], second.state_dict()["state"])
    assert first.state_dict()["state"].keys() == state["state"].keys()


def test_a_parameter_without_a_state_has_none_on_the_other_side() -> None:
    params = parameters(torch.float32)
    first = torch.optim.AdamW(params)
    params[0].grad = torch.ones_like(params[0])
    first.step()
    ours = optstudy_torch.AdamW(params)
    ours.load_state_dict(first.state_dict())
    assert list(to_torch_optim(ours)["state"]) == [0]


def test_a_state_without_torch_optims_class() -> None:
    with pytest.raises(TypeError, match=r"torch.optim has no Lion; it has AMSGrad, ASGD, .*SGD"):
        to_torch_optim(optstudy_torch.Lion(parameters(torch.float32)))
    state = torch.optim.SGD(parameters(torch.float32)).state_dict()
    lion = optstudy_torch.Lion(parameters(torch.float32))
    with pytest.raises(ValueError, match=r"without the name .*: torch.optim has no Lion"):
        lion.load_state_dict(state)


def test_what_torch_optim_cannot_say_is_refused() -> None:
    for given, words in (
        ({"eps_root": 1e-8}, "eps_root = 1e-08"),
        ({"dialect": "keras"}, "eps_hat = True"),
    ):
        ours = optstudy_torch.Adam(parameters(torch.float32), **given)
        with pytest.raises(ValueError, match=f"{words}: torch.optim.Adam has no such argument"):
            to_torch_optim(ours)
    muon = optstudy_torch.Muon(parameters(torch.float32), consistent_rms=0.3)
    with pytest.raises(ValueError, match=r"consistent_rms = 0.3: torch.optim.Muon has one"):
        to_torch_optim(muon)


def test_moments_of_small_parameters_are_rounded_as_torch_has_them() -> None:
    params = [torch.nn.Parameter(torch.randn(5).bfloat16())]
    ours = optstudy_torch.AdamW(params)
    params[0].grad = torch.full((5,), 1 / 3).bfloat16()
    ours.step()
    state = to_torch_optim(ours)["state"][0]
    assert (state["exp_avg"].dtype, state["step"].dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(state["exp_avg"], ours.state[params[0]]["m"].bfloat16())
    theirs = torch.optim.AdamW(params)
    theirs.load_state_dict(to_torch_optim(ours))
    back = optstudy_torch.AdamW(params)
    back.load_state_dict(theirs.state_dict())
    assert back.state[params[0]]["m"].dtype == torch.float32


FOREIGN: list[tuple[str, str, str]] = [
    ("AdamW", "Adam", "decoupled_weight_decay = False belongs to torch.optim.Adam"),
    ("RAdam", "Adam", "with amsgrad: allowed are groups of torch.optim.RAdam"),
    ("Adam", "RAdam", "without amsgrad"),
    ("Adam", "SGD", "with dampening, momentum, nesterov and without betas, eps"),
    ("Adamax", "RAdam", "with decoupled_weight_decay: allowed are groups of torch.optim.Adamax"),
    ("RMSprop", "Rprop", "with etas, step_sizes and without alpha, centered, eps, momentum, "),
]


@pytest.mark.parametrize(("name", "other", "words"), FOREIGN)
def test_another_class_is_refused(name: str, other: str, words: str) -> None:
    theirs = getattr(torch.optim, other)(parameters(torch.float32))
    run(theirs, drawn(2, torch.float32))
    ours = getattr(optstudy_torch, name)(parameters(torch.float32))
    before = copy.deepcopy(ours.state_dict())
    if words == "without amsgrad":  # which an old checkpoint of Adam lacks: its state fits
        ours.load_state_dict(theirs.state_dict())
        return
    with pytest.raises(ValueError, match=re.escape(words)):
        ours.load_state_dict(theirs.state_dict())
    assert same(ours.state_dict(), before)


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("step", torch.tensor(1.5), "step = tensor(1.5000): allowed are whole numbers below 2³¹"),
        ("step", "3", "step = '3': allowed"),
        ("step", torch.tensor(-1.0), "step = tensor(-1.): allowed"),
        ("exp_avg", torch.ones(3), "m of shape (3,) for a parameter of shape (4, 3)"),
        ("exp_avg", None, "has the fields ['t', 'v']"),
        ("max_exp_avg_sq", torch.ones(4, 3), "has max_exp_avg_sq: allowed for torch.optim.AdamW"),
    ],
)
def test_a_damaged_state_is_refused_with_its_entry(entry: str, value: Any, words: str) -> None:
    theirs = torch.optim.AdamW(parameters(torch.float32))
    run(theirs, drawn(2, torch.float32))
    state = theirs.state_dict()
    state["state"][0][entry] = value
    ours = optstudy_torch.AdamW(parameters(torch.float32))
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match=re.escape(words)):
        ours.load_state_dict(state)
    assert same(ours.state_dict(), before)


def test_forms_of_how_a_step_runs_are_taken() -> None:
    for given in ({"foreach": True}, {"fused": True}, {"capturable": False, "foreach": False}):
        theirs = torch.optim.AdamW(parameters(torch.float32), **given)
        run(theirs, drawn(2, torch.float32))
        ours = optstudy_torch.AdamW(parameters(torch.float32))
        ours.load_state_dict(theirs.state_dict())
        run(ours, drawn(1, torch.float32))
        assert ours.state_dict()["state"][0]["t"] == 3


def test_a_state_of_before_is_refused_with_a_sentence() -> None:
    ours = optstudy_torch.AdamW(parameters(torch.float32))
    run(ours, drawn(1, torch.float32))
    state = ours.state_dict()
    for own in state["state"].values():
        own |= {"c1.value": torch.tensor(0.1), "c1.error": torch.tensor(0.0)}
        del own["t"]
    with pytest.raises(ValueError, match=r"optstudy 0.1.0 counted no steps: its states cannot be"):
        optstudy_torch.AdamW(parameters(torch.float32)).load_state_dict(state)


def test_names_of_torch_are_those_of_torch() -> None:
    """Of every class of torch.optim, in the installed version."""
    seen = set()
    for name, given in CASES:
        theirs = getattr(torch.optim, name)(parameters(torch.float32), **given)
        run(theirs, drawn(1, torch.float32))
        seen |= {f"torch.optim.{name}.{key}" for own in theirs.state.values() for key in own}
    named = {
        f"{cls}.{key}"
        for algorithm in ALGORITHMS.values()
        for cls, names in algorithm.elsewhere.items()
        if cls.startswith("torch.optim.")
        for key in names.values()
    }
    assert seen - named == {"torch.optim.ASGD.mu", "torch.optim.AdamW.max_exp_avg_sq"}
    assert named - seen == {"torch.optim.Adafactor.variance"}  # of vectors
