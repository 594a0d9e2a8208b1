"""The arguments of the command line: what each command takes, and what is refused."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from optstudy_core import ALGORITHMS
from optstudy_core.arrays.numbers import nearest
from optstudy_core.catalogue.hyperparameters import RANGES

from .comparisons.compare import VARIED, cores, values
from .learners.methods import METHODS, PLAIN
from .learners.training import BACKENDS
from .problems.table import STUDIES, check_name
from .study import DEVICES

DEFAULT_ALGORITHMS = ("sgd", "adam")
DEFAULT_SEED = 2021


def parser_of_commands() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
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
        "twins", help="the same training in PyTorch and in Flax: where do they diverge?"
    )
    evaluate = commands.add_parser(
        "evaluate", help="what a trained network is worth, on events that it has not seen"
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
            help="begin with the parameters that were trained before, for PV-finder's networks",
        )
    for command in (run, pair, compare, evaluate):
        command.add_argument(
            "--start",
            nargs="+",
            type=pathlib.Path,
            default=(),
            metavar="RUN",
            help="the folders of runs, with whose final parameters to begin "
            + ("(default: those that were trained before)" if command is evaluate else ""),
        )
        command.add_argument(
            "--data",
            type=pathlib.Path,
            metavar="PATH",
            help="a file or folder: MNIST's IDX files for digits and digits_cnn, ROOT or HDF5 "
            "files for PV-finder's networks (default: what needs no file)",
        )
        command.add_argument(
            "--events",
            type=_whole("events", 2),
            metavar="N",
            help="how many to generate, for PV-finder's networks (default: the study's)",
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
