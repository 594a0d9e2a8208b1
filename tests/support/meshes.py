"""Trainings on meshes of processes (gloo, on the CPU), held against what NumPy gives for the whole.

The processes are started once for many cases, and import neither JAX nor the tests.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from optstudy_core import ALGORITHMS, WRAPPERS, Algorithm

Arrays = list[np.ndarray]


def on_processes(worker: Callable[[], None], processes: int, folder: Path) -> None:
    """Run a function on several processes, which have a group together."""
    # All are forked from one process, which has imported for seconds what each of them needs.
    context = multiprocessing.get_context("forkserver")
    preload = ["fsdp", "checkpoint", "tensor.debug", "_functional_collectives"]
    context.set_forkserver_preload([*(f"torch.distributed.{n}" for n in preload), "mesh_corners"])
    torch.multiprocessing.start_processes(
        _joined,
        (worker, processes, str(folder / f"store{processes}")),
        nprocs=processes,
        start_method="forkserver",
    )


def _joined(rank: int, worker: Callable[[], None], processes: int, store: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    try:
        worker()
    finally:
        dist.destroy_process_group()


class Case(NamedTuple):
    """A training with given gradients, and its ends and states by NumPy.

    Attributes:
        name: of the algorithm, ``sgd`` or ``lookahead(adam)``.
        dialect: of it.
        given: further arguments.
        begin: the parameters.
        grads: for each step and parameter.
        ends: the parameters after the last step.
        states: for each parameter, the fields by name.
    """

    name: str
    dialect: str | None
    given: dict[str, Any]
    begin: Arrays
    grads: list[Arrays]
    ends: Arrays
    states: list[dict[str, np.ndarray]]


def rule(name: str) -> Algorithm:
    """Return an algorithm or a wrapped one by name."""
    outer, _, inner = name.rstrip(")").partition("(")
    return WRAPPERS[outer](ALGORITHMS[inner]) if inner else ALGORITHMS[name]


SHAPES: dict[str, tuple[int, ...]] = {
    "even": (8, 3),
    "uneven": (7, 5),
    "columns": (4, 3),
    "one row": (1, 9),  # all but one process have nothing of it
    "vector": (6,),
    "replicated": (4, 6),
    "scalar": (),
    "empty": (0, 2),
    "plain": (5, 2),
}


def mesh_of(*shape: int) -> Any:
    """Return a mesh of all processes."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", shape, mesh_dim_names=tuple("abc"[: len(shape)]))


def placements_of(mesh: Any) -> dict[str, list[Any] | None]:
    """Return how each of :data:`SHAPES` is placed; ``None``: as a plain tensor."""
    from torch.distributed.tensor import Replicate, Shard

    first: dict[str, list[Any] | None] = {
        "even": [Shard(0)],
        "uneven": [Shard(0)],
        "columns": [Shard(1)],
        "one row": [Shard(0)],
        "vector": [Shard(0)],
        "replicated": [Replicate()],
        "scalar": [Replicate()],
        "empty": [Shard(0)],
        "plain": None,
    }
    if mesh.ndim == 1:
        return first
    other = {
        "even": [Replicate(), Shard(0)],
        "uneven": [Shard(0), Shard(1)],
        "columns": [Shard(1), Replicate()],
        "one row": [Shard(0), Shard(0)],
        "vector": [Shard(0), Shard(0)],
    }
    return {k: other.get(k, v and [*v, Replicate()]) for k, v in first.items()}


def distributed(x: np.ndarray, mesh: Any, placements: list[Any] | None) -> Any:
    """Return an array as a tensor so placed."""
    from torch.distributed.tensor import distribute_tensor

    tensor = torch.from_numpy(np.array(x))
    return tensor if placements is None else distribute_tensor(tensor, mesh, placements)


def whole(x: torch.Tensor) -> np.ndarray:
    """Return a tensor, put together, as an array."""
    x = x.detach()
    return (x.full_tensor() if hasattr(x, "full_tensor") else x).numpy()


def assert_same(found: Any, expected: Any, what: str) -> None:
    """Hold arrays against each other: the same bits, but any NaN is any NaN, and 0 is -0."""
    np.testing.assert_array_equal(found, expected, err_msg=what)
    assert found.dtype == expected.dtype, what


def optimizer_of(case: Case, params: Any, **more: Any) -> Any:
    """Return an optimizer of a case; ``muon + adamw``: matrices, and the rest in a second group."""
    from optstudy_torch import from_core

    first, _, rest = case.name.partition(" + ")
    if rest:
        params = list(params)
        matrices, others = ([p for p in params if (p.ndim > 1) == two] for two in (True, False))
        params = [{"params": matrices}, {"params": others, "algorithm": rest, **case.given}]
    return from_core(rule(first))(params, dialect=case.dialect, **case.given | more)


def inputs_of(case: Case, params: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Return what the algorithm is given besides the gradients."""
    given = {"value": 1.0, "hessian": [torch.ones_like(p) for p in params]}
    return {name: given[name] for part in case.name.split(" + ") for name in rule(part).inputs}


def check_states(optimizer: Any, params: Sequence[Any], case: Case) -> None:
    """Hold states against NumPy's; those like a parameter are placed like it."""
    for p, own in zip(params, case.states, strict=True):
        found = optimizer.state[p]
        assert found.keys() == own.keys(), case.name
        for name, x in found.items():
            assert_same(whole(x), own[name], f"{case.name} {name}")
            like = x.shape == p.shape and x.ndim and hasattr(p, "placements")
            assert hasattr(x, "placements") == bool(like), f"{case.name} {name}"
            if like:
                assert (x.device_mesh, x.placements) == (p.device_mesh, p.placements)


def trainings(cases: Sequence[Case], *shape: int, **more: Any) -> None:
    """Train with every placement of a mesh of that shape; gradients of matrices are Partial."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh = mesh_of(*shape)
    places = list(placements_of(mesh).values())
    for case in cases:
        begin = (distributed(x, mesh, where) for x, where in zip(case.begin, places, strict=True))
        params = [torch.nn.Parameter(x) for x in begin]
        optimizer = optimizer_of(case, params, **more)
        for grads in case.grads:
            for p, g, where in zip(params, grads, places, strict=True):
                p.grad = distributed(g, mesh, where)
                if where is not None and p.ndim == 2:  # still to be summed
                    local = p.grad.redistribute(mesh, [Replicate()] * mesh.ndim).to_local()
                    own = local if mesh.get_local_rank(0) == 0 else 0 * local
                    partly = [Partial(), *[Replicate()] * (mesh.ndim - 1)]
                    p.grad = DTensor.from_local(own, mesh, partly, run_check=False)
            optimizer.step(None, **inputs_of(case, params))
        for p, end, name in zip(params, case.ends, SHAPES, strict=True):
            assert_same(whole(p), end, f"{case.name} {name}")
        check_states(optimizer, params, case)


def use_torch_operations(patch: pytest.MonkeyPatch) -> None:
    """Let optimizers compute with torch's operations on the CPU, as they do on other devices."""
    from optstudy_torch import _plans, _shapes
    from optstudy_torch.engine import dispatch, stages

    patch.setattr(dispatch, "KERNELS", {})
    patch.setattr(stages, "HOST", "")
    patch.setattr(_shapes, "HOST", "")
    patch.setattr(_plans, "_MACHINES", _plans.Recent(64))


def with_torch_operations(function: Callable[[], None]) -> None:
    """Call a function while that is so."""
    with pytest.MonkeyPatch.context() as patch:
        use_torch_operations(patch)
        function()


def worker(function: Callable[..., None], *args: Any, **given: Any) -> Callable[[], None]:
    """Return a function of no arguments that can be sent to a process."""
    return functools.partial(function, *args, **given)


def in_turn(*workers: Callable[[], None]) -> None:
    """Run workers, one after the other."""
    for each in workers:
        each()


# Checkpoints.

LAYERS: dict[str, tuple[int, ...]] = {"w": (7, 5), "row": (1, 9), "b": (6,), "u": (4, 3, 2)}
"""Parameters of a model, one of which some processes have nothing of."""


class Model(torch.nn.Module):
    """Parameters of :data:`LAYERS`, sharded by FSDP2 if there are processes."""

    def __init__(self, begin: Sequence[np.ndarray]) -> None:
        super().__init__()
        for name, x in zip(LAYERS, begin, strict=True):
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(np.array(x))))
        if torch.distributed.is_initialized():
            from torch.distributed.fsdp import fully_shard

            fully_shard(self)

    def give(self, grads: Arrays) -> None:
        """Let the parameters have gradients."""
        for p, g in zip(self.parameters(), grads, strict=True):
            shared: Any = p
            place = getattr(shared, "placements", None)
            p.grad = distributed(g, shared.device_mesh if place else None, place)

    def step(self, optimizer: Any, case: Case, grads: Arrays) -> None:
        """Take a step with gradients."""
        self.give(grads)
        optimizer.step(None, **inputs_of(case, list(self.parameters())))


WAYS: dict[str, dict[str, bool]] = {
    "full": {"full_state_dict": True, "cpu_offload": True},
    "flat": {"flatten_optimizer_state_dict": True},
    "nested": {},
}
"""Options of ``torch.distributed.checkpoint``, by name; saved in this order."""


def saved(cases: Sequence[Case], folder: Path, *ways: str) -> None:
    """Train the first half of cases, and save them all."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    runs = {}
    for case in cases:
        model, optimizer = runs[case.name] = _begun(case, case.begin)
        for grads in case.grads[: len(case.grads) // 2]:
            model.step(optimizer, case, grads)
    for way in ways:
        options = StateDictOptions(**WAYS[way])
        kept = {name: _states(*run, options) for name, run in runs.items()}
        if way == "nested":  # training goes on while it is saved
            # Steps and the thread that saves wait for each other in one group.
            own = torch.distributed.new_group(backend="gloo")
            saving: Any = dcp.async_save(kept, checkpoint_id=folder / way, process_group=own)
            for case in cases:
                model, optimizer = runs[case.name]
                model.step(optimizer, case, case.grads[-1])
            saving.result()
        elif way != "full":
            dcp.save(kept, checkpoint_id=folder / way)
        elif torch.distributed.get_rank() == 0:
            torch.save(kept, folder / way)


def loaded(cases: Sequence[Case], folder: Path, *ways: str) -> None:
    """Load what was saved into new models, train the second half, and compare."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    for way in ways:
        options = StateDictOptions(**WAYS[way])
        runs = {case.name: _begun(case, [0 * x for x in case.begin]) for case in cases}
        if way == "full":
            kept = torch.load(folder / way, weights_only=True)
        else:
            kept = {name: _states(*run, options) for name, run in runs.items()}
            alone = not torch.distributed.is_initialized()
            dcp.load(kept, checkpoint_id=folder / way, no_dist=alone)
        for case in cases:
            model, optimizer = runs[case.name]
            own = kept[case.name]
            set_state_dict(
                model,
                optimizer,
                model_state_dict=own["model"],
                optim_state_dict=own["optim"],
                options=options,
            )
            for grads in case.grads[len(case.grads) // 2 :]:
                model.step(optimizer, case, grads)
            params = list(model.parameters())
            for p, end, name in zip(params, case.ends, LAYERS, strict=True):
                assert_same(whole(p), end, f"{case.name} {way} {name}")
            check_states(optimizer, params, case)


def _begun(case: Case, begin: Arrays) -> tuple[Model, Any]:
    model = Model(begin)
    return model, optimizer_of(case, model.parameters())


def _states(model: Model, optimizer: Any, options: Any) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    states = get_state_dict(model, optimizer, options=options)
    return dict(zip(("model", "optim"), states, strict=True))


# What is sent.


def sent(cases: Sequence[Case], expected: Sequence[Sequence[dict[str, int]]]) -> None:
    """Count what each step sends, by the kind of communication: of a :class:`Model` under FSDP2."""
    from torch.distributed.tensor.debug import CommDebugMode

    for case, steps in zip(cases, expected, strict=True):
        model = Model(case.begin)
        optimizer = optimizer_of(case, model.parameters())
        for grads, counts in zip(case.grads, steps, strict=True):
            model.give(grads)
            inputs = inputs_of(case, list(model.parameters()))
            with CommDebugMode() as mode:
                optimizer.step(None, **inputs)
            found = {op.__name__.partition(".")[0]: n for op, n in mode.get_comm_counts().items()}
            assert found == counts, (case.name, found)


# Every way to train on several processes.


def _network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers = torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5), torch.nn.LayerNorm(5)
    return torch.nn.Sequential(*layers)


def _ddp(model: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.parallel.DistributedDataParallel(model)


def _fsdp2(model: torch.nn.Sequential) -> torch.nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model[0])
    fully_shard(model)
    return model


def _hsdp(model: torch.nn.Module) -> torch.nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=mesh_of(torch.distributed.get_world_size() // 2, 2))
    return model


def _tensor_parallel(model: torch.nn.Module, mesh: Any = None) -> torch.nn.Module:
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    plan = {
        "0": ColwiseParallel(),
        "2": RowwiseParallel(output_layouts=Shard(0)),
        "3": SequenceParallel(sequence_dim=0),
    }
    mesh = mesh or mesh_of(torch.distributed.get_world_size())
    return parallelize_module(model, mesh, plan)


def _tensor_parallel_and_fsdp2(model: torch.nn.Module) -> torch.nn.Module:
    from torch.distributed.fsdp import fully_shard

    mesh = mesh_of(torch.distributed.get_world_size() // 2, 2)
    fully_shard(_tensor_parallel(model, mesh["b"]), mesh=mesh["a"])
    return model


def _fsdp1(model: torch.nn.Module) -> torch.nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))


WAYS_TO_TRAIN: dict[str, Callable[[Any], torch.nn.Module]] = {
    "DDP": _ddp,
    "FSDP2": _fsdp2,
    "HSDP": _hsdp,
    "TP": _tensor_parallel,
    "TP and FSDP2": _tensor_parallel_and_fsdp2,
    "FSDP1": _fsdp1,
    "ZeRO": _ddp,
}
"""What makes a network one of several processes, by the name of the way."""


def ways_to_train(cells: Sequence[tuple[str, str, str]]) -> None:
    """Hold trainings against those of whole tensors in one process.

    Args:
        cells: a key of :data:`WAYS_TO_TRAIN`, an algorithm, and what it is told if it is refused.
    """
    for way, name, refusal in cells:
        model = WAYS_TO_TRAIN[way](_network())
        if not refusal:
            _train(way, model, name)
            continue
        with pytest.raises(ValueError, match=refusal):
            _optimizer_for(way, model, name)


def _optimizer_for(way: str, model: torch.nn.Module, name: str) -> Any:
    from optstudy_torch import from_core

    if way != "ZeRO":
        return from_core(rule(name))(model.parameters())
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(model.parameters(), optimizer_class=from_core(rule(name)))


def _train(way: str, model: torch.nn.Module, name: str) -> None:
    from optstudy_torch import from_core

    optimizer = _optimizer_for(way, model, name)
    alone = [torch.nn.Parameter(torch.from_numpy(x)) for x in _read(way, model)]
    single = from_core(rule(name))(alone)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        optimizer.zero_grad()
        loss: Any = model(x)
        loss = (loss**2).mean()
        (loss.full_tensor() if hasattr(loss, "full_tensor") else loss).backward()
        for p, g in zip(alone, _read(way, model, grads=True), strict=True):
            p.grad = torch.from_numpy(g)
        optimizer.step()
        single.step()
        for p, end in zip(alone, _read(way, model), strict=True):
            assert_same(end, whole(p), f"{way} {name}")


def _read(way: str, model: torch.nn.Module, grads: bool = False) -> Arrays:
    """Return copies of the whole parameters, or of their gradients."""
    if way != "FSDP1":
        found: list[Any] = [p.grad if grads else p for p in model.parameters()]
        return [whole(x.detach().clone()) for x in found]
    from torch.distributed.fsdp import FullyShardedDataParallel

    with FullyShardedDataParallel.summon_full_params(model, writeback=False, with_grads=grads):
        found = [p.grad if grads else p for p in model.parameters()]
        # Copies first: storage that NumPy has seen cannot be resized, as FSDP1 does.
        return [whole(x.detach().clone()) for x in found]
