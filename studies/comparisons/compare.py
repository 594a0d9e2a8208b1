"""Trainings with different settings: run side by side, drawn, and compared in a table."""

from __future__ import annotations

import itertools
import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Final

from rich.console import Console

from optstudy_core import ALGORITHMS
from optstudy_core.arrays.numbers import nearest
from optstudy_core.records import Run as Folder
from optstudy_core.records import write_text
from studies import figures, processes, records
from studies.learners import training
from studies.learners.methods import METHODS, PLAIN
from studies.progress import progress
from studies.records import Run

from . import table
from .runner import Plan, config, done

VARIED: Final = ("method", "algorithm", "lr", "lr_factor", "dialect")
"""The settings that can vary; ``lr_factor`` multiplies the learning rate of the study."""

_Tell = Callable[[], None]


@dataclass(frozen=True)
class Cell:
    """One combination of settings.

    Attributes:
        varied: the values by setting.
        optimizer: the optimizer of the trainings.
        name: the name of the folder.
    """

    varied: Mapping[str, Any]
    optimizer: training.Optimizer
    name: str

    @property
    def label(self) -> str:
        """The text that distinguishes this cell from others."""
        words = {
            "method": lambda v: METHODS[v].title,
            "algorithm": figures.title,
            "lr": lambda v: f"learning rate {v:g}",
            "lr_factor": lambda v: f"{v:g} × the learning rate",
            "dialect": lambda v: f"dialect {v}",
        }
        parts = [words[key](value) for key, value in self.varied.items()]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Task:
    """A training of a comparison, sent to another process.

    Attributes:
        plan: the plan, with the seed of this training.
        optimizer: the optimizer of the training.
        backend: the framework of the training.
        folder: the folder of the run.
        config: the configuration of the run.
    """

    plan: Plan
    optimizer: training.Optimizer
    backend: str
    folder: pathlib.Path
    config: Mapping[str, Any]

    def carry_out(self, after_epoch: _Tell) -> None:
        """Train and record; replace an interrupted training."""
        study = self.plan.load()
        learner = training.make_learner(self.backend, study, self.optimizer)
        with Folder.create(self.folder, self.config, overwrite=True) as run:
            training.record(study, learner, run, after_epoch=after_epoch)


class Comparison:
    """A comparison with checked values.

    Args:
        plan: the plan of the user; it gives the algorithm and the method if ``vary`` does not.
        vary: the values of the settings in :data:`VARIED` that vary.
        seeds: the number of seeds, starting at the seed of the plan.
        jobs: the number of processes that train.
        rates: learning rates to try for each combination before the comparison. The best one has
            the lowest mean of the final losses over all seeds, in the first framework of the plan.

    Raises:
        ValueError: for a value that is not allowed.
        FileExistsError: if a folder has another run.
        NotADirectoryError: if a folder is a file.
    """

    def __init__(
        self,
        plan: Plan,
        vary: Mapping[str, Sequence[Any]],
        seeds: int = 1,
        jobs: int = 1,
        rates: Sequence[float] = (),
    ) -> None:
        if rates and {"lr", "lr_factor"} & set(vary):
            raise ValueError("tune: allowed without lr and lr_factor in vary")
        self.study = plan.load()
        self.plan = plan = plan.of(self.study)
        self.folder = plan.out / self.study.name / "compare"
        self.jobs = jobs
        self.cells = [
            self._cell(dict(zip(vary, values, strict=True)))
            for values in itertools.product(*vary.values())
        ]
        self.seeds = range(plan.seed, plan.seed + seeds)
        self.rates = rates
        self._search = {
            cell.name: [
                [self._task(_at(cell, lr), seed, plan.backends[0]) for seed in self.seeds]
                for lr in rates
            ]
            for cell in self.cells
        }
        # With a search for rates, the trainings to compare are known after the search.
        self.waiting = self._not_done(self._searched or self.tasks)

    @property
    def _searched(self) -> list[Task]:
        """The trainings of the search for rates."""
        of_rates = itertools.chain.from_iterable(self._search.values())
        return list(itertools.chain.from_iterable(of_rates))

    @property
    def tasks(self) -> list[Task]:
        """The trainings that are compared."""
        return [
            self._task(cell, seed, backend)
            for seed in self.seeds
            for cell in self.cells
            for backend in self.plan.backends
        ]

    def _not_done(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the trainings that have no run yet.

        Raises:
            FileExistsError: if a folder has another run.
            NotADirectoryError: if a folder is a file.
        """
        for task in tasks:
            Folder.check_free(task.folder, overwrite=True)
        return [t for t in tasks if self.plan.overwrite or not done(t.folder, t.config)]

    def _cell(self, varied: dict[str, Any]) -> Cell:
        plan = self.plan
        (algorithm,), (method,) = plan.algorithms, plan.methods
        optimizer = training.Optimizer.of(
            self.study,
            varied.get("algorithm", algorithm),
            varied.get("lr", plan.lr),
            varied.get("dialect", plan.dialect),
            varied.get("method", method),
            lr_factor=varied.get("lr_factor", plan.lr_factor),
        )
        parts = [optimizer.name]
        parts += [f"{k}_{v:g}" for k, v in varied.items() if k in {"lr", "lr_factor"} and v != 1]
        parts += [varied["dialect"]] if "dialect" in varied else []
        return Cell(varied, optimizer, "_".join(parts))

    def _task(self, cell: Cell, seed: int, backend: str) -> Task:
        plan = replace(self.plan, seed=seed)
        folder = self.folder / cell.name / f"seed_{seed}" / backend
        described = config(plan, self.study, cell.optimizer, backend)
        return Task(plan, cell.optimizer, backend, folder, described)

    def carry_out(self, console: Console) -> list[pathlib.Path]:
        """Train what is missing, record, draw and print; return the folders of the runs.

        Args:
            console: for progress and the table.
        """
        if self.rates:
            self._tune(console)
        # After a search the known trainings are its own.
        runs = self._train(self.tasks, "trainings", console, says_known=not self.rates)
        by_cell = {
            cell.name: [
                runs[self._task(cell, seed, backend).folder]
                for backend in self.plan.backends
                for seed in self.seeds
            ]
            for cell in self.cells
        }
        for group in self.groups():
            self._report(group, by_cell, console)
        return list(runs)

    def _train(
        self, tasks: Sequence[Task], what: str, console: Console, *, says_known: bool = True
    ) -> dict[pathlib.Path, Run]:
        """Carry out the missing trainings; return all runs by folder."""
        waiting = self._not_done(tasks)
        known = len(tasks) - len(waiting)
        if known and says_known:
            console.print(f"{known} of {len(tasks)} {what} are already done")
        title = f"{self.study.name}: {len(waiting)} {what}, epochs"
        with progress(console, title, self.study.epochs * len(waiting)) as tick:
            _carry_out(waiting, self.jobs, tick)
        return {task.folder: records.read(task.folder) for task in tasks}

    def _tune(self, console: Console) -> None:
        """Give each cell the best of the rates."""
        runs = self._train(self._searched, "trainings of the search for rates", console)
        for number, cell in enumerate(self.cells):
            losses = [[runs[task.folder].loss for task in some] for some in self._search[cell.name]]
            lr, loss = best(self.rates, losses)
            mean = "mean loss" if len(self.seeds) > 1 else "loss"
            console.print(f"{cell.label or cell.name}: learning rate {lr:g}, {mean} {loss:.4g}")
            if lr in {min(self.rates), max(self.rates)} and len(self.rates) > 1:
                console.print("  the best rate is at the end of the list: try rates beyond it")
            self.cells[number] = _at(cell, lr)

    def groups(self) -> list[list[Cell]]:
        """Return the cells grouped by all settings except the method; the first is the baseline.

        Without methods all cells are one group.
        """
        groups: dict[Any, list[Cell]] = {}
        for cell in self.cells:
            rest = tuple(v for k, v in cell.varied.items() if k != "method")
            groups.setdefault(rest if "method" in cell.varied else (), []).append(cell)
        for cells in groups.values():
            cells.sort(key=lambda cell: cell.varied.get("method", PLAIN) != PLAIN)  # stable
        return list(groups.values())

    def _report(
        self, cells: list[Cell], runs: Mapping[str, Sequence[Run]], console: Console
    ) -> None:
        varied = "method" in cells[0].varied
        heading = self._heading(cells[0], methods=varied)
        name = cells[0].name if varied else "all"
        if varied:  # the rest is in the heading
            cells = [replace(cell, varied={"method": cell.varied["method"]}) for cell in cells]
        shown = {cell.label: runs[cell.name] for cell in cells}
        rows = [
            table.Row.of(label, backend, of_label, next(iter(shown.values())))
            for label, of_label in shown.items()
            for backend in self.plan.backends
        ]
        console.print(table.for_terminal(heading, rows))
        file = self.folder / f"{name}.md"
        text = table.markdown(heading, rows, len(self.seeds))
        if self.rates:
            text += (
                f"Learning rates: the best of {', '.join(f'{lr:g}' for lr in self.rates)} by the "
                f"mean final loss over {self._of_seeds()}.\n"
            )
        write_text(file, text)
        console.print(f"  table:   {file}", soft_wrap=True, highlight=False)
        drawn = figures.draw_comparison(self.study, heading, shown, self.folder / f"{name}_figures")
        if drawn and figures.is_plane(self.study):
            learner = training.make_learner(self.plan.backends[0], self.study, cells[0].optimizer)
            each = {label: several[0] for label, several in shown.items()}
            drawn.append(figures.draw_paths(self.study, learner, each, drawn[0].parent))
        if drawn:
            console.print(f"  figures: {drawn[0].parent}\n", soft_wrap=True, highlight=False)

    def _of_seeds(self) -> str:
        first, last = self.seeds[0], self.seeds[-1]
        return f"seed {first}" if first == last else f"seeds {first} to {last}"

    def _heading(self, cell: Cell, *, methods: bool) -> str:
        optimizer = cell.optimizer
        words = [self.study.title]
        if methods or "algorithm" not in cell.varied:
            words.append(figures.title(optimizer.algorithm))
        if methods or not (self.rates or {"algorithm", "lr", "lr_factor"} & set(cell.varied)):
            words.append(f"learning rate {optimizer.lr:g}")
        if methods and "dialect" in cell.varied:
            words.append(f"dialect {optimizer.dialect}")
        if not methods and optimizer.method != PLAIN:
            words.append(METHODS[optimizer.method].title)
        return ", ".join(words)


def _at(cell: Cell, lr: float) -> Cell:
    """Return a cell at another learning rate."""
    name = f"{cell.name}_lr_{lr:g}"
    return replace(cell, optimizer=replace(cell.optimizer, lr=lr), name=name)


def best(rates: Sequence[float], losses: Sequence[Sequence[float | None]]) -> tuple[float, float]:
    """Return the rate with the lowest mean loss, and that mean.

    A rate with a loss that is not finite is the worst: a training with this rate can fail.

    Args:
        rates: the learning rates.
        losses: for each rate, the final loss of each training.

    >>> best([0.1, 1.0, 10.0], [[0.5, 0.5], [0.25, 0.5], [0.1, math.nan]])
    (1.0, 0.375)
    """
    numbers = ([math.nan if loss is None else loss for loss in some] for some in losses)
    means = (fmean(some) for some in numbers)
    worst = (mean if math.isfinite(mean) else math.inf for mean in means)
    loss, lr = min(zip(worst, rates, strict=True))
    return lr, loss


# In several processes.

_messages: Any = None


def _carry_out(tasks: Sequence[Task], jobs: int, tick: _Tell) -> None:
    """Carry out tasks, some at a time; an error or an interruption stops the running ones."""
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            task.carry_out(tick)
        return
    messages = processes.CONTEXT.Queue()
    with processes.pool(min(jobs, len(tasks)), _begin, messages, jobs) as pool:
        waiting: set[Future[None]] = {pool.submit(_in_process, task) for task in tasks}
        for future in _ticking(waiting, messages, tick):
            future.result()


def _ticking(futures: set[Future[None]], messages: Any, tick: _Tell) -> Iterator[Future[None]]:
    """Yield futures as they end, and tick for each message until then."""
    left = set(futures)
    while left:
        try:
            for future in as_completed(left, timeout=0.2):
                left.discard(future)
                yield future
        except TimeoutError:
            pass
        while not messages.empty():
            messages.get()
            tick()


def _begin(messages: Any, jobs: int) -> None:
    global _messages
    _messages = messages
    # The processes share the cores; a study with one thread keeps one.
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(max(1, cores() // jobs))
    else:
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // jobs))


def _in_process(task: Task) -> None:
    task.carry_out(lambda: _messages.put(None))


def cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def values(key: str, text: str) -> list[Any]:
    """Return the values of ``--vary key=text``; ``algorithm=all`` stands for all algorithms.

    Raises:
        ValueError: for a key or value that is not allowed.
    """
    if key not in VARIED:
        raise ValueError(f"vary = {key!r}: {nearest(key, VARIED)}")
    parts = [part.strip() for part in text.split(",")]
    if key in {"method", "algorithm"}:
        parts = [part.replace("-", "_") for part in parts]
    if key == "algorithm" and parts == ["all"]:
        parts = sorted(ALGORITHMS)
    if key == "method":
        for part in parts:
            if part not in METHODS:
                raise ValueError(f"method = {part!r}: {nearest(part, METHODS)}")
    if key not in {"lr", "lr_factor"}:
        return list(dict.fromkeys(parts))
    numbers = []
    for part in parts:
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise ValueError(f"{key} = {part}: allowed are finite numbers > 0")
        numbers.append(number)
    return list(dict.fromkeys(numbers))
