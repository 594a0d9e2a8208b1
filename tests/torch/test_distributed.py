"""Norms and angles of sharded parameters: the bits of one device."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import meshes
import numpy as np
import pytest
import torch
from meshes import on_processes

from optstudy_core import geometry


def entries(seed: int, *shape: int) -> np.ndarray:
    """Numbers over 14 decades of both signs, with zeros."""
    rng = np.random.default_rng(seed)
    x = 10.0 ** rng.uniform(-7, 7, shape) * rng.choice([-1.0, 0.0, 1.0], shape, p=[0.4, 0.2, 0.4])
    return np.asarray(x).astype(np.float32)


def check_sums(
    sharded: tuple[Any, Any], whole: tuple[Any, Any], *, leaves: bool = True, plain: bool = True
) -> None:
    """Hold the device's and the host's sums of sharded trees to those of whole ones."""
    from optstudy_torch import geometry as ours

    (u, v), (x, y) = sharded, whole
    for name, us, xs in (
        ("total", (u,), (x,)),
        ("norm", (u,), (x,)),
        ("dot", (u, v), (x, y)),
        ("cosine", (u, v), (x, y)),
        ("angle", (u, v), (x, y)),
    ):
        expected = getattr(geometry, name)(*xs)
        found = getattr(ours, name)(*us)
        np.testing.assert_array_equal(float(found), expected, err_msg=name)
        np.testing.assert_array_equal(getattr(geometry, name)(*us), expected, err_msg=name)
        if leaves:
            here = ours.per_leaf(getattr(ours, name), *us)
            there = geometry.per_leaf(getattr(geometry, name), *xs)
            for key in there:
                np.testing.assert_array_equal(float(here[key]), there[key], err_msg=f"{name} {key}")
        if name != "angle":
            assert type(found) is torch.Tensor
            assert (found.shape, found.dtype) == ((), torch.float64)
        if plain:
            # Plain sums of some hundred terms: 2⁻⁵³ of Σ|terms| each.
            scale = 1.0
            if name == "total":
                scale = sum(float(np.abs(a.astype(np.float64)).sum()) for a in x.values())
            elif name in ("norm", "dot"):
                scale = geometry.norm(x) * (geometry.norm(y) if name == "dot" else 1.0)
            value = float(getattr(ours, name)(*us, exact=False))
            assert value == pytest.approx(expected, abs=1e-13 * scale)


def of_dtensors() -> None:
    """Every placement on one mesh of all processes, and what is not finite on one of them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    processes = torch.distributed.get_world_size()
    mesh = init_device_mesh("cpu", (processes,))
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "even": ((8, 3), Shard(0)),
        "uneven": ((7, 5), Shard(0)),
        "columns": ((3, 5), Shard(1)),
        "one row": ((1, 9), Shard(0)),  # all but one process are without a part
        "replicated": ((4, 6), Replicate()),
        "scalar": ((), Replicate()),
        "empty": ((0, 2), Shard(0)),
    }

    def sharded(tree: dict[str, Any]) -> dict[str, Any]:
        return {
            k: distribute_tensor(torch.tensor(x), mesh, [shapes[k][1]]) for k, x in tree.items()
        }

    x = {k: entries(i, *shape) for i, (k, (shape, _)) in enumerate(shapes.items())}
    y = {k: entries(i + 50, *shape) for i, (k, (shape, _)) in enumerate(shapes.items())}
    check_sums((sharded(x), sharded(y)), (x, y))
    for bad in (math.nan, math.inf, -math.inf):
        x["uneven"][6, 4] = bad
        check_sums((sharded(x), sharded(y)), (x, y), leaves=False, plain=False)
    x["uneven"][6, 3] = math.inf
    check_sums((sharded(x), sharded(y)), (x, y), leaves=False, plain=False)

    # Float64 of any size, zeros, and leaves that no mesh knows.
    x, y = ({k: a.astype(np.float64) * 1e300 for k, a in tree.items()} for tree in (x, y))
    x["uneven"][6] = 0
    u, v = sharded(x), sharded(y)
    x["own"] = y["own"] = np.float64([1e-300, 2.0])
    u["own"] = v["own"] = torch.tensor(x["own"])
    check_sums((u, v), (x, y), plain=False)  # which would overflow
    nothing = ({k: 0 * a for k, a in u.items()}, {k: 0 * a for k, a in x.items()})
    check_sums((nothing[0], v), (nothing[1], y), leaves=False, plain=False)

    # A tensor that is still to be summed over the processes, and one split in another direction.
    from optstudy_torch import geometry as ours

    parts = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    assert ours.norm(parts).item() == geometry.norm(np.full(3, processes, np.float32))
    other = distribute_tensor(torch.tensor(y["uneven"]), mesh, [Shard(1)])
    assert ours.dot(u["uneven"], other).item() == geometry.dot(x["uneven"], y["uneven"])
    with pytest.raises(ValueError, match="two sharded ones"):
        ours.dot(u["uneven"], torch.tensor(y["uneven"]))


def of_two_dimensions() -> None:
    """Hybrid sharding: replicated over one dimension of a mesh, or sharded over both."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2, 2))
    placements = {
        "hybrid": [Replicate(), Shard(0)],
        "blocks": [Shard(0), Shard(1)],
        "rows": [Shard(0), Shard(0)],
        "everywhere": [Replicate(), Replicate()],
    }
    x = {k: entries(i, 7, 5) for i, k in enumerate(placements)}
    y = {k: entries(i + 50, 7, 5) for i, k in enumerate(placements)}
    u, v = (
        {k: distribute_tensor(torch.tensor(a), mesh, placements[k]) for k, a in tree.items()}
        for tree in (x, y)
    )
    check_sums((u, v), (x, y))


def of_training() -> None:
    """Steps of an MLP under ``fully_shard`` are measured as on one device."""
    from torch.distributed.fsdp import fully_shard

    from optstudy_torch import geometry as ours

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 7), torch.randn(16, 3)
    steps = []
    for _ in range(2):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        steps.append([p.detach() - b for p, b in zip(model.parameters(), before, strict=True)])
    whole = [[p.full_tensor().numpy() for p in step] for step in steps]
    assert ours.norm(list(model.parameters())).item() > 0
    for name in ("dot", "cosine", "angle"):
        found, expected = getattr(ours, name)(*steps), getattr(geometry, name)(*whole)
        assert float(found) == expected


@pytest.mark.slow
def test_every_placement_on_two_processes(tmp_path: Path) -> None:
    on_processes(of_dtensors, 2, tmp_path)


def test_training_sharded_over_two_processes(tmp_path: Path) -> None:
    on_processes(of_training, 2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("worker", [of_dtensors, of_two_dimensions, of_training])
def test_four_processes(worker: Any, tmp_path: Path) -> None:
    on_processes(worker, 4, tmp_path)


JAX = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from optstudy_core import geometry
from optstudy_jax import geometry as ours
from test_distributed import entries

auto = jax.sharding.AxisType.Auto
mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(auto, auto))
specs = {
    "blocks": ((6, 8), P("a", "b")),
    "rows": ((16, 3), P(("a", "b"))),
    "hybrid": ((3, 12), P(None, "b")),
    "replicated": ((5, 7), P()),
    "scalar": ((), P()),
}
uneven = {"uneven": ((7, 5), P("b")), "one row": ((1, 9), P("a"))}
names = dict(total=1, norm=1, dot=2, cosine=2, chords=2)

def same(found, whole):
    for name, count in names.items():
        core = geometry.angle if name == "chords" else getattr(geometry, name)
        value, leaves = found[name]
        read = (lambda c: geometry.angle_from_chords(*map(float, c))) if name == "chords" else float
        np.testing.assert_array_equal(read(value), core(*whole[:count]), err_msg=name)
        for k in leaves:
            expected = core(*(tree[k] for tree in whole[:count]))
            np.testing.assert_array_equal(read(leaves[k]), expected, err_msg=f"{name} {k}")

def measured(*trees, leaves=()):
    found = {}
    for name, count in names.items():
        function, given = getattr(ours, name), trees[:count]
        found[name] = function(*given), {k: function(*(t[k] for t in given)) for k in leaves}
    return found

@jax.jit
def split_unevenly(*trees):  # device_put refuses it, computed arrays may be so
    split = lambda k, x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, uneven[k][1]))
    return measured(*({k: split(k, x) for k, x in tree.items()} for tree in trees), leaves=uneven)

for case in ("finite", "nan", "inf", "both"):
    whole = []
    for seed in (0, 50):
        tree = {k: entries(seed + i, *shape) for i, (k, (shape, _)) in enumerate(specs.items())}
        whole.append(tree)
    if case == "nan":
        whole[0]["blocks"][5, 7] = np.nan
    if case in ("inf", "both"):
        whole[0]["blocks"][5, 7] = np.inf
    if case == "both":
        whole[0]["blocks"][0, 0] = -np.inf
    put = lambda k, x: jax.device_put(x, NamedSharding(mesh, specs[k][1]))
    sharded = [{k: put(k, x) for k, x in tree.items()} for tree in whole]
    assert len(sharded[0]["blocks"].sharding.device_set) == 8
    same(measured(*sharded), whole)
    if case == "finite":
        same(jax.jit(lambda *trees: measured(*trees, leaves=specs))(*sharded), whole)

whole = [{k: entries(s + i, *shape) for i, (k, (shape, _)) in enumerate(uneven.items())}
         for s in (0, 50)]
same(split_unevenly(*whole), whole)
"""


@pytest.mark.slow
def test_jax_arrays_sharded_over_eight_devices() -> None:
    own = [Path(__file__).parent, Path(meshes.__file__).parent, os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(map(str, own))
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": path,
    }
    subprocess.run([sys.executable, "-c", JAX], check=True, env=env)
