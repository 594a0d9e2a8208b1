"""Carrying out a plan: all runs of a study, with their figures and comparisons."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rich.console import Console

from optstudy_core.records import Run
from studies import figures, records
from studies.learners import training
from studies.learners.methods import PLAIN
from studies.problems.table import load
from studies.progress import progress
from studies.study import Study

from . import twins


@dataclass(frozen=True)
class Plan:
    """The options of the user; ``None`` leaves a choice to the study.

    Attributes:
        study: the name of the study.
        algorithms: names of algorithms; each is trained with each method.
        methods: names in :data:`studies.learners.methods.METHODS`.
        backends: ``"torch"``, ``"jax"`` or both; a study in one framework uses that framework.
        all_backends: refuse a study without a model in one of the backends.
        out: the folder for all files.
        epochs: the number of epochs.
        lr: the learning rate.
        lr_factor: a factor of the learning rate.
        seed: the seed of all random numbers.
        dialect: the dialect of the algorithms.
        overwrite: replace existing runs in ``out``.
        data: a file or folder with data of the user.
        events: the number of generated events.
        pretrained: start from the trained parameters in the package.
        start: folders of runs; start from their final parameters.
        device: the device of both frameworks.
        go_on: keep finished runs, and replace others.
    """

    study: str
    algorithms: Sequence[str]
    methods: Sequence[str]
    backends: Sequence[str]
    out: pathlib.Path
    epochs: int | None
    lr: float | None
    seed: int
    dialect: str | None
    overwrite: bool
    lr_factor: float = 1.0
    data: pathlib.Path | None = None
    events: int | None = None
    pretrained: bool = False
    start: Sequence[pathlib.Path] = ()
    device: str = "cpu"
    go_on: bool = False
    all_backends: bool = False

    def load(self) -> Study:
        """Return the study; errors as from :func:`studies.problems.table.load`, :func:`begun`."""
        study = load(
            self.study,
            self.seed,
            self.data,
            self.events,
            epochs=self.epochs,
            pretrained=self.pretrained,
        )
        return begun(study, self.start)

    def of(self, study: Study) -> Plan:
        """Return the plan with the frameworks in which a study has a model.

        Raises:
            ValueError: if the study has no model in a requested framework.
        """
        chosen = [name for name in self.backends if name in study.backends]
        if not chosen or (self.all_backends and len(chosen) < len(self.backends)):
            lacking = next(name for name in self.backends if name not in study.backends)
            raise ValueError(
                f"backend = {lacking!r}: the study {study.name!r} has no model in this framework; "
                f"allowed is {' or '.join(map(repr, study.backends))}"
            )
        return replace(self, backends=chosen)


class Prepared:
    """A plan with checked values.

    Args:
        plan: the options of the user.
        below: a subfolder of the folder of the study for all files.

    Raises:
        ValueError: for a value that is not allowed.
        FileExistsError: if a folder already has a run.
        NotADirectoryError: if a folder is a file.
    """

    def __init__(self, plan: Plan, below: str = "") -> None:
        study = plan.load()
        self.plan = plan = plan.of(study)
        self.study: Study = replace(study, device=training.checked(plan.device, plan.backends))
        self.optimizers = [
            training.Optimizer.of(
                self.study, algorithm, plan.lr, plan.dialect, method, lr_factor=plan.lr_factor
            )
            for algorithm in plan.algorithms
            for method in plan.methods
        ]
        self.folder = plan.out / self.study.name / below
        for optimizer in self.optimizers:
            for backend in plan.backends:
                Run.check_free(self.run_folder(optimizer, backend), overwrite=self._replaces)
                self._is_done(optimizer, backend)  # refuses another run

    def run_folder(self, optimizer: training.Optimizer, backend: str) -> pathlib.Path:
        """Return the folder of a run."""
        return self.folder / optimizer.name / backend

    @property
    def _replaces(self) -> bool:
        return self.plan.overwrite or self.plan.go_on

    def _is_done(self, optimizer: training.Optimizer, backend: str) -> bool:
        described = config(self.plan, self.study, optimizer, backend)
        taken = self.plan.go_on and not self.plan.overwrite
        return taken and done(self.run_folder(optimizer, backend), described)

    def carry_out(self, console: Console) -> list[pathlib.Path]:
        """Train, record, draw and compare; return the folders of the runs.

        Args:
            console: for progress, tables and results.
        """
        runs = [run for optimizer in self.optimizers for run in self._train(optimizer, console)]
        if len(runs) > 1:
            overview = figures.draw_overview(self.study, runs, self.folder)
            console.print(f"Overview: {overview}", soft_wrap=True, highlight=False)
        return [run.folder for run in runs]

    def train(
        self, optimizer: training.Optimizer, backend: str, console: Console
    ) -> tuple[training.Learner, records.Run]:
        """Make a run; return the learner and the record."""
        learner = training.make_learner(backend, self.study, optimizer)
        folder = self.run_folder(optimizer, backend)
        described = config(self.plan, self.study, optimizer, backend)
        what = f"{self.study.name}, {optimizer.name}, {backend}: training"
        if self._is_done(optimizer, backend):
            console.print(f"{what} is already done", highlight=False)
            return learner, records.read(folder)
        with (
            Run.create(folder, described, overwrite=self._replaces) as run,
            progress(console, what, self.study.epochs) as tick,
        ):
            training.record(self.study, learner, run, after_epoch=tick)
        return learner, records.read(folder)

    def _train(self, optimizer: training.Optimizer, console: Console) -> list[records.Run]:
        """Make the runs of one optimizer."""
        runs = {}
        what = f"{self.study.name}, {optimizer.name}"
        for backend in self.plan.backends:
            learner, run = self.train(optimizer, backend, console)
            runs[backend] = run
            count = figures.number_of_figures(self.study)
            with progress(console, f"{what}, {backend}: figures", count) as tick:
                figures.draw_run(self.study, learner, run, after_each=tick)
            numbers = {k: v for k, v in run.rows[-1].items() if k in self._reported(run)}
            console.print(
                f"{what}, {backend}: "
                + ", ".join(f"{name.replace('_', ' ')} {v:.4g}" for name, v in numbers.items()),
                highlight=False,
            )
            console.print(f"  run folder: {run.folder}", soft_wrap=True, highlight=False)
            console.print(
                f"  figures:    {run.folder / 'figures'}", soft_wrap=True, highlight=False
            )
        # With a method, the parameters also move outside of steps.
        if set(runs) == set(training.BACKENDS) and optimizer.method == PLAIN:
            self.compare_twins(optimizer, runs, console)
        return list(runs.values())

    def compare_twins(
        self, optimizer: training.Optimizer, runs: Mapping[str, records.Run], console: Console
    ) -> twins.Twins:
        """Compare the runs of the two frameworks; write, draw and print where they diverge."""
        what = f"{self.study.name}, {optimizer.name}: comparing"
        with progress(console, what, self.study.epochs) as tick:
            pair = twins.compare(
                self.study, optimizer, runs["torch"], runs["jax"], after_epoch=tick
            )
        twins.show(pair, console)
        folder = self.folder / optimizer.name
        files = twins.save(pair, folder)
        drawn = figures.draw_twins(self.study, pair, folder)
        console.print(f"  table of every epoch: {files[1]}", soft_wrap=True, highlight=False)
        console.print(f"  figure:               {drawn}\n", soft_wrap=True, highlight=False)
        return pair

    @staticmethod
    def _reported(run: records.Run) -> set[str]:
        return set(run.rows[-1]) - {"epoch", "steps", "layers", "angle", "method", "seconds"}


def begun(study: Study, folders: Sequence[pathlib.Path]) -> Study:
    """Return a study that starts from the final parameters of some runs.

    Args:
        study: any study.
        folders: folders of runs; each gives the parameters with the same names as in the study.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if a training has not ended, or a run has none of the parameters, or parameters
            of other shapes.
    """
    initial = dict(study.initial)
    for folder in folders:
        found = records.read(folder).parameters
        if found is None:
            raise ValueError(f"run = {str(folder)!r}: its training has not ended")
        own = {name: value for name, value in found.items() if name in initial}
        if not own:
            raise ValueError(f"run = {str(folder)!r}: the run has no parameter of {study.name}")
        for name, value in own.items():
            if value.shape != initial[name].shape:
                raise ValueError(
                    f"run = {str(folder)!r}: {name} has the shape {value.shape}; allowed is "
                    f"{initial[name].shape}"
                )
        initial |= own
    return replace(study, initial=initial)


def config(
    plan: Plan, study: Study, optimizer: training.Optimizer, backend: str
) -> dict[str, object]:
    """Return the configuration for the record of a run."""
    return {
        "study": study.name,
        "algorithm": optimizer.algorithm,
        "method": optimizer.method,
        "backend": backend,
        "epochs": study.epochs,
        "lr": optimizer.lr,
        "seed": plan.seed,
        "data": None if plan.data is None else str(plan.data.resolve()),
        "events": plan.events,
        "pretrained": plan.pretrained,
        "start": [str(folder.resolve()) for folder in plan.start],
        "device": plan.device,
        "source": plan.study,
        "dialect": optimizer.dialect,
        "out": str(plan.out),
        "overwrite": plan.overwrite,
        "hyperparameters": optimizer.hyperparameters,
        "batch_size": study.batch_size,
        "steps_per_epoch": study.steps_per_epoch,
        "training_examples": len(study.train.targets),
        "test_examples": 0 if study.test is None else len(study.test.targets),
        "parameters": {n: list(v.shape) for n, v in study.initial.items()},
        "loss": study.loss_label,
    }


_TELLING: Final = (
    "algorithm", "method", "epochs", "lr", "dialect", "data", "events", "pretrained", "start",
    "source",
)  # fmt: skip
"""The entries that must agree if a finished training is used instead of a new one."""
_BEFORE: Final = {"pretrained": False, "start": []}
"""The values in runs that were made before these options existed."""


def done(folder: pathlib.Path, wanted: Mapping[str, object]) -> bool:
    """Return whether a training is already finished.

    Args:
        folder: the folder of the run.
        wanted: the configuration of the training, a dictionary.

    Raises:
        FileExistsError: if the folder has another finished run.
    """
    try:
        run = records.read(folder)
    except (FileNotFoundError, ValueError):
        return False  # not started, or interrupted
    if run.parameters is None:
        return False
    for key in _TELLING:
        if run.config.get(key, _BEFORE.get(key)) != wanted[key]:
            raise FileExistsError(
                f"{str(folder)!r} holds a run with {key} = {run.config.get(key)!r}, not "
                f"{wanted[key]!r}"
            )
    return True


class Twins(Prepared):
    """A plan of trainings in both frameworks, only to find where they diverge."""

    def carry_out(self, console: Console) -> list[pathlib.Path]:
        """Train in both frameworks, record and compare; return the folders of the runs."""
        folders = []
        for optimizer in self.optimizers:
            runs = {b: self.train(optimizer, b, console)[1] for b in training.BACKENDS}
            self.compare_twins(optimizer, runs, console)
            folders += [run.folder for run in runs.values()]
        return folders
