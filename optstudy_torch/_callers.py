"""Detect the caller: parts of torch that use an optimizer in a special way."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from optstudy_core import Algorithm

from ._flat import INSTEAD

_ZERO = "torch.distributed.optim.zero_redundancy_optimizer"
_CHECKPOINT = "torch.distributed.checkpoint.state_dict"


def check_all_here(algorithm: Algorithm) -> None:
    """Refuse a rule with sums over all parameters inside ``ZeroRedundancyOptimizer``.

    Raises:
        ValueError: if the rule is used there; the message names the algorithm.
    """
    kind: Any = getattr(sys.modules.get(_ZERO), "ZeroRedundancyOptimizer", None)
    if kind is None:
        return
    owners = (frame.f_locals.get("self") for frame in _frames())
    zero = next((owner for owner in owners if isinstance(owner, kind)), None)
    if zero is not None and zero.world_size > 1 and algorithm.has_global_sums:
        raise ValueError(
            f"{algorithm.name} in ZeroRedundancyOptimizer, which gives it some of the parameters, "
            f"but it sums over all of them: {INSTEAD}"
        )


def is_asked_by_checkpoint() -> bool:
    """Return whether torch.distributed.checkpoint calls, to initialize states."""
    if _CHECKPOINT not in sys.modules:
        return False
    places = ((f.f_globals.get("__name__"), f.f_code.co_name) for f in _frames())
    return (_CHECKPOINT, "_init_optim_state") in places


def _frames() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
