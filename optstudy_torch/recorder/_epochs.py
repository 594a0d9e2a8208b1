"""The row of an epoch, from exact or plain sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from optstudy_core import geometry as on_host
from optstudy_core import instruments as core
from optstudy_core.arrays.passes import to_numpy
from optstudy_torch import geometry
from optstudy_torch._meshes import whole
from optstudy_torch._tensors import is_shared

from ._copies import Vectors
from ._layers import Layers
from ._measuring import Sums, formed
from ._pending import to_host
from ._rows import in_columns, rate_of


def exact_row(
    number: int,
    due: core.Chosen,
    layers: Layers,
    sums: Sums,
    vectors: Vectors,
    given: Mapping[str, Any],
    rates: Sequence[float],
) -> dict[str, Any]:
    """Return the row of an epoch from exact norms and angles.

    Args:
        number: the number of the epoch.
        due: the quantities of the row.
        layers: the parameters.
        sums: what measures the profiles.
        vectors: the vectors that the quantities need.
        given: ``loss``, ``lr`` and the like of the network.
        rates: the learning rate of each group.
    """
    targets, profiles = sums.profiles(due, vectors)
    arrays = {u: [formed(x) for x in column] for u, column in vectors.items()}
    own = {n: {"lr": rate_of(rates, g)} for n, g in zip(layers.names, layers.groups, strict=True)}
    return core.exact_row(
        {"epoch": number},
        due,
        arrays,
        given,
        own,
        on_host if all(map(_is_on_host, layers.params)) else geometry,
        lambda x: to_numpy(whole(x)),
        core.by_layer(dict(zip(targets, to_host(profiles), strict=True)), layers.names),
    )


def plain_row(
    number: int,
    due: core.Chosen,
    layers: Layers,
    sums: Sums,
    vectors: Vectors,
    given: Mapping[str, Any],
    rates: Sequence[float],
) -> dict[str, Any]:
    """Return the same row from plain sums."""
    targets, profiles = sums.profiles(due, vectors)
    blocks = sums.of(due.reductions, vectors)
    values, numbers = to_host([blocks.tensors, profiles])
    values = [column[:, None] for column in values]
    columns = blocks.layout.join(due.reductions, values, 1)
    pairs = core.by_layer(dict(zip(targets, numbers, strict=True)), layers.names)
    lr = np.array([[rate_of(rates, group)] for group in layers.groups])
    plain = core.Sums(columns, in_columns(blocks.layout.sizes), {"lr": lr})
    present = blocks.layout.present
    head = {"epoch": number}
    return core.plain_rows([head], due, plain, present, given, layers.names, [pairs])[0]


def _is_on_host(p: torch.Tensor) -> bool:
    return p.device.type == "cpu" and not is_shared(p)
