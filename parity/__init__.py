"""The suite that tests that all backends have the same bits: ``python -m parity``.

:func:`check` tests the numerics contract for one algorithm, also for one of your own.
``parity.cases`` has the Hypothesis strategies.
"""

from __future__ import annotations

from optstudy_core import Algorithm
from optstudy_core._extras import extra

with extra("digest"):
    from .case import Case
    from .cases import cases, hyperparameters
    from .compare import Difference, ulp_distance
    from .suite import Cell, Report, check, replay, write_failure

__all__ = [
    "Algorithm",
    "Case",
    "Cell",
    "Difference",
    "Report",
    "cases",
    "check",
    "hyperparameters",
    "replay",
    "ulp_distance",
    "write_failure",
]
