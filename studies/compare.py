"""Training with each epoch method and without: figures and a table."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from optstudy_core.records import write_text

from . import figures, training
from .epochs import mean
from .records import Run
from .runner import Plan, Prepared
from .study import Batch, Study


@dataclass(frozen=True)
class Result:
    """What a training came to.

    Attributes:
        run: its record.
        loss: at the final parameters, the mean over the mini-batches of the training data.
        metrics: of the test data, after the last epoch.
        evaluations: of the loss over all training data, that the method asked for.
        lr_factor: of the method on the learning rate, after the last epoch.
        undone: the number of epochs undone.
    """

    run: Run
    loss: float
    metrics: dict[str, float]
    evaluations: int
    lr_factor: float
    undone: int

    @classmethod
    def of(cls, study: Study, learner: training.Learner, run: Run) -> Result:
        """Evaluate a run that ended."""
        parameters = learner.parameters()
        metrics: dict[str, float] = {}
        if study.test is not None:
            metrics = study.metrics(
                learner.outputs(parameters, study.test.inputs), study.test.targets
            )
        return cls(
            run=run,
            loss=mean([learner.loss(parameters, batch) for batch in _evaluated(study)]),
            metrics=metrics,
            evaluations=int(run.column("method/evaluations").sum()),
            lr_factor=float(run.column("method/lr_factor")[-1]),
            undone=int(run.column("method/undone").sum()),
        )


def _evaluated(study: Study) -> Iterator[Batch]:
    """Yield the mini-batches without dropout."""
    return (batch._replace(masks=()) for batch in study.batches(1))


class Comparison(Prepared):
    """A plan of one algorithm with several methods; see :class:`studies.runner.Prepared`."""

    def __init__(self, plan: Plan) -> None:
        at_rate = "" if plan.lr_factor == 1 else f"_lr_x{plan.lr_factor:g}"
        super().__init__(plan, f"compare{at_rate}")

    def carry_out(self, console: Console) -> list[pathlib.Path]:
        """Train, record, draw and print; return the folders of the runs.

        Args:
            console: for progress and the table.
        """
        results = [
            Result.of(self.study, *self.train(optimizer, backend, console))
            for optimizer in self.optimizers
            for backend in self.plan.backends
        ]
        (algorithm,) = self.plan.algorithms
        runs: dict[str, list[Run]] = {}
        for result in results:
            runs.setdefault(result.run.config["method"], []).append(result.run)
        drawn = figures.draw_comparison(
            self.study, runs, self.folder / f"{algorithm}_figures", algorithm
        )
        console.print(_table(self._heading, results))
        file = self.folder / f"{algorithm}.md"
        write_text(file, _markdown(self._heading, results))
        console.print(f"  table:   {file}", soft_wrap=True, highlight=False)
        if drawn:
            console.print(f"  figures: {drawn[0].parent}\n", soft_wrap=True, highlight=False)
        return [result.run.folder for result in results]

    @property
    def _heading(self) -> str:
        optimizer = self.optimizers[0]
        what = f"{self.study.title}, {optimizer.algorithm}, learning rate {optimizer.lr:g}"
        return f"{what}: with each epoch method and without"


def _columns(results: list[Result]) -> list[str]:
    metrics = [name.replace("_", " ") for name in results[0].metrics]
    return [
        "method",
        "framework",
        "final loss",
        *metrics,
        "loss evaluations",
        "rate factor",
        "epochs undone",
    ]


def _cells(result: Result) -> list[str]:
    config = result.run.config
    return [
        config["method"],
        figures.FRAMEWORKS[config["backend"]],
        f"{result.loss:.5g}",
        *(f"{value:.4f}" for value in result.metrics.values()),
        str(result.evaluations),
        f"{result.lr_factor:.3g}",
        str(result.undone),
    ]


def _table(heading: str, results: list[Result]) -> Table:
    table = Table(title=heading, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for i, name in enumerate(_columns(results)):
        table.add_column(
            name.replace(" ", "\n"), justify="left" if i < 2 else "right", no_wrap=True
        )
    best = min((r.loss for r in results if math.isfinite(r.loss)), default=np.nan)
    for result in results:
        table.add_row(*_cells(result), style="bold" if result.loss == best else None)
    return table


def _markdown(heading: str, results: list[Result]) -> str:
    columns = _columns(results)
    lines = [
        f"# {heading}",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * 2 + " ---: |" * (len(columns) - 2),
        *("| " + " | ".join(_cells(result)) + " |" for result in results),
        "",
        "The final loss is the mean over the mini-batches of the training data, at the final",
        "parameters. Loss evaluations are over all training data, beside those of the training.",
        "The rate factor is the method's on the learning rate, after the last epoch.",
        "",
    ]
    return "\n".join(lines)
