"""Steps of JAX, compiled by XLA for a GPU that need not be there; `make test-xla-gpu` runs them.

Every operation has to be rounded once: PTX, the code that XLA makes, must not contract a product
and a sum (``fma``), approximate a quotient or a root (``approx``), or flush subnormals (``ftz``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from adapters import LR, RULES
from harness import inputs_for
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import optstudy_jax
from benchmarks.gpu.speed import gpt2

pytest.importorskip("jax_plugins.xla_cuda12", reason="make test-xla-gpu installs XLA for GPUs")

H200 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H200"
dnn_version_info { major: 9 minor: 10 patch: 2 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  memory_bandwidth: 4800000000000
  device_memory_size: 150754820096
}
"""
"""The properties of the card that XLA asks for (data sheet, CUDA programming guide)."""


@pytest.fixture(scope="module")
def place() -> NamedSharding:
    card = topologies.get_topology_desc("", "cuda", target_config=H200, topology="1x1x1")
    return NamedSharding(Mesh(np.array(card.devices), ("x",)), PartitionSpec())


def compiled(tx: Any, params: Any, place: NamedSharding, folder: Path, **more: Any) -> Any:
    """Return the compiled step of a transformation; its PTX is in the folder."""

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    def step(params: Any, state: Any, grads: Any, more: Any) -> Any:
        updates, state = tx.update(grads, state, params, **more)
        return optax.apply_updates(params, updates), state

    own = shapes(params)
    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=place)
    lowered = jitted.lower(own, shapes(jax.eval_shape(tx.init, own)), own, shapes(more))
    return lowered.compile(compiler_options={"xla_dump_to": str(folder)})


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", sorted(RULES))
def test_every_operation_is_rounded_once(
    name: str, dtype: str, place: NamedSharding, tmp_path: Path
) -> None:
    rule = RULES[name]
    rate = {"learning_rate": LR} if "lr" in rule.defaults() else {}
    tx = optax.with_extra_args_support(optstudy_jax.from_core(rule)(**rate))
    with jax.enable_x64(dtype == "float64"):
        params = {"w": jnp.ones((16, 24), dtype), "b": jnp.ones(24, dtype)}
        more = {"value": jnp.ones(())} | inputs_for(rule, params)
        compiled(tx, params, place, tmp_path, **more)
    code = "".join(file.read_text() for file in tmp_path.glob("*.ptx"))
    assert ".visible .entry" in code
    assert not set(re.findall(r"\S*(?:\bfma\b|approx|\.ftz)\S*", code))


def test_what_is_searched_for_is_found(place: NamedSharding, tmp_path: Path) -> None:
    """The same step of optax has all three."""
    compiled(optax.adamw(LR), {"w": jnp.ones((16, 24))}, place, tmp_path)
    code = "".join(file.read_text() for file in tmp_path.glob("*.ptx"))
    found = set(re.findall(r"\S*(?:\bfma\b|approx|\.ftz)\S*", code))
    assert all(any(part in word for word in found) for part in ("fma", "approx", "ftz"))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lion"])
def test_a_step_of_148_tensors_launches_no_more_kernels_than_optax(
    name: str, place: NamedSharding, tmp_path: Path
) -> None:
    params = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place) for shape in gpt2()]
    ours, theirs = (
        launches(compiled(getattr(module, name)(LR), params, place, tmp_path / kind).as_text())
        for kind, module in (("ours", optstudy_jax), ("optax", optax))
    )
    assert ours <= theirs


@pytest.mark.parametrize(("size", "ints"), [(1536, True), (1024, False)])
def test_large_products_of_muon_are_of_int8_and_rounded_once(
    size: int, ints: bool, place: NamedSharding, tmp_path: Path
) -> None:
    tx = optax.with_extra_args_support(optstudy_jax.muon(LR))
    text = compiled(tx, {"w": jnp.ones((size, size))}, place, tmp_path).as_text()
    products = [line for line in text.splitlines() if " dot(" in line or "__cublas" in line]
    kinds = {re.findall(r" = \(?(\w+)\[", line)[0] for line in products}
    assert kinds == ({"s32"} if ints else {"f64"})
    code = "".join(file.read_text() for file in tmp_path.glob("*.ptx"))
    assert not set(re.findall(r"\S*(?:\bfma\b|approx|\.ftz)\S*", code))


_NOTHING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}


def launches(text: str) -> int:
    """Return the number of kernels and copies that a compiled program launches."""
    bodies: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if opened := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = "ENTRY" if opened[1] else opened[2]
            bodies[name] = []
        elif name and " = " in line:
            bodies[name].append(line)

    def of(body: str) -> int:
        total = 0
        for line in bodies[body]:
            (operation,) = re.findall(r"^\s*(?:ROOT )?\S+ = (?:\(.*?\)|\S+) ([\w-]+)\(", line)
            if operation == "while":
                (turns,) = re.findall(r'"known_trip_count":\{"n":"(\d+)"\}', line)
                (inner,) = re.findall(r"body=%?([\w.-]+)", line)
                total += int(turns) * of(inner)
            elif operation not in _NOTHING:
                total += 1
        return total

    return of("ENTRY")
