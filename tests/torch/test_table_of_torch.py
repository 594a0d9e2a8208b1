"""torch's own table of optimizer tests, with our classes in the place of torch's.

The table (``torch.testing._internal.common_optimizers``, in the wheel) says for each optimizer
which arguments it takes, which it refuses, and under which schedulers it is tried. What is
otherwise here is in :data:`OTHERWISE`, and in a table of ``docs/porting.md``.
"""

from __future__ import annotations

import copy
import io
import sys
import types
import unittest
import warnings
from typing import Any

import pytest
import torch
from harness import ROOT

import optstudy_torch

pytestmark = pytest.mark.slow

NAMES = ["Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD"]
NAMES += ["Muon", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"]
WITHOUT = ["LBFGS", "SparseAdam"]

OTHERWISE = {
    "a group with duplicate parameters": "a param group cannot have duplicate parameters",
    "`lr` as a tensor with `foreach=True`": (
        "lr as Tensor doesn't work with foreach & not capturable"
    ),
    "`betas` of a number and a tensor": "betas must be either both floats or both Tensors",
    "`betas` as tensors with `foreach=True`": (
        r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True"
    ),
    "Muon of a tensor with more than two axes": "only support 2D parameters",
}  # fmt: skip
"""Cases that torch's classes refuse: our name for it, and the table's."""
TAKEN = [case for name, case in OTHERWISE.items() if "duplicate" not in name]
REFUSED = ["complex parameters", "sparse gradients"]


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    """torch's table by the name of the class."""
    # torch's tests want it for texts that they expect; the table does not.
    stand_in = types.ModuleType("expecttest")
    stand_in.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    sys.modules.setdefault("expecttest", stand_in)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal import common_optimizers

    return {info.optim_cls.__name__: info for info in common_optimizers.optim_db}


def configurations(info: Any, skip: tuple[str, ...] = ("differentiable",)) -> list[Any]:
    """The arguments of the table, with and without ``foreach`` and ``fused``."""
    from torch.testing._internal import common_optimizers as common

    return common._get_optim_inputs_including_global_cliquey_kwargs(
        "cpu", torch.float32, info, skip=skip
    )


def parameters(name: str, dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (2, 5)] if name == "Muon" else [(4, 3), (6,), (1,), ()]
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def train(optimizer: Any, params: list[Any], steps: int = 5, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)

    def closure() -> Any:
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        return torch.tensor(1.0)

    for _ in range(steps):
        assert optimizer.step(closure) == 1


def cases(table: dict[str, Any], name: str) -> list[tuple[Any, dict[str, Any], list[Any]]]:
    """Each configuration: our optimizer, its arguments, and its parameters."""
    found = []
    for given in configurations(table[name]):
        params = parameters(name)
        own = copy.deepcopy(given.kwargs)
        found.append((getattr(optstudy_torch, name)(params, **own), given.kwargs, params))
    assert len(found) > 3
    return found


def test_the_table_has_no_others(table: dict[str, Any]) -> None:
    assert sorted(table) == sorted(NAMES + WITHOUT)


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_torch(table: dict[str, Any], name: str) -> None:
    for optimizer, given, params in cases(table, name):
        theirs = parameters(name)
        train(optimizer, params)
        train(table[name].optim_cls(theirs, **copy.deepcopy(given)), theirs)
        for p, q in zip(params, theirs, strict=True):
            tolerance = 2e-3 if name == "Muon" else 2e-6  # Muon's products are in bfloat16 there
            torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused_there_is_refused_here(table: dict[str, Any], name: str) -> None:
    taken = []
    for case in table[name].optim_error_inputs_func("cpu", torch.float32):
        given = case.optimizer_error_input
        params = given.params if given.params is not None else parameters(name)[:1]

        def attempt(given: Any = given, params: Any = params) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of duplicates, which are refused
                getattr(optstudy_torch, name)(params, **given.kwargs).step()

        if given.desc in TAKEN:
            attempt()
            taken.append(given.desc)
        else:
            with pytest.raises((ValueError, TypeError, NotImplementedError)):
                attempt()
    assert bool(taken) == (name in {"Adam", "AdamW", "Muon"})


@pytest.mark.parametrize("name", NAMES)
def test_what_is_taken_there_alone(table: dict[str, Any], name: str) -> None:
    with pytest.raises(TypeError, match=r"dtype torch\.complex64"):
        getattr(optstudy_torch, name)(parameters(name, torch.complex64))
    params = parameters(name)[:1]
    params[0].grad = torch.eye(4, 3).to_sparse()
    with pytest.raises(TypeError, match=r"layout torch\.sparse_coo"):
        getattr(optstudy_torch, name)(params).step()


@pytest.mark.parametrize("name", NAMES)
def test_steps_that_are_differentiated_are_those_of_torch(table: dict[str, Any], name: str) -> None:
    """And so are the derivatives, with respect to parameters and gradients."""
    if "differentiable" not in table[name].supported_impls:
        with pytest.raises(NotImplementedError, match="differentiable = True"):
            getattr(optstudy_torch, name)(parameters(name), differentiable=True)
        return
    seen = 0
    for given in configurations(table[name], skip=("foreach", "fused")):
        if not given.kwargs["differentiable"]:
            continue
        found = []
        for make in (getattr(optstudy_torch, name), table[name].optim_cls):
            first, grad = [x.detach().double().requires_grad_() for x in parameters(name)[:2]]
            grad = grad[:4, None].expand(4, 3) if name != "Muon" else grad
            p = first.clone()
            optimizer = make([p], **copy.deepcopy(given.kwargs))
            p.grad = 2 * grad
            optimizer.step()  # a second one of torch's writes over what autograd has kept
            loss = p.square().sum()
            found.append((p, *torch.autograd.grad(loss, [first, grad], allow_unused=True)))
        if name == "SGD" and given.kwargs.get("momentum"):
            found = [x[:1] for x in found]  # torch's begins with a gradient that is detached
        for x, y in zip(*found, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
        seen += 1
    assert seen


@pytest.mark.parametrize("name", NAMES)
def test_what_can_be_recorded_there_can_be_here(table: dict[str, Any], name: str) -> None:
    if not table[name].has_capturable_arg:
        return
    for optimizer, given, params in cases(table, name):
        others = parameters(name)
        arguments = {k: v for k, v in copy.deepcopy(given).items() if k not in ("fused", "foreach")}
        own = getattr(optstudy_torch, name)(others, **(arguments | {"capturable": True}))
        train(optimizer, params)
        train(own, others)
        assert all(map(torch.equal, params, others))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_under_the_schedulers_of_the_table(table: dict[str, Any], name: str) -> None:
    for given in configurations(table[name]):
        for schedulers in table[name].scheduler_inputs:
            w = torch.nn.Parameter(torch.randn(10, 5, generator=torch.Generator().manual_seed(1)))
            x = torch.randn(5, generator=torch.Generator().manual_seed(2))
            optimizer = getattr(optstudy_torch, name)([w], **copy.deepcopy(given.kwargs))
            made = [make(optimizer) for make in schedulers]
            sign = -1 if given.kwargs.get("maximize") else 1

            def closure(w: Any = w, x: Any = x, sign: int = sign) -> Any:
                w.grad = None
                loss = sign * (w @ x).square().sum()
                loss.backward()
                return loss.detach()

            first = closure().item()
            for _ in range(20):
                optimizer.step(closure)
                for scheduler in made:
                    plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                    scheduler.step(*[closure()] if plateau else [])
            assert sign * closure().item() < sign * first, given.desc


@pytest.mark.parametrize("name", NAMES)
def test_states_are_saved_copied_and_named(table: dict[str, Any], name: str) -> None:
    for optimizer, given, params in cases(table, name):
        train(optimizer, params, 2)
        file = io.BytesIO()
        torch.save([optimizer.state_dict(), params], file)
        file.seek(0)
        state, values = torch.load(file, weights_only=True)
        with_names = [(f"layer.{i}", p) for i, p in enumerate(values)]
        resumed = getattr(optstudy_torch, name)(with_names, **copy.deepcopy(given))
        resumed.load_state_dict(state)
        copied, others = copy.deepcopy((optimizer, params))
        assert repr(optimizer) == repr(copied)
        for one, own in ((optimizer, params), (copied, others), (resumed, values)):
            train(one, own, 2, seed=7)
            assert all(map(torch.equal, own, params))
        assert resumed.state_dict()["param_groups"][0]["param_names"][0] == "layer.0"


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_of_torch_go_on(table: dict[str, Any], name: str) -> None:
    """Also those of older versions, in which ``step`` is a number."""
    for optimizer, given, params in cases(table, name):
        theirs = parameters(name)
        other = table[name].optim_cls(theirs, **copy.deepcopy(given))
        train(other, theirs, 2)
        state = copy.deepcopy(other.state_dict())
        for own in state["state"].values():
            if isinstance(own.get("step"), torch.Tensor):
                own["step"] = own["step"].item()
        with torch.no_grad():
            for p, q in zip(params, theirs, strict=True):
                p.copy_(q)
        optimizer.load_state_dict(state)
        for one, own in ((optimizer, params), (other, theirs)):
            train(one, own, 2, seed=7)
        tolerance = 2e-3 if name == "Muon" else 2e-6
        for p, q in zip(params, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_hooks_and_parameters_without_gradients(table: dict[str, Any], name: str) -> None:
    for optimizer, _, params in cases(table, name):
        before = copy.deepcopy(params)
        optimizer.step()  # without gradients nothing moves
        assert all(map(torch.equal, params, before))
        assert not optimizer.state
        seen: list[str] = []
        handles = [
            optimizer.register_step_pre_hook(lambda *_, seen=seen: seen.append("pre")),
            optimizer.register_step_post_hook(lambda *_, seen=seen: seen.append("post")),
            optimizer.register_state_dict_pre_hook(lambda *_, seen=seen: seen.append("save")),
            optimizer.register_state_dict_post_hook(lambda *_, seen=seen: seen.append("saved")),
            optimizer.register_load_state_dict_pre_hook(lambda *_, seen=seen: seen.append("load")),
            optimizer.register_load_state_dict_post_hook(lambda *_, seen=seen: seen.append("in")),
        ]
        train(optimizer, params, 1)
        optimizer.load_state_dict(optimizer.state_dict())
        assert seen == ["pre", "post", "save", "saved", "load", "in"]
        for handle in handles:
            handle.remove()
        optimizer.zero_grad()
        assert all(p.grad is None for p in params)
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3, 2))], "lr": 0.5})
        assert optimizer.param_groups[1]["lr"] == 0.5
        assert optimizer.param_groups[1].keys() == optimizer.param_groups[0].keys()


def test_the_page_lists_what_is_otherwise() -> None:
    page = (ROOT / "docs" / "porting.md").read_text(encoding="utf-8")
    section = page[page.index("## What torch's own tests expect") :].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    wanted = [f"`torch.optim.{name}`" for name in WITHOUT] + REFUSED + list(OTHERWISE)
    assert sorted(rows[2:]) == sorted(wanted)
