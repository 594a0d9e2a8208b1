"""Groups that name their algorithm: each trains as an optimizer of that algorithm does."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from harness import HEAVY_BALL, definition, draw, same, slow, start, to_numpy, to_torch

import optstudy_torch
from optstudy_core import ALGORITHMS, cautious
from optstudy_core.records import Run
from optstudy_torch import Adam, AdamW, Lion, Muon, PolyakSGD, Recorder, Sophia, checkpoint
from optstudy_torch.lr_scheduler import CarefulLR, DirectionLR

SHAPES = [(4, 3), (3, 5), (4,), (6, 2), ()]
OF_MUON, OF_ADAMW = slice(0, 2), slice(2, 5)


def parameters(dtype: Any = np.float32) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(to_torch(x)) for x in start(SHAPES, dtype=dtype)]


def groups(params: list[Any], **more: Any) -> list[dict[str, Any]]:
    rest = {"params": params[OF_ADAMW], "algorithm": "adamw", "lr": 3e-3, "betas": (0.8, 0.95)}
    return [{"params": params[OF_MUON]}, rest | more]


def fill(params: list[Any], row: list[np.ndarray]) -> None:
    for p, g in zip(params, row, strict=True):
        p.grad = to_torch(g)


def run(optimizer: Any, params: list[Any], grads: list[Any], **inputs: Any) -> None:
    for row in grads:
        fill(params, row)
        optimizer.step(None, **inputs)


def bits(params: list[Any]) -> list[bytes]:
    return [to_numpy(p).tobytes() for p in params]


@pytest.fixture
def grads() -> list[list[np.ndarray]]:
    return draw(SHAPES, 6)


# Steps.


MATRICES: list[dict[str, Any]] = [
    {"output_axis": 1},
    {"output_axis": 2},
    {"output_axis": 2, "split": 2},
    {"output_axis": 2, "split": 4},
    {"output_axis": 1, "split": 3},
    {"output_axis": 0},
]


@pytest.mark.parametrize(
    ("name", "compiled"),  # NorMuon's scales have shapes of their own, whoever computes
    [("muon", None), ("muon", True), ("normuon", None), slow("normuon", True)]
    + [slow("shampoo", compiled) for compiled in (None, True)],
)
def test_groups_may_divide_tensors_of_one_shape_into_other_matrices(
    name: str, compiled: bool | None
) -> None:
    begin, rows = start([(2, 3, 4)])[0], draw([(2, 3, 4)], 3)
    made = [
        {"params": [torch.nn.Parameter(to_torch(begin))], "compile": compiled} | given
        for given in MATRICES
    ]
    optimizer = optstudy_torch.from_core(name)(made, lr=0.1, dialect="paper")
    params = [p for group in made for p in group["params"]]
    for (g,) in rows:
        fill(params, [g] * len(params))
        optimizer.step()
    for p, given in zip(params, MATRICES, strict=True):
        ends, _ = definition(name, [begin], rows, {"lr": 0.1} | given, dialect="paper")
        assert same(to_numpy(p), ends[0]), given
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


@pytest.mark.parametrize("compiled", [None, True, False])
def test_one_optimizer_of_two_algorithms_is_two_optimizers(grads: Any, compiled: Any) -> None:
    params, others = parameters(), parameters()
    both = Muon(groups(params), lr=0.02, compile=compiled)
    muon = Muon(others[OF_MUON], lr=0.02, compile=compiled)
    adamw = AdamW(others[OF_ADAMW], lr=3e-3, betas=(0.8, 0.95), compile=compiled)
    for row in grads:
        fill(params, row)
        fill(others, row)
        for optimizer in (both, muon, adamw):
            optimizer.step()
    assert bits(params) == bits(others)
    for p, q in zip(params, others, strict=True):
        alone = muon.state[q] or adamw.state[q]
        assert both.state[p].keys() == alone.keys()
        assert all(torch.equal(both.state[p][name], x) for name, x in alone.items())


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_a_group_of_any_algorithm_has_the_defaults_of_its_class(name: str) -> None:
    made = optstudy_torch.from_core(name)([torch.zeros(2, 2)], compile=False)
    optimizer = Muon([{"params": [torch.zeros(2, 2)], "algorithm": name}], lr=7.0, compile=False)
    if name == "muon":
        assert optimizer.param_groups[0].pop("lr") == 7.0
        assert made.param_groups[0].pop("lr") == 1e-3
    own, wanted = optimizer.param_groups[0], made.param_groups[0]
    assert {k: v for k, v in own.items() if k != "params"} == {
        k: v for k, v in wanted.items() if k != "params"
    }


def test_a_group_has_its_dialect_and_of_the_class_how_and_for_what_a_step_is_made() -> None:
    rest = {"params": [torch.zeros(2)], "algorithm": "adamw", "dialect": "optax"}
    given: dict[str, Any] = {"compile": False, "step_dtype": "float32", "maximize": True}
    optimizer = Muon([{"params": [torch.zeros(2, 2)]}, rest], weight_decay=0.5, **given)
    values = optimizer.param_groups[1]
    assert values["weight_decay"] == 1e-4
    assert {name: values[name] for name in given} == given
    assert "momentum" not in values
    own = Muon([rest | {"maximize": False, "compile": True}], **given)
    assert own.param_groups[0]["maximize"] is False
    assert own.param_groups[0]["compile"] is True


def test_a_flag_of_torchs_class_in_a_group(grads: Any) -> None:
    params, others = parameters(), parameters()
    run(Muon(groups(params, amsgrad=True)), params, grads)
    adamw = AdamW(others[OF_ADAMW], lr=3e-3, betas=(0.8, 0.95), amsgrad=True)
    run(adamw, others[OF_ADAMW], [row[OF_ADAMW] for row in grads])
    assert bits(params[OF_ADAMW]) == bits(others[OF_ADAMW])


def test_a_class_of_a_rule_of_ones_own(grads: Any) -> None:
    params, others = parameters(), parameters()
    run(optstudy_torch.from_core(HEAVY_BALL)(groups(params), lr=0.1), params, grads)
    ball = optstudy_torch.from_core(HEAVY_BALL)(others[OF_MUON], lr=0.1)
    run(ball, others[OF_MUON], [row[OF_MUON] for row in grads])
    run(
        AdamW(others[OF_ADAMW], lr=3e-3, betas=(0.8, 0.95)),
        others[OF_ADAMW],
        [row[OF_ADAMW] for row in grads],
    )
    assert bits(params) == bits(others)


# Inputs besides the gradient.


def test_a_loss_reaches_the_group_that_asks_for_it(grads: Any) -> None:
    params, others = parameters(), parameters()
    polyak = {"params": params[OF_ADAMW], "algorithm": "polyak_sgd"}
    both = Muon([{"params": params[OF_MUON]}, polyak])
    run(both, params, grads, value=2.0)
    fill(params, grads[0])
    assert both.step(lambda: torch.tensor(2.0)) == 2.0
    more = [*grads, grads[0]]
    run(Muon(others[OF_MUON]), others[OF_MUON], [row[OF_MUON] for row in more])
    own = [row[OF_ADAMW] for row in more]  # its norm is that of the group
    run(PolyakSGD(others[OF_ADAMW]), others[OF_ADAMW], own, value=2.0)
    assert bits(params) == bits(others)
    with pytest.raises(TypeError, match=r"polyak_sgd without value: call step\(closure\)"):
        both.step()
    with pytest.raises(TypeError, match="muon has no input 'hessian'; it takes the gradient only"):
        both.step(None, value=1.0, hessian=params)


def test_a_hessian_is_read_where_it_is_asked_for(grads: Any) -> None:
    params, others = parameters(), parameters()
    sophia = {"params": params[OF_ADAMW], "algorithm": "sophia"}
    both = Muon([{"params": params[OF_MUON]}, sophia])
    hessian = [torch.full_like(p, 0.5) for p in params[OF_ADAMW]]
    run(both, params, grads, hessian=[None, None, *hessian])
    run(Muon(others[OF_MUON]), others[OF_MUON], [row[OF_MUON] for row in grads])
    own = [row[OF_ADAMW] for row in grads]
    run(Sophia(others[OF_ADAMW]), others[OF_ADAMW], own, hessian=hessian)
    assert bits(params) == bits(others)


# What is refused.


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"algorithm": "adamv"}, ValueError, "group 1: algorithm = 'adamv': did you mean 'adam'"),
        ({"algorithm": 3}, TypeError, "group 1: algorithm = 3: allowed are a name"),
        ({"algorithm": HEAVY_BALL}, TypeError, "is not one of ALGORITHMS: allowed are their names"),
        ({"algorithm": cautious(ALGORITHMS["adamw"])}, TypeError, "'cautious_adamw' is not one of"),
        (
            {"momentum": 0.9},
            TypeError,
            "group 1: momentum in a group of adamw: allowed are .*betas",
        ),
        (
            {"algorithm": "lamb", "cautious_decay": True, "name": "rest"},
            TypeError,
            "group 1: cautious_decay in a group of lamb: allowed are",
        ),
        ({"b1": 0.9}, TypeError, "group 1: b1 in a group of adamw"),
        ({"lr": -1.0}, ValueError, "group 1: lr = -1.0: allowed are"),
        ({"dialect": "tensorflow"}, ValueError, "group 1: dialect = 'tensorflow' for 'adamw'"),
        (
            {"algorithm": "shampoo", "capturable": True},
            NotImplementedError,
            "group 1: capturable = True",
        ),
        ({"compile": True, "capturable": True}, ValueError, "group 1: compile = True with capt"),
    ],
)
def test_what_a_group_may_not_say(more: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Muon(groups(parameters(), **more))


def test_a_parameter_that_comes_twice_is_refused() -> None:
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = optstudy_torch.Lion([p])
    with (
        pytest.warns(UserWarning, match="duplicate parameters"),  # torch's
        pytest.raises(ValueError, match="parameters 1 and 2 of the group are one"),
    ):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1)), q, q]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [q]})


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_an_array_that_is_written_to_a_group_is_answered(name: str) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optstudy_torch.AdamW([p])
    p.grad = torch.ones(3)
    optimizer.param_groups[0][name] = np.array(0.25)
    with pytest.raises(TypeError, match=f"{name} of type ndarray: allowed are numbers and tensors"):
        optimizer.step()
    assert p.tolist() == [1, 1, 1]


def test_a_group_that_is_refused_later_is_named() -> None:
    params = parameters()
    optimizer = Muon(groups(params)[:1])
    with pytest.raises(ValueError, match=r"group 1: betas|group 1: b2 = 1\.5"):
        optimizer.add_param_group(groups(params, betas=(0.9, 1.5))[1])
    assert len(optimizer.param_groups) == 1


def test_a_step_that_a_group_refuses_changes_nothing(grads: Any) -> None:
    params = parameters()
    optimizer = Muon(groups(params))
    begin = bits(params)
    fill(params, grads[0])
    optimizer.param_groups[1]["eps"] = -1.0
    with pytest.raises(ValueError, match="eps = -1"):
        optimizer.step()
    assert bits(params) == begin
    assert not any(optimizer.state.values())


# States.


def test_a_group_is_added_in_the_middle(grads: Any) -> None:
    params, others = parameters(), parameters()
    late = Muon(groups(params)[:1])
    run(late, params[OF_MUON], [row[OF_MUON] for row in grads[:3]])
    late.add_param_group(groups(params)[1])
    run(late, params, grads[3:])
    run(Muon(others[OF_MUON]), others[OF_MUON], [row[OF_MUON] for row in grads])
    adamw = AdamW(others[OF_ADAMW], lr=3e-3, betas=(0.8, 0.95))
    run(adamw, others[OF_ADAMW], [row[OF_ADAMW] for row in grads[3:]])
    assert bits(params) == bits(others)


def reloaded(optimizer: Any) -> Any:
    """A new optimizer of the same groups, of other values, with the state of another."""
    params = [
        p.detach().clone().requires_grad_() for g in optimizer.param_groups for p in g["params"]
    ]
    twin = Muon(groups(params, lr=1.0), lr=1.0)
    twin.load_state_dict(optimizer.state_dict())
    return twin


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), reloaded]
)
def test_a_copy_goes_on_with_the_same_bits(grads: Any, duplicate: Any) -> None:
    params = parameters()
    optimizer = Muon(groups(params), lr=0.02)
    run(optimizer, params, grads[:3])
    twin = duplicate(optimizer)
    others = [p for group in twin.param_groups for p in group["params"]]
    run(optimizer, params, grads[3:])
    run(twin, others, grads[3:])
    assert bits(params) == bits(others)
    assert [g.keys() for g in twin.param_groups] == [g.keys() for g in optimizer.param_groups]
    assert "momentum" not in twin.param_groups[1]


def test_a_state_of_other_algorithms_is_refused(grads: Any) -> None:
    params = parameters()
    optimizer = Muon(groups(params))
    run(optimizer, params, grads[:1])
    saved = optimizer.state_dict()
    other = Muon(groups(parameters(), algorithm="adam"))
    with pytest.raises(ValueError, match="algorithm 'adamw' in group 1: allowed for Muon is 'adam"):
        other.load_state_dict(saved)
    twin = Muon(groups(parameters()))
    saved["param_groups"][1]["eps"] = -1.0
    with pytest.raises(ValueError, match="state_dict, group 1: eps = -1"):
        twin.load_state_dict(saved)
    saved["param_groups"][1]["eps"] = 1e-8
    saved["state"][3] = {"b": saved["state"][3]["m"], "t": saved["state"][3]["t"]}
    with pytest.raises(ValueError, match=r"state_dict has the fields \['b', 't'\]"):
        twin.load_state_dict(saved)


def test_a_checkpoint_in_a_folder(grads: Any, tmp_path: Any) -> None:
    params, others = parameters(), parameters()
    optimizer, twin = Muon(groups(params)), Muon(groups(others))
    run(optimizer, params, grads[:3])
    with torch.no_grad():
        for q, p in zip(others, params, strict=True):
            q.copy_(p)
    with Run.create(tmp_path / "run", {}, tensorboard=False) as folder:
        checkpoint.save(folder, 0, optimizer=optimizer)
        checkpoint.load(folder, optimizer=twin)
    run(optimizer, params, grads[3:])
    run(twin, others, grads[3:])
    assert bits(params) == bits(others)


def test_checkpoints_of_torch_are_of_one_algorithm(grads: Any) -> None:
    params, others = parameters(), parameters()
    both = Muon(groups(params))
    with pytest.raises(TypeError, match=r"groups with muon, adamw: an optimizer of torch"):
        optstudy_torch.to_torch_optim(both)
    with pytest.raises(TypeError, match="pass the optimizer itself"):
        optstudy_torch.to_torch_optim(both.state_dict())
    theirs = torch.optim.AdamW(others, lr=0.25)
    run(theirs, others, grads[:2])
    with pytest.raises(ValueError, match=r"groups with muon, adamw: an optimizer of torch"):
        both.load_state_dict(theirs.state_dict())
    # The class's own algorithm need not be among them.
    alone = Muon([{"params": params, "algorithm": "adamw"}])
    alone.load_state_dict(theirs.state_dict())
    assert alone.param_groups[0]["lr"] == 0.25
    back = optstudy_torch.to_torch_optim(alone)
    assert back["param_groups"] == theirs.state_dict()["param_groups"]
    for i, state in theirs.state_dict()["state"].items():
        assert all(torch.equal(x, back["state"][i][name]) for name, x in state.items())


# What surrounds an optimizer.


def test_schedulers_and_epoch_methods_see_the_rate_of_each_group(grads: Any) -> None:
    params, others = parameters(), parameters()
    both = Muon(groups(params), lr=0.02)
    apart = [
        Muon(others[OF_MUON], lr=0.02),
        AdamW(others[OF_ADAMW], lr=3e-3, betas=(0.8, 0.95)),
    ]
    model = torch.nn.ParameterList(params)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)) for o in (both, *apart)
    ]
    careful = CarefulLR(both, rollback=True, model=model)
    direction = DirectionLR(both)
    recorder = Recorder(model, both, epoch=["step_size"], step=["grad_norm", "moments"])
    for row in grads:
        fill(params, row)
        fill(others, row)
        for optimizer in (both, *apart):
            optimizer.step()
        recorder.step(1.0)
        recorder.end_epoch()
        for schedule in schedules:
            schedule.step()
        careful.step(1.0)
    assert [g["lr"] for g in both.param_groups] == [0.02 * (1 / 7), 3e-3 * (1 / 7)]
    assert bits(params) == bits(others)
    direction.step()
    assert len(direction.get_last_lr()) == 2


def test_one_cycle_moves_what_a_group_has(grads: Any) -> None:
    params = parameters()
    both = Adam([{"params": params[OF_MUON]}, {"params": params[OF_ADAMW], "algorithm": "lion"}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(both, max_lr=[0.1, 0.01], total_steps=8)
    assert [g["betas"][0] for g in both.param_groups] == [0.95, 0.95]
    run(both, params, grads[:1])
    schedule.step()
    assert both.param_groups[1]["lr"] < 0.01


def test_the_optimizers_class_names_no_group_of_its_own(grads: Any) -> None:
    params, others = parameters(), parameters()
    run(Muon([{"params": params, "algorithm": "lion", "lr": 0.01}]), params, grads)
    run(Lion(others, lr=0.01), others, grads)
    assert bits(params) == bits(others)


def test_an_error_in_the_middle_names_the_groups(grads: Any, monkeypatch: Any) -> None:
    params = parameters()
    optimizer = Muon(groups(params))
    run(optimizer, params, grads[:1])
    fill(params, grads[1])

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("optstudy_torch.engine.stages.Stage.store", fail)
    with pytest.raises(MemoryError) as error:
        optimizer.step()
    assert error.value.__notes__ == [
        "Muon: step stopped: taken by groups [0], maybe in part by group 1, not by groups []"
    ]
