"""What newer versions of JAX have no more."""

from __future__ import annotations

import os
import subprocess
import sys

from harness import ROOT

INIT = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import optstudy_jax
from optstudy_jax import _mesh

_mesh.shard_alike = None
mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
place = NamedSharding(mesh, PartitionSpec("x"))
p = jax.device_put(np.full((8, 3), np.nan, np.float32), place)
fields = [x for x in jax.tree.leaves(jax.jit(optstudy_jax.adam(0.1).init)(p)) if x.shape == p.shape]
assert len(fields) == 2
assert all(x.sharding == place and not np.any(x) for x in fields), fields
"""


def test_a_state_lies_where_the_parameters_lie_without_shard_alike() -> None:
    """JAX 0.12 has none."""
    four = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-W", "error", "-c", INIT], check=True, cwd=ROOT, env=four)
