"""The table of epoch methods, with strategies for their cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from hypothesis import strategies as st

from optstudy_core import epoch
from parity.case import Special

from .cases import EPOCHS, LEAVES, OPTIMIZERS, STEPS, EpochCase


@dataclass(frozen=True)
class EpochMethod:
    """A method of ``optstudy_core.epoch`` with options for cases.

    Attributes:
        name: the name of the method.
        kind: the function of a backend that runs the method.
        options: some sets of arguments; each set is compiled.
    """

    name: str
    kind: str
    options: tuple[Mapping[str, Any], ...]

    def strategy(self, dtype: str, steps: int, seed: int) -> st.SearchStrategy[EpochCase]:
        """Return a strategy that draws cases of at most ``steps`` epochs (and at most 8)."""
        del seed  # there is no pool that depends on it
        length = max(2, min(steps, EPOCHS))
        finite = st.floats(-4, 4, width=32, allow_subnormal=False)
        loss = finite | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0])
        special = st.builds(
            Special,
            step=st.integers(0, length * STEPS - 1),
            leaf=st.integers(0, LEAVES - 1),
            index=st.integers(0, 20),
            value=st.sampled_from([0.0, 1.0, 1e30, math.nan, math.inf]),
        )
        return st.builds(
            EpochCase,
            structure=st.sampled_from(["nested", "vectors"]),
            dtype=st.just(dtype),
            algorithm=st.sampled_from(OPTIMIZERS),
            options=st.sampled_from(self.options),
            seed=st.integers(0, 2**16),
            # Always the largest length, because each length is compiled.
            losses=st.tuples(*[loss] * length) | st.tuples(*[finite] * length),
            specials=st.lists(special, max_size=1).map(tuple),
        )

    @property
    def module(self) -> ModuleType:
        """The module of the core for a method with a factor on the learning rate."""
        module: ModuleType = getattr(epoch, self.name)
        return module


METHODS: Final[Mapping[str, EpochMethod]] = {
    method.name: method
    for method in (
        EpochMethod(
            "direction",
            "control",
            (
                {"r": 0.3},
                {"r": 0.2, "centred": True},
                {"r": 0.15, "min_lr": 0.03, "max_lr": 0.07},
            ),
        ),
        EpochMethod(
            "careful",
            "control",
            (
                {},
                {"tau": 0.05, "gamma": 0.7, "growth": 1.05, "patience": 2},
                {"reference": "accepted", "rollback": True},
                {"patience": 2, "rollback": True},
            ),
        ),
        EpochMethod(
            "direction_careful",
            "control",
            (
                {"r": 0.3},
                {"r": 0.3, "rollback": True},
                {"r": 0.3, "rollback": True, "patience": 2, "reference": "accepted"},
            ),
        ),
        EpochMethod(
            "eve",
            "eve",
            (
                {"along": "epoch", "search": "grid"},
                {"along": "epoch", "search": "march", "h": 0.25, "marches": 20},
                {"along": "step", "search": "grid", "grid": (0.0, 0.5, 1.0, 3.0)},
                {"along": "step", "search": "march"},
            ),
        ),
        EpochMethod("extrapolation", "move", ({}, {"lr": 0.7})),
        EpochMethod("momentum", "move", ({}, {"lr": 0.5, "beta": 0.8})),
        EpochMethod("backstep", "backstep", ({},)),
    )
}
"""The epoch methods by name."""
