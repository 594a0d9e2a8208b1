"""Where rows go: of several processes the first writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch


class Elsewhere:
    """The run that another process writes."""

    def epoch(self, number: int, row: Mapping[str, Any]) -> None:
        """Leave the row to the other."""

    def steps(self, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Leave the rows to the other."""

    def close(self) -> None:
        """Do nothing."""


def run_in(folder: str | PathLike[str], config: Mapping[str, Any]) -> Any:
    """Return the run of a folder, made or resumed; one that does nothing if another writes it."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if several and torch.distributed.get_rank() > 0:
        return Elsewhere()
    from optstudy_core.records import Run  # SQLite and more, only where asked

    return Run.create_or_resume(folder, config)
