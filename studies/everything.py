"""Several studies with their comparisons, side by side in processes."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from .compare import Comparison
from .runner import Plan, Prepared


@dataclass(frozen=True)
class Whole:
    """A study's runs and its comparison; crosses to another process.

    Attributes:
        run: the plan of the runs.
        comparison: the plan of the comparison.
        vary: what is varied in it.
    """

    run: Plan
    comparison: Plan
    vary: Mapping[str, Sequence[Any]]

    def carry_out(self, console: Console) -> None:
        """Train, record and draw all of it."""
        for part in self._parts():
            part.carry_out(console)

    def check(self) -> None:
        """Refuse what is not allowed; errors as of the two parts."""
        self._parts()

    def _parts(self) -> tuple[Prepared, Comparison]:
        return Prepared(self.run), Comparison(self.comparison, self.vary)


class Everything:
    """Several studies that were checked.

    Args:
        wholes: the studies.
        jobs: how many at a time.
    """

    def __init__(self, wholes: Sequence[Whole], jobs: int) -> None:
        for whole in wholes:
            whole.check()
        self._wholes = wholes
        self._jobs = min(jobs, len(wholes))

    def carry_out(self, console: Console) -> None:
        """Carry them out: most of the time goes into figures, which only processes share."""
        if self._jobs == 1:
            for whole in self._wholes:
                whole.carry_out(console)
            return
        names = " and ".join(whole.run.study for whole in self._wholes)
        console.print(f"{names}, side by side: this takes a minute or two")
        # Threads of torch and XLA do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self._jobs, context) as pool:
            done = [pool.submit(_said, whole, console.width) for whole in self._wholes]
            for said in done:
                console.print(Text.from_ansi(said.result()), soft_wrap=True)


def _said(whole: Whole, width: int) -> str:
    """Carry a study out; return what it said."""
    said = io.StringIO()
    whole.carry_out(Console(file=said, width=width))
    return said.getvalue()
