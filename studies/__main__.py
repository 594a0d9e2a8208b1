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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from optstudy_core._extras import extra

with extra("studies"):
    from rich.console import Console

    from optstudy_core import ALGORITHMS
    from optstudy_core.arrays.numbers import nearest
    from optstudy_core.catalogue.hyperparameters import RANGES
    from optstudy_core.records import Run
    from studies.problems.table import QUICK, STUDIES, check_name, load

    from .comparisons.compare import VARIED, Comparison, cores, values
    from .comparisons.evaluation import Evaluation
    from .comparisons.everything import Everything, Part
    from .comparisons.journey import Travel
    from .comparisons.runner import Plan, Prepared, Twins
    from .learners.methods import METHODS, PLAIN
    from .learners.optimizer import Optimizer
    from .learners.training import BACKENDS, installed_backends
    from .processes import TerminatedError, terminable
    from .report import Report
    from .study import DEVICES

DEFAULT_ALGORITHMS = ("sgd", "adam")
DEFAULT_SEED = 2021
DEFAULT_VARY: Final = (("method", list(METHODS)), ("lr_factor", [1.0, 16.0]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; ``None``: those of the process.

    Returns:
        the exit status: 0; 2 for an argument that is not allowed; 130 where Ctrl-C ended it, 143
        where SIGTERM did.
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
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    for part in prepared:
        part.carry_out(console)
    if arguments.command != "report":
        console.print(f"Everything is in {arguments.out}", soft_wrap=True, highlight=False)
    return 0


def _how_to_go_on(arguments: argparse.Namespace) -> str:
    if arguments.command in {"run", "twins"}:
        return "the same command with --overwrite begins again"
    without = " without --overwrite" if getattr(arguments, "overwrite", False) else ""
    return f"the same command{without} goes on with what is not done"


# What each command prepares; every value is checked before anything is done.


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Prepared]:
    return [Prepared(_plan(parser, arguments, arguments.name))]


def _twins(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Prepared]:
    arguments.backend = "both"
    return [Twins(_plan(parser, arguments, arguments.name))]


def _evaluate(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Evaluation]:
    arguments.pretrained = arguments.run is None
    return [Evaluation(_plan(parser, arguments, arguments.name), arguments.run)]


def _travel(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Travel]:
    del parser
    study = load(arguments.name, arguments.seed)
    optimizer = Optimizer.of(study, arguments.algorithm, arguments.lr, None)
    return [Travel(study, optimizer, arguments.epochs or study.epochs, arguments.out)]


def _compare(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Comparison]:
    vary = dict(arguments.vary or DEFAULT_VARY)
    if arguments.vary and len(vary) < len(arguments.vary):
        raise ValueError("vary: the same was given twice; allowed are several values, x=1,2")
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
    return [Everything(parts, arguments.jobs), _Index(arguments.out)]


@dataclass(frozen=True)
class _Index:
    """The page of all runs in a folder, made when they are there."""

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
        device=arguments.device,
        go_on=arguments.command == "all",
        all_backends=arguments.backend is not None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies",
        description="Train with the project's optimizers, measure every epoch, and draw it.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="one study")
    run.add_argument(
        "--method",
        dest="methods",
        action="append",
        type=_name("method", METHODS),
        metavar="M",
        help=f"what is done at the end of an epoch: {', '.join(METHODS)}; may be given several "
        f"times (default: {PLAIN})",
    )
    pair = commands.add_parser(
        "twins", help="the same training in PyTorch and in Flax: where do they part?"
    )
    evaluate = commands.add_parser(
        "evaluate", help="what a trained network is worth, on events that it has not seen"
    )
    evaluate.add_argument(
        "--run",
        type=pathlib.Path,
        metavar="RUN",
        help="the folder of a run, whose final parameters are taken (default: those that were "
        "trained before)",
    )
    evaluate.set_defaults(
        algorithm=["adam"], methods=None, lr=None, dialect=None, epochs=None, overwrite=False,
        default_algorithms=("adam",),
    )  # fmt: skip
    travel = commands.add_parser(
        "travel", help="a training that moves: PyTorch, torch.optim, PyTorch, Flax, PyTorch"
    )
    travel.add_argument(
        "--algorithm",
        type=_name("algorithm", ALGORITHMS),
        default="adam",
        metavar="A",
        help="one that torch.optim has (default: adam)",
    )
    compare = commands.add_parser("compare", help="trainings that differ in what you vary")
    everything = commands.add_parser(
        "all", help="the quick studies with SGD and Adam, and their comparison"
    )
    everything.set_defaults(
        name="all", algorithm=None, epochs=None, lr=None, dialect=None, data=None, events=None,
        default_algorithms=DEFAULT_ALGORITHMS,
    )  # fmt: skip
    compare.add_argument(
        "name",
        nargs="?",
        default="all",
        metavar="NAME",
        type=lambda text: text if text == "all" else _study(text),
        help=f"{', '.join(STUDIES)}, a file, or all: the quick ones (default: all)",
    )
    compare.add_argument(
        "--vary",
        action="append",
        type=_vary,
        metavar="KEY=A,B,…",
        help=f"KEY is one of {', '.join(VARIED)}; may be given several times, then every "
        "combination is trained (default: every method, at the learning rate and at 16 times that, "
        "where the loss jumps)",
    )
    compare.add_argument(
        "--tune",
        dest="rates",
        type=_tune,
        default=(),
        metavar="lr=A,B,…",
        help="compare each at its best of these learning rates: that with the lowest final loss of "
        "one training each (default: each at the study's or the algorithm's own rate)",
    )
    compare.add_argument(
        "--seeds",
        type=_whole("seeds", 1),
        default=1,
        metavar="N",
        help="trainings of each kind, from --seed on: median and spread (default: 1)",
    )
    for command in (run, pair, travel, evaluate):
        command.add_argument(
            "name",
            metavar="NAME",
            type=_study,
            help=f"{' or '.join(STUDIES)}; or a file *.py with a function study(seed) that returns "
            "a studies.Study",
        )
    for command in (run, pair, evaluate):
        command.add_argument(
            "--device",
            choices=DEVICES,
            default="cpu",
            help="where both frameworks compute (default: cpu)",
        )
    for command in (run, pair, compare):
        words = "may be given several times (default: sgd and adam)" if command is run else (
            "(default: adam)"
        )  # fmt: skip
        command.add_argument(
            "--algorithm",
            action="append",
            type=_name("algorithm", ALGORITHMS),
            metavar="A",
            help=f"one of {', '.join(ALGORITHMS)}; {words}" if command is run else words,
        )
    for command in (pair, compare, everything):
        command.set_defaults(methods=None)
    for command in (compare, everything):
        command.set_defaults(device="cpu")
    run.set_defaults(default_algorithms=DEFAULT_ALGORITHMS)
    for command in (pair, compare):
        command.set_defaults(default_algorithms=("adam",))
    for command in (compare, everything):
        command.add_argument(
            "--jobs",
            type=_whole("jobs", 1),
            default=cores(),
            metavar="N",
            help="trainings at a time (default: one for each core)",
        )
    for command in (run, pair, compare):
        command.add_argument(
            "--pretrained",
            action="store_true",
            help="begin with the parameters that were trained before, for allcnn and ddplus",
        )
    for command in (run, pair, compare, evaluate):
        command.add_argument(
            "--data",
            type=pathlib.Path,
            metavar="PATH",
            help="a file or folder: MNIST's IDX files for digits and digits_cnn, ROOT or HDF5 of "
            "PV-finder for allcnn and ddplus (default: what needs no file)",
        )
        command.add_argument(
            "--events",
            type=_whole("events", 2),
            metavar="N",
            help="how many to generate, for allcnn and ddplus (default: the study's)",
        )
    for command in (run, pair, travel, compare):
        command.add_argument(
            "--epochs", type=_whole("epochs", 1), metavar="N", help="(default: the study's)"
        )
        command.add_argument(
            "--lr", type=_rate, metavar="X", help="learning rate (default: the study's)"
        )
    for command in (run, pair, compare):
        command.add_argument(
            "--dialect", metavar="D", help="which library's formulas, e.g. torch or optax"
        )
    for command in (run, compare, everything, evaluate):
        command.add_argument(
            "--backend",
            type=_name("backend", [*BACKENDS, "both"]),
            metavar="B",
            help="torch, jax or both (default: what is installed)",
        )
    for command in (run, pair, travel, compare, everything, evaluate):
        command.add_argument(
            "--out",
            type=pathlib.Path,
            default=pathlib.Path("runs"),
            metavar="DIR",
            help="folder for records and figures (default: runs)",
        )
        command.add_argument(
            "--seed",
            type=_whole("seed", 0),
            default=DEFAULT_SEED,
            metavar="N",
            help=f"of all that is drawn at random (default: {DEFAULT_SEED})",
        )
    for command in (run, pair, compare, everything):
        command.add_argument(
            "--overwrite", action="store_true", help="replace runs that are there already"
        )
    report = commands.add_parser("report", help="recorded runs as one interactive HTML file")
    report.add_argument(
        "folders", nargs="+", type=pathlib.Path, metavar="DIR", help="with runs in it or below it"
    )
    report.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("report.html"),
        metavar="FILE",
        help="(default: report.html)",
    )
    report.add_argument(
        "--no-landscapes",
        dest="landscapes",
        action="store_false",
        help="without what takes the models: the loss around the paths, predictions",
    )
    report.add_argument(
        "--study",
        dest="studies",
        action="append",
        default=[],
        metavar="FILE",
        help="the file *.py with the study of some runs, which is run to draw the loss around "
        "their paths; may be given several times. Files that only a run names are never run",
    )
    export = commands.add_parser("export", help="the rows of a run as a table, CSV or Parquet")
    export.add_argument("folder", type=pathlib.Path, metavar="RUN", help="the folder of the run")
    export.add_argument("out", type=pathlib.Path, metavar="FILE", help="*.csv or *.parquet")
    export.add_argument(
        "--of", choices=("epochs", "steps"), default="epochs", help="which rows (default: epochs)"
    )
    return parser


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


# Argument types; argparse turns the error into its message and exit status 2.


def _name(argument: str, allowed: Iterable[str]) -> Callable[[str], str]:
    names = list(allowed)

    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{argument} = {text!r}: {nearest(text, names)}")
        return text

    return parse


def _whole(argument: str, least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(
                f"{argument} = {text}: allowed are whole numbers >= {least}"
            )
        return value

    return parse


def _study(text: str) -> str:
    try:
        return check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _vary(text: str) -> tuple[str, list[Any]]:
    key, equals, some = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"vary = {text!r}: allowed are key=value,value,…")
    try:
        return key, values(key, some)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _tune(text: str) -> list[Any]:
    if not text.startswith("lr="):
        raise argparse.ArgumentTypeError(f"tune = {text!r}: allowed are lr=value,value,…")
    return _vary(text)[1]


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not RANGES["lr"].holds(value):
        raise argparse.ArgumentTypeError(f"lr = {text}: allowed are {RANGES['lr']}")
    return value


if __name__ == "__main__":
    sys.exit(main())
