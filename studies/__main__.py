"""The experiments from the command line.

::

    python -m studies run linear_regression --algorithm adam --backend torch
    python -m studies run digits --epochs 10 --out runs/short
    python -m studies run digits --method careful --method eve_grid
    python -m studies twins digits --algorithm sgd
    python -m studies travel digits
    python -m studies compare digits --vary method=plain,careful,eve-grid --seeds 5
    python -m studies compare digits --vary algorithm=adam,sgd --vary lr=0.01,0.1
    python -m studies run allcnn --events 200 --backend torch
    python -m studies run digits_cnn --data MNIST
    python -m studies evaluate allcnn --data events.root
    python -m studies all --out runs
    python -m studies report runs --out report.html
    python -m studies export runs/digits/adam/torch rows.csv
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from optstudy_core._extras import extra

with extra("studies"):
    from rich.console import Console

    from optstudy_core.records import Run
    from studies.problems.table import QUICK, load

    from .arguments import parser_of_commands as _parser
    from .comparisons.compare import Comparison
    from .comparisons.evaluation import Evaluation
    from .comparisons.everything import Everything, Part
    from .comparisons.journey import Travel
    from .comparisons.runner import Plan, Prepared, Twins
    from .learners.methods import METHODS, PLAIN
    from .learners.optimizer import Optimizer
    from .learners.training import BACKENDS, installed_backends
    from .processes import TerminatedError, terminable
    from .report import Report

DEFAULT_VARY: Final = (("method", list(METHODS)), ("lr_factor", [1.0, 16.0]))

TOYS: Final = 100
"""The number of toy events for ``all``, plus half as many held out; they take seconds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; ``None``: those of the process.

    Returns:
        the exit status: 0; 2 for an argument that is not allowed; 130 after Ctrl-C; 143 after
        SIGTERM.
    """
    console = Console()
    arguments = argparse.Namespace(command="", overwrite=False)
    try:
        with terminable():
            return _carry_out(argv, arguments, console)
    except KeyboardInterrupt as end:
        console.print(f"Interrupted; {_how_to_go_on(arguments)}.", soft_wrap=True)
        return 143 if isinstance(end, TerminatedError) else 130


def _carry_out(argv: Sequence[str] | None, arguments: argparse.Namespace, console: Console) -> int:
    parser = _parser()
    try:
        parser.parse_args(argv, arguments)
        try:
            prepared: Sequence[Any] = _COMMANDS[arguments.command](parser, arguments)
        except FileExistsError as error:
            parser.error(f"{error}; --overwrite replaces it")
        except (ValueError, NotADirectoryError, IsADirectoryError, FileNotFoundError) as error:
            parser.error(str(error))
    except SystemExit as end:  # argparse has printed the reason
        return int(end.code or 0)
    for part in prepared:
        part.carry_out(console)
    if arguments.command != "report":
        console.print(f"Everything is in {arguments.out}", soft_wrap=True, highlight=False)
    return 0


def _how_to_go_on(arguments: argparse.Namespace) -> str:
    if arguments.command in {"run", "twins"}:
        return "the same command with --overwrite starts again"
    without = " without --overwrite" if getattr(arguments, "overwrite", False) else ""
    return f"the same command{without} continues with the rest"


# The preparation of each command, which checks all values before any work.


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Prepared]:
    return [Prepared(_plan(parser, arguments, arguments.name))]


def _twins(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Prepared]:
    arguments.backend = "both"
    return [Twins(_plan(parser, arguments, arguments.name))]


def _evaluate(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Evaluation]:
    arguments.pretrained = not arguments.start
    return [Evaluation(_plan(parser, arguments, arguments.name))]


def _travel(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Travel]:
    del parser
    study = load(arguments.name, arguments.seed)
    optimizer = Optimizer.of(study, arguments.algorithm, arguments.lr, None)
    return [Travel(study, optimizer, arguments.epochs or study.epochs, arguments.out)]


def _compare(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Comparison]:
    vary = dict(arguments.vary or DEFAULT_VARY)
    if arguments.vary and len(vary) < len(arguments.vary):
        raise ValueError("vary: one key was given twice; pass all of its values at once, x=1,2")
    names = QUICK if arguments.name == "all" else (arguments.name,)
    algorithms = arguments.algorithm or ["adam"]
    return [
        Comparison(
            _plan(parser, arguments, name, algorithms=algorithms),
            vary,
            seeds=arguments.seeds,
            jobs=arguments.jobs,
            rates=arguments.rates,
        )
        for name in names
    ]


def _all(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Any]:
    parts = []
    for name in QUICK:
        parts.append(Part(_plan(parser, arguments, name)))
        plan = _plan(parser, arguments, name, algorithms=("adam",))
        parts.append(Part(plan, dict(DEFAULT_VARY)))
    plan = replace(_plan(parser, arguments, "allcnn"), events=TOYS, pretrained=True)
    trained = Evaluation(plan)  # training it takes minutes
    return [Everything(parts, arguments.jobs), trained, _Index(arguments.out)]


@dataclass(frozen=True)
class _Index:
    """The page of all runs in a folder, made after the runs."""

    folder: pathlib.Path

    def carry_out(self, console: Console) -> None:
        file = Report([self.folder], self.folder / "index.html").carry_out(console)
        console.print(f"Open {file.resolve().as_uri()}", soft_wrap=True, highlight=False)


def _report(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Report]:
    return [
        Report(
            arguments.folders,
            arguments.out,
            landscapes=arguments.landscapes,
            studies=arguments.studies,
        )
    ]


@dataclass(frozen=True)
class _Table:
    """The rows of a run as a file."""

    run: Run
    file: pathlib.Path
    of: Literal["epochs", "steps"]

    def carry_out(self, console: Console) -> None:
        self.run.export(self.file, self.of)


def _export(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[_Table]:
    del parser
    if arguments.out.suffix not in {".csv", ".parquet"}:
        raise ValueError(f"file = {str(arguments.out)!r}: allowed are *.csv and *.parquet")
    return [_Table(Run.read(arguments.folder), arguments.out, arguments.of)]


_COMMANDS: Final[Mapping[str, Callable[..., Sequence[Any]]]] = {
    "run": _run,
    "twins": _twins,
    "evaluate": _evaluate,
    "travel": _travel,
    "compare": _compare,
    "all": _all,
    "report": _report,
    "export": _export,
}


def _plan(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    name: str,
    algorithms: Sequence[str] | None = None,
) -> Plan:
    return Plan(
        study=name,
        algorithms=tuple(
            dict.fromkeys(algorithms or arguments.algorithm or arguments.default_algorithms)
        ),
        methods=tuple(dict.fromkeys(arguments.methods or [PLAIN])),
        backends=_backends(parser, arguments.backend),
        out=arguments.out,
        epochs=arguments.epochs,
        lr=arguments.lr,
        seed=arguments.seed,
        dialect=arguments.dialect,
        overwrite=arguments.overwrite,
        data=arguments.data,
        events=arguments.events,
        pretrained=getattr(arguments, "pretrained", False),
        start=getattr(arguments, "start", ()),
        device=arguments.device,
        go_on=arguments.command == "all",
        all_backends=arguments.backend is not None,
    )


def _backends(parser: argparse.ArgumentParser, wanted: str | None) -> list[str]:
    installed = installed_backends()
    if not installed:
        parser.error("neither torch nor jax with optax and flax is installed")
    if wanted is None:
        return installed
    chosen = list(BACKENDS) if wanted == "both" else [wanted]
    for backend in chosen:
        if backend not in installed:
            parser.error(
                f"backend = {wanted!r}: {' or '.join(BACKENDS[backend])} is not installed; "
                f"allowed are {', '.join(map(repr, installed))}"
            )
    return chosen


if __name__ == "__main__":
    sys.exit(main())
