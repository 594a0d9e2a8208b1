"""The table of a comparison: one row for each setting, over its seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from studies import figures
from studies.records import Run


@dataclass(frozen=True)
class Spread:
    """Numbers of several seeds: the median, the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some numbers; NaN counts as the largest."""
        filled = np.sort(np.where(np.isnan(values), np.inf, values))
        with np.errstate(invalid="ignore"):
            median = float(np.median(filled))
        return cls(median, float(filled[0]), float(filled[-1]))

    def text(self, form: str) -> str:
        """Return the text for a table; without the spread if all numbers are equal."""
        middle = format(self.median, form)
        if self.low == self.high:
            return middle
        return f"{middle} ({self.low:{form}} – {self.high:{form}})"


@dataclass(frozen=True)
class Row:
    """The results of a cell in one framework, over the seeds.

    Attributes:
        label: the label of the cell.
        backend: the framework.
        lr: the learning rate, without the factor of the method.
        loss: the loss at the final parameters, the mean over the mini-batches of the training data.
        ratio: the ratio of the loss to that of the first cell, seed by seed.
        metrics: the metrics of the test data after the last epoch.
        evaluations: the number of evaluations of the loss over all training data by the method.
        lr_factor: the factor of the method on the learning rate, after the last epoch.
        undone: the number of undone epochs.
        seconds: the time of the training alone; infinite if a run does not record it.
    """

    label: str
    backend: str
    lr: float
    loss: Spread
    ratio: Spread
    metrics: Mapping[str, Spread]
    evaluations: Spread
    lr_factor: Spread
    undone: Spread
    seconds: Spread

    @classmethod
    def of(cls, label: str, backend: str, runs: Sequence[Run], first: Sequence[Run]) -> Row:
        """Return the row of some runs.

        Args:
            label: the label of the cell.
            backend: the framework.
            runs: the runs of the cell.
            first: the runs of the cell to compare with, in the same order.
        """
        runs, first = (
            [r for r in some if r.config["backend"] == backend] for some in (runs, first)
        )
        last = [run.rows[-1] for run in runs]
        losses = [_number(run.loss) for run in runs]
        with np.errstate(all="ignore"):
            ratios = np.divide(losses, [_number(run.loss) for run in first])
        return cls(
            label=label,
            backend=backend,
            lr=float(runs[0].config["lr"]),
            loss=Spread.of(losses),
            ratio=Spread.of(ratios.tolist()),
            metrics={
                name: Spread.of([float(row[name]) for row in last])
                for name in last[0]
                if name not in figures.ROW
            },
            evaluations=Spread.of([run.column("method/evaluations").sum() for run in runs]),
            lr_factor=Spread.of([run.column("method/lr_factor")[-1] for run in runs]),
            undone=Spread.of([run.column("method/undone").sum() for run in runs]),
            seconds=Spread.of(
                [sum(row.get("seconds", math.nan) for row in run.rows) for run in runs]
            ),
        )

    def cells(self, *, spread: bool = True) -> dict[str, str]:
        """Return the texts of the table, by column.

        Args:
            spread: show the spread of all numbers; otherwise only of the losses.
        """

        def text(value: Spread, form: str) -> str:
            return value.text(form) if spread else format(value.median, form)

        return {
            "": self.label,
            "framework": figures.FRAMEWORKS[self.backend],
            "learning rate": format(self.lr, ".3g"),
            "final loss": self.loss.text(".4g"),
            "relative loss": self.ratio.text(".3g"),
            **{name.replace("_", " "): text(s, ".3g") for name, s in self.metrics.items()},
            "loss evaluations": text(self.evaluations, ".4g"),
            "rate factor": text(self.lr_factor, ".3g"),
            "epochs undone": text(self.undone, ".3g"),
            "seconds": text(self.seconds, ".3g") if math.isfinite(self.seconds.high) else "",
        }


def _number(loss: float | None) -> float:
    return math.nan if loss is None else float(loss)


def for_terminal(heading: str, rows: Sequence[Row]) -> Table:
    """Return the table for a terminal, without columns that are the same in all rows.

    A terminal of 80 characters has no room for the rate factor, which is in the file.
    """
    texts = [row.cells(spread=False) for row in rows]
    dull = {"framework", "learning rate", "loss evaluations", "epochs undone"}
    varied = [c for c in texts[0] if c not in dull or len({text[c] for text in texts}) > 1]
    shown = [c for c in varied if c != "rate factor"]
    table = Table(title=heading, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in shown:
        words = name in {"", "framework"}
        table.add_column(
            name.replace("evaluations", "evals").replace(" ", "\n"),
            justify="left" if words else "right",
            no_wrap=not words,
            min_width=14 if not name else None,
        )
    best = min((row.loss.median for row in rows), default=math.inf)
    for row, text in zip(rows, texts, strict=True):
        style = "bold" if row.loss.median == best and math.isfinite(best) else None
        # The spread below the median.
        cells = (
            text[c] if c == "" else text[c].replace(" (", "\n").strip(")").replace(" – ", "…")
            for c in shown
        )
        table.add_row(*cells, style=style)
    return table


def markdown(heading: str, rows: Sequence[Row], seeds: int) -> str:
    """Return the table for a file, with the meanings of its columns."""
    columns = list(rows[0].cells())
    several = [f"Median of {seeds} seeds (smallest – largest)."] if seeds > 1 else []
    lines = [
        f"# {heading}",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * 2 + " ---: |" * (len(columns) - 2),
        *("| " + " | ".join(row.cells().values()) + " |" for row in rows),
        "",
        *several,
        "The final loss is the mean over the mini-batches of the training data, at the final",
        "parameters and without dropout. The next column divides this loss by that of the first",
        "row, seed by seed. Loss evaluations are over all training data, in addition to the",
        "training. The rate factor is the factor of the method on the learning rate after the",
        "last epoch. Seconds are those of the training alone; on a CPU, the processor time of all",
        "threads.",
        "",
    ]
    return "\n".join(lines)
