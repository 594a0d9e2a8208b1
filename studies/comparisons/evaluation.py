"""What a trained network is worth, on data that it has not seen."""

from __future__ import annotations

import pathlib

from rich.console import Console
from rich.table import Table

from studies import figures, records
from studies.learners import training
from studies.study import Assessed, Parameters, Study

from .runner import Plan


class Evaluation:
    """An evaluation whose every value was checked.

    Args:
        plan: which study, on which data; what it says of a training counts for nothing.
        run: the folder of a run, whose final parameters are taken; ``None``: those that were
            trained before.

    Raises:
        ValueError: for a value that is not allowed, and for a study that says nothing of the worth
            of a network.
        FileNotFoundError: if there is no such run.
    """

    def __init__(self, plan: Plan, run: pathlib.Path | None) -> None:
        self.study: Study = plan.load()
        if self.study.assess is None:
            raise ValueError(
                f"study = {plan.study!r}: it says nothing of what its network is worth"
            )
        self.parameters = dict(self.study.initial) if run is None else _final(run, self.study)
        self.backend = plan.of(self.study).backends[0]
        self.folder = plan.out / self.study.name / "evaluation"

    def carry_out(self, console: Console) -> None:
        """Print a table and draw the figures."""
        algorithm = next(iter(self.study.learning_rates))
        optimizer = training.Optimizer.of(self.study, algorithm, None, None)
        learner = training.make_learner(self.backend, self.study, optimizer)
        assert self.study.assess is not None
        assessed = self.study.assess(lambda inputs: learner.outputs(self.parameters, inputs))
        show(self.study, assessed, console)
        for file in figures.draw_assessed(assessed, self.folder):
            console.print(f"  figure: {file}", soft_wrap=True, highlight=False)


def show(study: Study, assessed: Assessed, console: Console) -> None:
    """Print what a network is worth as a table."""
    table = Table(title=study.title)
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in assessed.numbers.items():
        table.add_row(name, f"{value:.4g}")
    console.print(table)


def _final(folder: pathlib.Path, study: Study) -> Parameters:
    found = records.read(folder).parameters
    if found is None:
        raise ValueError(f"run = {str(folder)!r}: its training has not ended")
    shapes = {name: value.shape for name, value in found.items()}
    if shapes != {name: value.shape for name, value in study.initial.items()}:
        raise ValueError(f"run = {str(folder)!r}: it is not one of {study.name}")
    return found
