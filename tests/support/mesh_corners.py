"""What else may happen to parameters on a mesh; each function runs on every process."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import meshes
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from optstudy_core import (
    ALGORITHMS,
    Algorithm,
    accumulated,
    averaged,
    clipped,
    clipped_by_unit,
    namespace,
    skipping,
)
from optstudy_core.arrays.reductions import global_norm, leaf_norm
from optstudy_core.records import Run
from optstudy_core.schedules import Cosine, PerEpoch
from optstudy_torch import _gathered, from_core, to_torch_optim

SHAPES = [(7, 5), (1, 4), (6,)]


def _numbers(seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


def _sharded(tensors: Sequence[torch.Tensor]) -> list[torch.nn.Parameter]:
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = meshes.mesh_of(torch.distributed.get_world_size())
    return [torch.nn.Parameter(distribute_tensor(x, mesh, [Shard(0)])) for x in tensors]


def _give(params: Sequence[Any], grads: Sequence[torch.Tensor]) -> None:
    from torch.distributed.tensor import distribute_tensor

    for p, g in zip(params, grads, strict=True):
        shared = hasattr(p, "placements")
        p.grad = distribute_tensor(g, p.device_mesh, p.placements) if shared else g.clone()


class Norms(NamedTuple):
    """The state of :func:`by_norms`."""

    m: Any
    largest: Any


def by_norms(state: Any, grad: Any, params: Any = None, *, lr: Any = 0.1) -> Any:
    """A rule that branches on a value, so that it runs as it is written, and sums over all."""
    xp = namespace(grad)
    largest = xp.maximum(state.largest, global_norm(grad))
    m = state.m + (grad if lr > 0.05 else 2 * grad)
    return Norms(m, largest), -lr * m / largest


BY_NORMS = Algorithm("by_norms", lambda p: Norms(0 * p, leaf_norm(p)), by_norms)


class Pair:
    """The same training on a mesh and in one process."""

    def __init__(self, name: Any, dtype: torch.dtype = torch.float32, **given: Any) -> None:
        self.name, self.seed = str(name), 1
        if name == "muon":
            given |= {"dialect": None}  # which takes vectors
        begin = _numbers(0, dtype)
        self.alone = [torch.nn.Parameter(x.clone()) for x in begin]
        self.params: list[Any] = _sharded(begin)
        self.single = from_core(name)(self.alone, **given)
        self.optimizer = from_core(name)(self.params, **given)

    def step(self, count: int = 2) -> None:
        """Take steps, and compare parameters and states."""
        for _ in range(count):
            grads = _numbers(self.seed, self.alone[0].dtype)
            self.seed += 1
            _give(self.params, grads)
            _give(self.alone, grads)
            self.optimizer.step()
            self.single.step()
        for p, q in zip(self.params, self.alone, strict=True):
            meshes.assert_same(meshes.whole(p), meshes.whole(q), self.name)
            ours, theirs = self.optimizer.state[p], self.single.state[q]
            assert ours.keys() == theirs.keys()
            for key, x in ours.items():
                meshes.assert_same(meshes.whole(x), meshes.whole(theirs[key]), f"{self.name} {key}")


def parameters_are_replaced() -> None:
    """Others stand in the groups after the optimizer was made, as accelerate lets them."""
    for name in ("adamw", "lamb", "sm3"):
        pair = Pair(name)
        plain = [torch.nn.Parameter(x) for x in _numbers(0)]
        pair.optimizer = from_core(name)(plain)
        pair.optimizer.param_groups[0]["params"] = list(pair.params)
        pair.step()


def rules_run_as_they_are_written() -> None:
    """Some tensors are gathered at a time, but all where a rule sums over all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_gathered, "_GATHERED", 40)
        for name in ("sm3", "muon", BY_NORMS):
            Pair(name).step()


def memory_is_let_go_of() -> None:
    """Of gradients after a step, and of parameters that are no longer in the groups."""
    for name in ("lamb", "sm3"):
        pair = Pair(name)
        pair.step()
        kept = [weak(x.to_local()) for x in (pair.params[0].grad, pair.params[0])]
        pair.optimizer.zero_grad()
        assert kept[0].expired()
        pair.params = _sharded(_numbers(0))
        pair.optimizer.param_groups[0]["params"] = pair.params
        pair.optimizer.state.clear()
        _give(pair.params, _numbers(1))
        pair.optimizer.step()
        assert kept[1].expired()


def weak(x: torch.Tensor) -> StorageWeakRef:
    """Return what knows whether a tensor's memory is still there."""
    return StorageWeakRef(x.untyped_storage())


def memory_is_another() -> None:
    """A parameter's memory, its dtype or its state are replaced between steps."""
    for name in ("adamw", "lamb", "sm3", "muon"):
        pair = Pair(name)
        pair.step()
        for p in pair.params:
            p.grad = None
            torch.utils.swap_tensors(p, torch.nn.Parameter(p.detach().clone()))
            own = pair.optimizer.state[p]
            own |= {key: copy.deepcopy(x) for key, x in own.items()}
        pair.step()
        for optimizer in (pair.optimizer, pair.single):
            for own in optimizer.state.values():
                own |= {key: x + x for key, x in own.items()}
        pair.step()
        for p in (*pair.params, *pair.alone):  # as module.double() does
            p.grad = None
            torch.utils.swap_tensors(p, torch.nn.Parameter(p.detach().double()))
        pair.step()


def processes_compute_in_different_ways() -> None:
    """What they send each other is the same, with kernels or without."""
    for name in ("lamb", "prodigy"):
        pair = Pair(name)
        pair.optimizer.param_groups[0]["compile"] = torch.distributed.get_rank() == 0
        pair.step()


def states_are_given_whole() -> None:
    """Plain tensors of the parameter's shape stand in the state; they are placed like it."""
    for name in ("adamw", "sm3", "muon"):
        pair = Pair(name, **{"momentum": 0.9} if name == "sm3" else {})
        pair.step()
        for p in pair.params:
            own = pair.optimizer.state[p]
            for key, x in own.items():
                own[key] = x.full_tensor() if hasattr(x, "placements") else x
        pair.step()


def terms_begin_later() -> None:
    """Momentum is switched on after the first steps; its field is placed like the parameter."""
    pair = Pair("sgd", lr=0.1)
    pair.step()
    for optimizer in (pair.optimizer, pair.single):
        optimizer.param_groups[0]["momentum"] = 0.9
    pair.step()


def states_move_to_a_mesh_and_back() -> None:
    """A state of whole tensors is loaded on a mesh, and one of a mesh in one process."""
    for name in ("adamw", "dog", "sm3", "muon"):
        pair = Pair(name)
        pair.step()
        of_whole, of_mesh = pair.single.state_dict(), pair.optimizer.state_dict()
        pair.optimizer.load_state_dict(of_whole)
        for p in pair.params:
            for x in pair.optimizer.state[p].values():
                assert hasattr(x, "placements") == (x.shape == p.shape)
        pair.step()
        again = Pair(name)
        again.single.load_state_dict(of_mesh)
        for p, q in zip(again.alone, pair.alone, strict=True):
            assert pair.single.state[q].keys() == again.single.state[p].keys()
            assert not any(hasattr(x, "placements") for x in again.single.state[p].values())


def states_of_torch_optim() -> None:
    """torch.optim's checkpoint of a mesh goes on in our class, and back."""
    pair = Pair("adamw")
    theirs = torch.optim.AdamW(pair.params, foreach=False)
    _give(pair.params, _numbers(1))
    theirs.step()
    pair.optimizer.load_state_dict(theirs.state_dict())
    _give(pair.params, _numbers(2))
    pair.optimizer.step()
    back = torch.optim.AdamW(pair.params)
    back.load_state_dict(to_torch_optim(pair.optimizer))
    for p in pair.params:
        moments = back.state[p]["exp_avg"]
        assert moments.placements == p.placements
        kept = pair.optimizer.state[p]["m"]
        meshes.assert_same(meshes.whole(moments), meshes.whole(kept), "exp_avg")
        assert back.state[p]["step"] == 2


def refused_steps_change_nothing() -> None:
    """What does not fit is refused before anything is written, or a state begins."""
    from torch.distributed.tensor import DTensor, Partial

    for name in ("adamw", "lamb", "sm3"):
        pair = Pair(name)
        _give(pair.params, _numbers(1))
        mesh = pair.params[1].device_mesh

        wrong = torch.nn.Parameter(DTensor.from_local(torch.ones(3), mesh, [Partial()]))
        wrong.grad = DTensor.from_local(torch.ones(3), mesh, [Partial()])
        pair.optimizer.param_groups[0]["params"].append(wrong)
        with _unchanged(pair, "parameter 3 is Partial"):
            pair.optimizer.step()
        pair.optimizer.param_groups[0]["params"].pop()
        pair.optimizer.param_groups[0]["lr"] = "much"
        with _unchanged(pair, "lr = 'much'"):
            pair.optimizer.step()
        pair.optimizer.param_groups[0]["lr"] = pair.single.param_groups[0]["lr"]
        pair.step()
    pair = Pair("sophia")
    _give(pair.params, _numbers(1))
    with _unchanged(pair, "hessian of type Tensor: allowed is DTensor"):
        pair.optimizer.step(hessian=_numbers(2))


@contextmanager
def _unchanged(pair: Pair, message: str) -> Iterator[None]:
    before = [meshes.whole(p).copy() for p in pair.params]
    with pytest.raises((TypeError, ValueError), match=message):
        yield
    for p, x in zip(pair.params, before, strict=True):
        meshes.assert_same(meshes.whole(p), x, pair.name)
        assert not pair.optimizer.state.get(p)


def small_dtypes() -> None:
    """bfloat16 parameters, also with a float32 gradient."""
    for name in ("adamw", "lamb", "sm3", "muon"):
        pair = Pair(name, torch.bfloat16)
        pair.alone = [torch.nn.Parameter(p.detach()) for p in pair.alone]
        for _ in range(2):
            for params in (pair.params, pair.alone):
                for p in params:
                    p.grad_dtype = torch.float32
                _give(params, _numbers(pair.seed))
            pair.seed += 1
            given = {"dialect": None} if name == "muon" else {}
            pair.single = from_core(name)(pair.alone, **given) if pair.seed == 2 else pair.single
            pair.optimizer.step()
            pair.single.step()
        for p, q in zip(pair.params, pair.alone, strict=True):
            assert torch.equal(p.full_tensor(), q)


def rows_of_the_whole() -> None:
    """A recorder measures what it does in one process, and goes on on other processes."""
    from optstudy_core.instruments import INSTRUMENTS
    from optstudy_torch import Recorder

    pair = Pair("adamw")
    names = [name for name in INSTRUMENTS["all"] if name != "loss"]
    folder = [tempfile.mkdtemp()]
    torch.distributed.broadcast_object_list(folder)

    def recorded(optimizer: Any, run: Any = None) -> Any:
        return Recorder(optimizer, epoch=names, step=names, run=run)

    def epoch(*recorders: Any) -> None:
        for _ in range(2):
            pair.step(1)
            for recorder in recorders:
                recorder.step(0.5)
        for recorder in recorders:
            recorder.end_epoch()
            recorder.close()

    ours, theirs = first = recorded(pair.optimizer), recorded(pair.single)
    epoch(*first)
    _assert_same_rows(ours, theirs)
    others = recorded(pair.optimizer), recorded(pair.single)
    for other, kept in zip(others, (theirs.state_dict(), ours.state_dict()), strict=True):
        other.load_state_dict(kept)  # each goes on from what the other saved
    written = Recorder(pair.optimizer, run=folder[0])
    epoch(*others, written)
    _assert_same_rows(*others)
    assert not written.epochs
    if torch.distributed.get_rank() == 0:
        (row,) = Run.read(folder[0]).epochs
        assert row["step_size"] == others[1].epochs[1]["step_size"]


def _assert_same_rows(ours: Any, theirs: Any) -> None:
    assert len(ours.steps) == 2 * len(ours.epochs) > 0
    # A number is written with all its digits, and NaN is NaN.
    assert str(ours.epochs) == str(theirs.epochs)
    assert str(ours.steps) == str(theirs.steps)


def wrappers_in_one_another_under_a_schedule() -> None:
    """Also where a norm in between decides, and rows are units."""
    rule = averaged(skipping(accumulated(clipped(clipped_by_unit(ALGORITHMS["adamw"])))))
    given: dict[str, Any] = {"accumulation_steps": 2, "jump_warmup": 2, "jump_threshold": 0.5}
    pair = Pair(rule, lr=PerEpoch(Cosine(0.1, 0.01, 4), 2), max_norm=0.5, **given)
    pair.step(9)
    state = pair.single.state[pair.alone[0]]
    assert state["inner.jumps"] > 0
    assert state["inner.inner.inner.norm"] > state["inner.inner.inner.clipped_norm"]


CORNERS: list[Callable[[], None]] = [
    parameters_are_replaced,
    rules_run_as_they_are_written,
    memory_is_let_go_of,
    memory_is_another,
    processes_compute_in_different_ways,
    states_are_given_whole,
    terms_begin_later,
    states_move_to_a_mesh_and_back,
    states_of_torch_optim,
    refused_steps_change_nothing,
    small_dtypes,
    rows_of_the_whole,
    wrappers_in_one_another_under_a_schedule,
]
