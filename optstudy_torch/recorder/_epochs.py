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


def epoch_row(
    number: int,
    due: core.Chosen,
    layers: Layers,
    sums: Sums,
    vectors: Vectors,
    given: Mapping[str, Any],
    rates: Sequence[float],
    exact: bool,
) -> dict[str, Any]:
    """Return the row of an epoch.

    Args:
        number: the number of the epoch.
        due: the quantities of the row.
        layers: the parameters.
        sums: what measures the profiles, and the plain sums.
        vectors: the vectors that the quantities need.
        given: ``loss``, ``lr`` and the like of the network.
        rates: the learning rate of each group.
        exact: whether norms and angles are from exact sums.
    """
    head, own = {"epoch": number}, [rate_of(rates, group) for group in layers.groups]
    targets, profiles = sums.profiles(due, vectors)

    def named(numbers: Sequence[Any]) -> Any:
        return core.by_layer(dict(zip(targets, numbers, strict=True)), layers.names)

    if exact:
        return core.exact_row(
            head,
            due,
            {u: [formed(x) for x in column] for u, column in vectors.items()},
            given,
            {name: {"lr": rate} for name, rate in zip(layers.names, own, strict=True)},
            on_host if all(map(_is_on_host, layers.params)) else geometry,
            lambda x: to_numpy(whole(x)),
            named(to_host(profiles)),
        )
    blocks = sums.of(due.reductions, vectors)
    values, numbers = to_host([blocks.tensors, profiles])
    layout = blocks.layout
    columns = layout.join(due.reductions, [column[:, None] for column in values], 1)
    plain = core.Sums(columns, in_columns(layout.sizes), {"lr": np.array(own)[:, None]})
    (row,) = core.plain_rows(
        [head], due, plain, layout.present, given, layers.names, [named(numbers)]
    )
    return row


def _is_on_host(p: torch.Tensor) -> bool:
    return p.device.type == "cpu" and not is_shared(p)
