"""Steps whose numbers are all tensors: a graph records them, autograd goes through them."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from harness import slow_unless_quick
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import optstudy_torch
from optstudy_core import ALGORITHMS, Algorithm, averaged, clipped, lookahead
from optstudy_torch import _on_tensors, from_core
from optstudy_torch.engine import on_tensors, rounding

LOOK_AT_VALUES = {"shampoo", "soap"}
RECORDED = [name for name in ALGORITHMS if name not in LOOK_AT_VALUES]
WITHOUT_SUMS = [name for name, rule in ALGORITHMS.items() if not (rule.has_sums or rule.leafwise)]
QUICK = {
    "adam",
    "sign_sgd",
    "rprop",
    "lamb",
    "muon",
    "adafactor",
    "radam",
    "schedule_free_adamw",
    "momo",
}
WRAPPED = {
    "averaged_lookahead_adam": averaged(lookahead(ALGORITHMS["adam"])),
    "clipped_sgd": clipped(ALGORITHMS["sgd"]),
}


def drawn(seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator).to(dtype) for s in [(4, 3), (2, 5), (3, 3)]]


class Training:
    """An optimizer, its parameters, and what it is given."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float32, **arguments: Any) -> None:
        self.rule = WRAPPED.get(name) or ALGORITHMS[name]
        self.params = [torch.nn.Parameter(x) for x in drawn(0, dtype)]
        for p in self.params:
            p.grad = torch.zeros_like(p)
        self.given: dict[str, Any] = {}
        if "value" in self.rule.inputs:
            self.given["value"] = torch.zeros(())
        if "hessian" in self.rule.inputs:
            self.given["hessian"] = [torch.zeros_like(p) for p in self.params]
        self.optimizer = from_core(self.rule)(self.params, **arguments)

    def feed(self, seed: int) -> None:
        """Write other values where the gradients and inputs are."""
        for p, x in zip(self.params, drawn(seed, self.params[0].dtype), strict=True):
            p.grad.copy_(x)
        if "value" in self.given:
            self.given["value"].fill_(1.0 + 0.1 * seed)
        for h, x in zip(self.given.get("hessian", []), drawn(seed + 100), strict=False):
            h.copy_(x.abs())

    def step(self, seed: int) -> None:
        self.feed(seed)
        self.optimizer.step(**self.given)

    def kept(self) -> list[Any]:
        states = self.optimizer.state
        return [x.tolist() for p in self.params for x in (p, *states[p].values())]


def rates(rule: Any, value: float) -> dict[str, Any]:
    return {"lr": torch.tensor(value)} if "lr" in rule.defaults() else {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", [*slow_unless_quick(RECORDED, QUICK), *WRAPPED])
def test_a_step_that_can_be_recorded_has_the_same_bits(name: str, dtype: torch.dtype) -> None:
    rule = WRAPPED.get(name) or ALGORITHMS[name]
    for arguments in ({}, rates(rule, 0.3)):
        one = Training(name, dtype, **arguments)
        own = Training(name, dtype, capturable=True, **arguments)
        for seed in range(1, 5):
            one.step(seed)
            own.step(seed)
        assert own.kept() == one.kept()


class TwinsState(NamedTuple):
    """Two fields, of which one becomes the other."""

    first: Any
    second: Any


def twins(state: TwinsState, grad: Any, params: Any = None, *, lr: Any = 0.5) -> Any:
    """Go on with the gradient of the step before the last one."""
    return TwinsState(grad, state.first), -lr * state.second


TWINS = Algorithm("twins", lambda params: TwinsState(0 * params, 1 * params), twins)


def test_a_field_that_becomes_another_is_written_whole() -> None:
    found = []
    for capturable in (False, True):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = from_core(TWINS)([p], capturable=capturable)
        for k in range(4):
            p.grad = torch.full((3,), 10.0**k)
            optimizer.step()
        found.append((p.tolist(), *(x.tolist() for x in optimizer.state[p].values())))
    assert found[0] == found[1]


class Graph(TorchDispatchMode):
    """What a CUDA graph does, on a CPU: the operations are kept, and run on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if "_local_scalar_dense" in str(function):
            raise RuntimeError("the host reads a tensor")
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, result in self.calls:
            given = {place_of(x) for x in tree_leaves((args, kwargs))}
            again = function(*args, **kwargs)
            for to, x in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(to, torch.Tensor) and place_of(to) not in given:
                    to.copy_(x)


def place_of(x: Any) -> Any:
    return x.untyped_storage().data_ptr() if isinstance(x, torch.Tensor) and x.numel() else None


@torch.library.custom_op("optstudy_tests::root", mutates_args=())
def root(x: torch.Tensor) -> torch.Tensor:
    return rounding.apply("sqrt", x)


@pytest.fixture
def recorded_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots are operations of torch, as on a GPU: on a CPU they are NumPy's, which are not seen."""
    monkeypatch.setattr(on_tensors, "root", root)
    monkeypatch.setattr(rounding.NAMESPACE, "sqrt", root)


@pytest.mark.usefixtures("recorded_roots")
@pytest.mark.parametrize("name", [*slow_unless_quick(RECORDED, QUICK), *WRAPPED])
def test_a_graph_that_is_replayed_takes_the_steps(name: str) -> None:
    """With other gradients, another rate and the counts of then, which the host does not know."""
    rule = WRAPPED.get(name) or ALGORITHMS[name]
    one = Training(name, **rates(rule, 0.3))
    own = Training(name, capturable=True, **rates(rule, 0.3))
    one.step(1)
    own.step(1)
    own.feed(2)
    graph = Graph()
    with graph, torch.no_grad():
        own.optimizer.step(**own.given)
    one.step(2)
    assert own.kept() == one.kept()
    for seed in range(3, 7):
        if seed == 5 and "lr" in rule.defaults():
            for training in (one, own):
                training.optimizer.param_groups[0]["lr"].fill_(0.07)
        one.step(seed)
        own.feed(seed)
        graph.replay()
        assert own.kept() == one.kept(), seed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: no GPU")
@pytest.mark.parametrize("name", ["adam", "lamb", "muon"])
def test_a_cuda_graph_takes_the_steps(name: str) -> None:
    def begun(**arguments: Any) -> Training:
        rate = torch.tensor(0.3, device="cuda")
        made = Training(name)
        made.params = [torch.nn.Parameter(p.detach().cuda()) for p in made.params]
        for p in made.params:
            p.grad = torch.zeros_like(p)
        made.optimizer = from_core(made.rule)(made.params, lr=rate, **arguments)
        made.step(1)
        return made

    one, own = begun(), begun(capturable=True)
    own.feed(2)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        own.optimizer.step()
    for seed in range(2, 6):
        one.step(seed)
        own.feed(seed)
        graph.replay()
        assert own.kept() == one.kept()


@pytest.mark.parametrize("name", sorted(LOOK_AT_VALUES))
def test_rules_that_look_at_values_are_not_recorded(name: str) -> None:
    with pytest.raises(NotImplementedError, match="has a branch that depends on values"):
        Training(name, capturable=True)


def test_a_rate_elsewhere_is_refused() -> None:
    plan = SimpleNamespace(algorithm=ALGORITHMS["adam"], hyperparameters={"lr": torch.ones(())})
    p = SimpleNamespace(device=torch.device("meta"), is_leaf=True, requires_grad=True)
    group = {"capturable": True, "compile": None}
    inputs = SimpleNamespace(scalars={})
    with pytest.raises(ValueError, match="lr on cpu with capturable = True: allowed is the device"):
        _on_tensors.check_step(group, plan, [p], inputs)  # type: ignore[arg-type, list-item]


class Anywhere(NamedTuple):
    """What has a device."""

    device: torch.device


def test_a_graph_records_no_other_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    p = Anywhere(torch.device("cuda"))

    here, there = ({"t": SimpleNamespace(device=torch.device(x))} for x in ("cuda", "cpu"))
    check: Any = _on_tensors.check_recorded
    for state in ({p: here}, {}):  # of a rule without a state there is none
        check({"capturable": True}, [p], state)
    with pytest.raises(RuntimeError, match="allowed with capturable = True"):
        check({}, [p], {p: here})
    for own in ({}, there):
        with pytest.raises(RuntimeError, match="allowed after one that has made the states"):
            check({"capturable": True}, [p], {p: own})


# Derivatives.


@pytest.mark.parametrize("name", WITHOUT_SUMS)
def test_derivatives_go_through_two_steps(name: str) -> None:
    rule = ALGORITHMS[name]

    def end(p: Any, first: Any, second: Any, lr: Any) -> Any:
        own = p.clone()
        given: dict[str, Any] = {"lr": lr} if "lr" in rule.defaults() else {}
        optimizer = from_core(name)([own], differentiable=True, **given)
        for grad in (first, second + 0.1 * own):
            own.grad = grad
            inputs = {"hessian": [2 + 0.1 * first]} if "hessian" in rule.inputs else {}
            optimizer.step(**inputs)
        return (own, *(x for x in optimizer.state[own].values() if x.is_floating_point()))

    def draw(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(3, 2, dtype=torch.float64, generator=generator).requires_grad_()

    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        end, (draw(0), draw(1), draw(2), lr), rtol=1e-3, atol=1e-4, fast_mode=True
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", slow_unless_quick(WITHOUT_SUMS, {"adamw", "nadam", "lion"}))
def test_a_step_that_is_differentiated_has_the_same_bits(name: str, dtype: torch.dtype) -> None:
    one = Training(name, dtype, **rates(ALGORITHMS[name], 0.3))
    own = Training(name, dtype)
    leaves = [p.detach().requires_grad_() for p in own.params]
    own.params = [p.clone() for p in leaves]  # type: ignore[misc]
    given = rates(ALGORITHMS[name], 0.3)
    for rate in given.values():
        rate.requires_grad_()
    own.optimizer = from_core(name)(own.params, differentiable=True, **given)
    for p in own.params:
        p.grad = torch.zeros_like(p)
    for seed in range(1, 4):
        one.step(seed)
        for p in own.params:
            p.grad = torch.zeros_like(p)
        own.step(seed)
    assert own.kept() == one.kept()
    sum(p.float().square().sum() for p in own.params).backward()
    assert all(p.grad is not None for p in leaves)
    assert all(rate.grad is not None for rate in given.values())


@pytest.mark.parametrize("name", ["lamb", "adafactor", "muon", "shampoo", "prodigy", "sm3"])
def test_sums_are_not_differentiated(name: str) -> None:
    p = torch.ones(3, 2, requires_grad=True).clone()
    with pytest.raises(NotImplementedError, match="allowed are rules without sums over elements"):
        from_core(name)([p], differentiable=True)


def test_a_leaf_is_not_differentiated() -> None:
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    optimizer = optstudy_torch.Adam([p], differentiable=True)
    with pytest.raises(ValueError, match=r"leaf that requires a gradient: allowed .* p.clone\(\)"):
        optimizer.step()
    assert p.tolist() == [1.0, 1.0]


# Groups, and saved states.


@pytest.mark.parametrize("name", ["capturable", "differentiable"])
def test_with_a_kernel_it_is_refused(name: str) -> None:
    for given in ({"compile": True}, {"fused": True}):
        with pytest.raises(ValueError, match=f"compile = True with {name} = True"):
            optstudy_torch.Adam([torch.zeros(1)], **given, **{name: True})
    with pytest.raises(TypeError, match=f"{name} = 1: allowed are True and False"):
        optstudy_torch.Adam([torch.zeros(1)], **{name: 1})


def test_a_group_says_itself_whether_it_can_be_recorded() -> None:
    params = [torch.nn.Parameter(x) for x in drawn(3)]
    one, two, three = params
    given = [{"params": [one]}, {"params": [two], "capturable": False}, {"params": [three]}]
    given[2] |= {"algorithm": "sgd"}
    optimizer = optstudy_torch.Adam(given, capturable=True)
    found = [group.get("capturable") for group in optimizer.param_groups]
    assert found == [True, None, True]
    with pytest.raises(NotImplementedError, match=r"group 3: capturable = True for soap"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(one)], "algorithm": "soap"})


def test_a_saved_state_is_recorded_as_it_was() -> None:
    one = Training("adamw", capturable=True)
    one.step(1)
    own = Training("adamw")
    own.optimizer.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
    assert own.optimizer.param_groups[0]["capturable"] is True
    back = Training("adamw", capturable=True)
    plain = Training("adamw")
    plain.step(1)
    back.optimizer.load_state_dict(plain.optimizer.state_dict())
    assert back.optimizer.param_groups[0]["capturable"] is True  # as it was made


def test_a_checkpoint_of_torch_is_recorded_as_it_was() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    theirs = torch.optim.AdamW([p], capturable=True)
    state = theirs.state_dict()
    ours = optstudy_torch.AdamW([torch.nn.Parameter(torch.ones(3))])
    ours.load_state_dict(state)
    assert ours.param_groups[0]["capturable"] is True
    assert optstudy_torch.to_torch_optim(ours)["param_groups"][0]["capturable"] is True
    kernels = optstudy_torch.AdamW([torch.nn.Parameter(torch.ones(3))], compile=True)
    kernels.load_state_dict(state)
    assert kernels.param_groups[0]["compile"] is None
