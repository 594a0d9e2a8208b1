"""Optimizers on meshes of processes: parameters and states have the bits of one process.

Read `docs/beyond_one_process.md` beside it: each cell of its table is one of :data:`TABLE` here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mesh_corners
import meshes
import numpy as np
import pytest
import torch
from adapters import LR, RULES, reference
from harness import ROOT, draw, inputs_for, slow, start

from optstudy_torch import from_core

QUICK = ["adamw", "dog", "sm3", "clipped(adamuon)"]
"""Rules of each kind; the state of one begins with a norm."""


NO_GROUP = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
"""A checkpoint that is loaded in one process, as is intended."""


def dialect_of(name: str, dialect: str | None) -> str | None:
    """Return a dialect of the same values, in which Muon takes vectors."""
    return None if (name, dialect) == ("muon", "torch") else dialect


def cases(
    names: Iterable[str],
    shapes: Mapping[str, tuple[int, ...]] = meshes.SHAPES,
    steps: int = 10,
    dtype: Any = np.float32,
) -> list[meshes.Case]:
    """Return trainings of rules, with what NumPy makes of them."""
    found = []
    for name in names:
        begin = start(list(shapes.values()), dtype=dtype)
        grads = draw(list(shapes.values()), steps, dtype=dtype)
        given = {"lr": LR} if "lr" in RULES[name].defaults() else {}
        dialect = dialect_of(name, RULES[name].default_dialect)
        ends = reference(name, dialect, begin, grads)
        found.append(meshes.Case(name, dialect, given, begin, grads, *ends))
    return found


def of_two(first: str, rest: str, steps: int) -> meshes.Case:
    """Return a training of matrices by one rule, and of all else by another, in one optimizer."""
    pair = [cases([name], meshes.LAYERS, steps)[0] for name in (first, rest)]
    two = [len(shape) > 1 for shape in meshes.LAYERS.values()]
    ends, states = (
        [own[0] if matrix else own[1] for matrix, *own in zip(two, *both, strict=True)]
        for both in ([c.ends for c in pair], [c.states for c in pair])
    )
    return pair[0]._replace(name=f"{first} + {rest}", ends=ends, states=states)


FLAT, SOME = "flat parameters of FSDP1", "some of the parameters"
"""Of messages, why a rule is refused."""

TWO, FOUR = {"allreduce_": 2}, {"allreduce_": 4}
ONCE, AND_BACK = {"alltoall_base_": 1}, {"alltoall_base_": 2}
BEGINS = {"all_gather_into_tensor": 4}  # a state begins with what its parameter is
SENT: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "adamw": ({}, {}),
    "sophia": ({}, {}),
    "lamb": (TWO, TWO),
    "dog": (FOUR, TWO),
    "momo": (TWO, TWO),
    "sm3": (BEGINS | ONCE, ONCE),
    "muon": (BEGINS | AND_BACK, AND_BACK),
    "shampoo": (BEGINS | AND_BACK, AND_BACK),
}
"""What the first step and the second send of four tensors.

Elementwise rules send nothing, sums two reductions a phase (that of a norm in the first state is
one more), rules of rows and columns all pieces at once, those of matrices the results as well.
"""


@NO_GROUP
def test_two_processes_and_a_checkpoint_for_one(tmp_path: Path) -> None:
    kept = [*cases([*QUICK, "momo"], meshes.LAYERS, 4), of_two("muon", "adamw", 4)]
    sent = cases(SENT, meshes.LAYERS, 2)
    quick = meshes.worker(
        meshes.in_turn,
        meshes.worker(meshes.trainings, cases(QUICK, steps=4), 2),
        meshes.worker(meshes.sent, sent, list(SENT.values())),
        meshes.worker(meshes.saved, kept, tmp_path, "full", "nested"),
        meshes.worker(meshes.ways_to_train, [("ZeRO", "dog", SOME)]),
        *mesh_corners.CORNERS,
    )
    meshes.on_processes(quick, 2, tmp_path)
    meshes.loaded(kept, tmp_path, "full", "nested")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (2, 2)], ids=str)
def test_every_rule_with_every_placement(shape: tuple[int, ...], tmp_path: Path) -> None:
    every = meshes.worker(meshes.trainings, cases(RULES), *shape)
    meshes.on_processes(every, math.prod(shape), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [True, False])
def test_kernels_and_operations(compiled: bool, tmp_path: Path) -> None:
    some = cases([*QUICK, "lamb", "prodigy", "novograd", "momo"], steps=3, dtype=np.float64)
    every = meshes.worker(meshes.trainings, some, 2, compile=compiled)
    meshes.on_processes(every, 2, tmp_path)


@pytest.mark.slow
def test_operations_of_torch(tmp_path: Path) -> None:
    some = meshes.worker(meshes.trainings, cases(RULES, steps=3), 2)
    meshes.on_processes(meshes.worker(meshes.with_torch_operations, some), 2, tmp_path)


# The table of the documentation.

TABLE: dict[str, tuple[str, str, str]] = {
    "DDP": ("", "", ""),
    "FSDP2": ("", "", ""),
    "HSDP": ("", "", ""),
    "TP": ("", "", ""),
    "TP and FSDP2": ("", "", ""),
    "FSDP1": ("", FLAT, FLAT),
    "ZeRO": ("", SOME, ""),
}
"""For an elementwise rule, one with sums and one of rows and columns, what a refusal says."""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_every_cell_of_the_table(processes: int, tmp_path: Path) -> None:
    cells = [
        (way, name, refusal)
        for way, row in TABLE.items()
        for name, refusal in zip(QUICK[:3], row, strict=True)
    ]
    meshes.on_processes(meshes.worker(meshes.ways_to_train, cells), processes, tmp_path)


# Checkpoints.


@NO_GROUP
@pytest.mark.slow
@pytest.mark.parametrize(("processes", "fewer"), [(2, 1), (4, 2)])
def test_checkpoints_of_every_rule(processes: int, fewer: int, tmp_path: Path) -> None:
    every = cases(RULES, meshes.LAYERS, 4)
    save = meshes.worker(meshes.saved, every, tmp_path, *meshes.WAYS)
    meshes.on_processes(save, processes, tmp_path)
    load = meshes.worker(meshes.loaded, every, tmp_path, "nested", "flat")
    meshes.on_processes(load, fewer, tmp_path)
    # In one process, not sharded.
    meshes.loaded(every, tmp_path, "nested", "flat")
    arrays = {c.name for c in every if any(x.ndim for own in c.states for x in own.values())}
    meshes.loaded([c for c in every if c.name in arrays], tmp_path, "full")  # torch wants some


SMALL = [(3, 4), (5,), ()]


def primed(name: str, dialect: str | None = None, how: str = "by hand") -> Any:
    """Return an optimizer whose states began before the first step, and its parameters."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = torch.nn.ParameterList(map(torch.from_numpy, start(SMALL)))
    optimizer = from_core(RULES[name])(model.parameters(), dialect=dialect)
    if how == "by torch":
        get_optimizer_state_dict(model, optimizer)
        return optimizer, list(model)
    for p in model:
        p.grad = torch.zeros_like(p)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step(closure=None)
    return optimizer, list(model)


@pytest.mark.parametrize("name", [n if n in ("momo", "dog") else slow(n) for n in RULES])
def test_states_begin_without_a_step(name: str) -> None:
    rule = RULES[name]
    for dialect in (dialect_of(name, d) for d in rule.dialects or [None]):
        optimizer, params = primed(name, dialect, "by torch")
        begin = [torch.from_numpy(x) for x in start(SMALL)]
        for p, x in zip(params, begin, strict=True):
            assert torch.equal(p, x)
        other = from_core(rule)(begin, dialect=dialect)
        for x in begin:
            x.grad = torch.ones_like(x)
        for p in params:
            p.grad = torch.ones_like(p)
        for made, own in ((optimizer, params), (other, begin)):
            made.step(None, **inputs_for(rule, own))
        for p, x in zip(params, begin, strict=True):  # as if the states had begun there
            assert torch.equal(p, x)


@pytest.mark.parametrize("what", ["rate", "gradient", "state"])
def test_a_missing_input_is_refused_but_for_a_beginning(what: str) -> None:
    optimizer, params = primed("momo", how="by hand")
    if what != "state":
        optimizer.state.clear()
    if what == "rate":
        optimizer.param_groups[0]["lr"] = 0.1
    elif what == "gradient":
        params[2].grad = torch.ones(())
    with pytest.raises(TypeError, match="momo without value"):
        optimizer.step(closure=None)


def test_every_parameter_has_a_saved_state_once_one_has() -> None:
    params = [torch.nn.Parameter(torch.ones(n)) for n in (2, 3, 4)]
    params[2].requires_grad = False
    optimizer = from_core("dog")(params)
    assert not optimizer.state_dict()["state"]
    params[0].grad = torch.ones(2)
    optimizer.step()
    saved = optimizer.state_dict()["state"]
    assert saved.keys() == {0, 1}
    assert torch.equal(saved[1]["x0"], torch.ones(3))
    assert params[1] not in optimizer.state


def test_tuples_that_come_back_as_lists_are_loaded() -> None:
    def listed(x: Any) -> Any:
        return list(map(listed, x)) if isinstance(x, tuple) else x

    p = torch.nn.Parameter(torch.ones(3, 2))
    first, second = (from_core("muon")([p], lr=0.5) for _ in range(2))
    saved = first.state_dict()
    assert isinstance(saved["param_groups"][0]["ns_coefficients"], tuple)
    group = {k: listed(v) for k, v in saved["param_groups"][0].items()}
    second.load_state_dict(saved | {"param_groups": [group]})
    assert second.param_groups[0] == first.param_groups[0]
    p.grad = torch.ones(3, 2)
    second.step()


# Flat parameters.


@pytest.mark.parametrize("name", ["adamw", "lamb", "sm3"])
def test_vectors_instead_of_matrices_are_refused_where_they_matter(name: str) -> None:
    optimizer = from_core(name)([torch.nn.Parameter(torch.ones(3, 2))])
    flat = torch.nn.Parameter(torch.ones(6))
    flat.grad = torch.ones(6)
    optimizer.param_groups[0]["params"] = [flat]
    if name == "adamw":
        optimizer.step()
        return
    with pytest.raises(ValueError, match=f"{name} with flat parameters .* DeepSpeed"):
        optimizer.step()
    assert torch.equal(flat, torch.ones(6))
    assert not optimizer.state.get(flat)


@pytest.mark.parametrize("name", ["adamw", "lamb", "sm3"])
def test_flat_parameters_of_fsdp1_are_refused_where_they_matter(name: str) -> None:
    flat = torch.nn.Parameter(torch.ones(6))
    flat._fsdp_flattened = True  # type: ignore[attr-defined]
    if name == "adamw":
        from_core(name)([flat])
        return
    with pytest.raises(ValueError, match=f"{name} with flat parameters of FSDP1"):
        from_core(name)([flat])


# The page.


def test_the_page_has_the_table() -> None:
    page = (ROOT / "docs" / "beyond_one_process.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    cells = {re.sub(r" \(.*|, .*", "", way.strip()): own for way, *own in rows if len(own) == 3}
    found = {way: tuple("refused" in cell for cell in own) for way, own in cells.items() if way}
    tested = {way: tuple(map(bool, row)) for way, row in TABLE.items()}
    assert found == tested | {"DCP": (False, False, False)}
