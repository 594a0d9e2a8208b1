"""The evaluation of a trained network on data that it has not seen."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from studies import figures
from studies.learners import training
from studies.study import Assessed, Study

from .runner import Plan


class Evaluation:
    """An evaluation with checked values.

    Args:
        plan: the plan, for the study, the data and the parameters; options of a training have no
            effect.

    Raises:
        ValueError: for a value that is not allowed, and for a study without ``assess``.
        FileNotFoundError: if the run or the data do not exist.
    """

    def __init__(self, plan: Plan) -> None:
        self.study: Study = plan.load()
        if self.study.assess is None:
            raise ValueError(f"study = {plan.study!r} has no evaluation (assess)")
        self.parameters = dict(self.study.initial)
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
    """Print the evaluation of a network as a table."""
    table = Table(title=study.title, show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in assessed.numbers.items():
        table.add_row(name, f"{value:.4g}")
    console.print(table)
