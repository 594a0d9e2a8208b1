"""The arguments of the command line: the options of each command, and their checks."""

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
        description="Train with the optimizers of optstudy, measure every epoch, and draw figures.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="train one study")
    run.add_argument(
        "--method",
        dest="methods",
        action="append",
        type=_name("method", METHODS),
        metavar="M",
        help=f"method at the end of each epoch: {', '.join(METHODS)}; repeat the option for "
        f"several methods (default: {PLAIN})",
    )
    pair = commands.add_parser(
        "twins", help="train the same study in PyTorch and in Flax, and find where they diverge"
    )
    evaluate = commands.add_parser(
        "evaluate", help="evaluate a trained network on events that it has not seen"
    )
    evaluate.set_defaults(
        algorithm=["adam"], methods=None, lr=None, dialect=None, epochs=None, overwrite=False,
        default_algorithms=("adam",),
    )  # fmt: skip
    travel = commands.add_parser(
        "travel",
        help="move one training between libraries: PyTorch, torch.optim, PyTorch, Flax, PyTorch",
    )
    travel.add_argument(
        "--algorithm",
        type=_name("algorithm", ALGORITHMS),
        default="adam",
        metavar="A",
        help="an algorithm that torch.optim also has (default: adam)",
    )
    compare = commands.add_parser("compare", help="compare trainings with different settings")
    everything = commands.add_parser(
        "all", help="train the quick studies with SGD and Adam, and compare methods"
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
        help=f"{', '.join(STUDIES)}, a file, or all for the quick studies (default: all)",
    )
    compare.add_argument(
        "--vary",
        action="append",
        type=_vary,
        metavar="KEY=A,B,…",
        help=f"values to compare. KEY is one of {', '.join(VARIED)}. Repeat the option to train "
        "every combination (default: every method, with the learning rate and with 16 times the "
        "learning rate, where the loss jumps)",
    )
    compare.add_argument(
        "--tune",
        dest="rates",
        type=_tune,
        default=(),
        metavar="lr=A,B,…",
        help="use the best of these learning rates for each setting: the rate with the lowest "
        "mean final loss over the seeds (default: the rate of the study or of the algorithm)",
    )
    compare.add_argument(
        "--seeds",
        type=_whole("seeds", 1),
        default=1,
        metavar="N",
        help="number of trainings with different seeds for each setting, starting at --seed; the "
        "table shows median and spread (default: 1)",
    )
    for command in (run, pair, travel, evaluate):
        command.add_argument(
            "name",
            metavar="NAME",
            type=_study,
            help=f"{', '.join(STUDIES)}, or a file *.py with a function study(seed) that returns a "
            "studies.Study",
        )
    for command in (run, pair, evaluate):
        command.add_argument(
            "--device",
            choices=DEVICES,
            default="cpu",
            help="the device of both frameworks (default: cpu)",
        )
    for command in (run, pair, compare):
        words = "repeat the option for several (default: sgd and adam)" if command is run else (
            "algorithm of the optimizer (default: adam)"
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
            help="number of trainings at the same time (default: one for each core)",
        )
    for command in (run, pair, compare):
        command.add_argument(
            "--pretrained",
            action="store_true",
            help="start from the trained parameters in the package, for networks of PV-finder",
        )
    for command in (run, pair, compare, evaluate):
        command.add_argument(
            "--start",
            nargs="+",
            type=pathlib.Path,
            default=(),
            metavar="RUN",
            help="folders of runs: start from their final parameters "
            + ("(default: the trained parameters in the package)" if command is evaluate else ""),
        )
        command.add_argument(
            "--data",
            type=pathlib.Path,
            metavar="PATH",
            help="file or folder with data: IDX files of MNIST for digits and digits_cnn, ROOT or "
            "HDF5 files for networks of PV-finder (default: data that need no file)",
        )
        command.add_argument(
            "--events",
            type=_whole("events", 2),
            metavar="N",
            help="number of generated events, for networks of PV-finder (default: as in the study)",
        )
    for command in (run, pair, travel, compare):
        command.add_argument(
            "--epochs",
            type=_whole("epochs", 1),
            metavar="N",
            help="number of epochs (default: as in the study)",
        )
        command.add_argument(
            "--lr", type=_rate, metavar="X", help="learning rate (default: as in the study)"
        )
    for command in (run, pair, compare):
        command.add_argument(
            "--dialect", metavar="D", help="library of the formulas, e.g. torch or optax"
        )
    for command in (run, compare, everything, evaluate):
        command.add_argument(
            "--backend",
            type=_name("backend", [*BACKENDS, "both"]),
            metavar="B",
            help="torch, jax or both (default: all that are installed)",
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
            help=f"seed of all random numbers (default: {DEFAULT_SEED})",
        )
    for command in (run, pair, compare, everything):
        command.add_argument("--overwrite", action="store_true", help="replace existing runs")
    report = commands.add_parser("report", help="make one interactive HTML file of recorded runs")
    report.add_argument(
        "folders",
        nargs="+",
        type=pathlib.Path,
        metavar="DIR",
        help="folders of runs, or folders with runs in them",
    )
    report.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("report.html"),
        metavar="FILE",
        help="the HTML file (default: report.html)",
    )
    report.add_argument(
        "--no-landscapes",
        dest="landscapes",
        action="store_false",
        help="leave out figures that need the models: the loss around the paths, predictions",
    )
    report.add_argument(
        "--study",
        dest="studies",
        action="append",
        default=[],
        metavar="FILE",
        help="a file *.py with the study of some runs, to run for drawing the loss around their "
        "paths; repeat the option for several files. A file that only a run names is never run",
    )
    export = commands.add_parser(
        "export", help="write the rows of a run as a table, in CSV or Parquet"
    )
    export.add_argument("folder", type=pathlib.Path, metavar="RUN", help="the folder of the run")
    export.add_argument(
        "out", type=pathlib.Path, metavar="FILE", help="the table, *.csv or *.parquet"
    )
    export.add_argument(
        "--of",
        choices=("epochs", "steps"),
        default="epochs",
        help="the rows to write (default: epochs)",
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
