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
    """The runs of a study, or its comparison, sent to another process.

    Attributes:
        plan: the plan.
        vary: the settings of a comparison; ``None``: runs.
    """

    plan: Plan
    vary: Mapping[str, Sequence[Any]] | None = None

    def prepare(self) -> Prepared | Comparison:
        """Check every value; errors as from :class:`Prepared` and :class:`Comparison`."""
        return Prepared(self.plan) if self.vary is None else Comparison(self.plan, self.vary)


class Everything:
    """Checked parts, carried out side by side.

    Args:
        parts: runs and comparisons; the runs are carried out and shown first.
        jobs: the number of parts at the same time.
    """

    def __init__(self, parts: Sequence[Part], jobs: int) -> None:
        for part in parts:
            part.prepare()
        # Comparisons take minutes; runs show something earlier.
        self._parts = sorted(parts, key=lambda part: part.vary is not None)
        self._jobs = min(jobs, len(parts))

    def carry_out(self, console: Console) -> None:
        """Carry out the parts in processes: figures take most of the time, and block threads."""
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
    """Start a process without any preparation."""


def _said(part: Part, width: int) -> str:
    """Carry out a part; return its output."""
    said = io.StringIO()
    part.prepare().carry_out(Console(file=said, width=width))
    return said.getvalue()
