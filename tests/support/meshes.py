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
import torch

from optstudy_core import ALGORITHMS, WRAPPERS, Algorithm

Arrays = list[np.ndarray]


def on_processes(worker: Callable[[], None], processes: int, folder: Path) -> None:
    """Run a function on several processes, which have a group together."""
    # All are forked from one process, which has imported for seconds what each of them needs.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.fsdp", "torch.distributed.checkpoint"])
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
    "columns": (3, 5),
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
    """Return an optimizer of a case."""
    from optstudy_torch import from_core

    return from_core(rule(case.name))(params, dialect=case.dialect, **case.given | more)


def inputs_of(case: Case, params: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Return what the algorithm is given besides the gradients."""
    given = {"value": 1.0, "hessian": [torch.ones_like(p) for p in params]}
    return {name: given[name] for name in rule(case.name).inputs}


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


def worker(function: Callable[..., None], *args: Any, **given: Any) -> Callable[[], None]:
    """Return a function of no arguments that can be sent to a process."""
    return functools.partial(function, *args, **given)
