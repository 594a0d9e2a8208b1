"""Several studies with their comparisons, side by side in processes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from studies import processes

from .compare import Comparison
from .runner import Plan, Prepared


@dataclass(frozen=True)
class Part:
    """A study's runs, or its comparison; crosses to another process.

    Attributes:
        plan: of it.
        vary: what is varied in a comparison; ``None``: runs.
    """

    plan: Plan
    vary: Mapping[str, Sequence[Any]] | None = None

    def prepare(self) -> Prepared | Comparison:
        """Check every value; errors as of the two."""
        return Prepared(self.plan) if self.vary is None else Comparison(self.plan, self.vary)


class Everything:
    """Parts that were checked.

    Args:
        parts: runs and comparisons; the runs come first, and are shown first.
        jobs: how many at a time.
    """

    def __init__(self, parts: Sequence[Part], jobs: int) -> None:
        for part in parts:
            part.prepare()
        # Comparisons take minutes; there is something to see before.
        self._parts = sorted(parts, key=lambda part: part.vary is not None)
        self._jobs = min(jobs, len(parts))

    def carry_out(self, console: Console) -> None:
        """Carry them out: most of the time goes into figures, which only processes share."""
        if self._jobs == 1:
            for part in self._parts:
                part.prepare().carry_out(console)
            return
        names = dict.fromkeys(part.plan.study for part in self._parts)
        console.print(f"{' and '.join(names)}, side by side: this takes some minutes")
        with processes.pool(self._jobs, _begin) as pool:
            for said in pool.map(_said, self._parts, [console.width] * len(self._parts)):
                console.print(Text.from_ansi(said), soft_wrap=True)


def _begin() -> None:
    """Begin with nothing: a part says itself what it needs."""


def _said(part: Part, width: int) -> str:
    """Carry a part out; return what it said."""
    said = io.StringIO()
    part.prepare().carry_out(Console(file=said, width=width))
    return said.getvalue()
