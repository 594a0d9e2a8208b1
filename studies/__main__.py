"""The experiments from the command line.

::

    python -m studies run linear_regression --algorithm adam --backend torch
    python -m studies run digits --epochs 10 --out runs/short
    python -m studies run digits --method careful --method eve
    python -m studies compare digits --methods careful eve --backend torch
    python -m studies run allcnn --events 200 --backend torch
    python -m studies run digits_cnn --data MNIST
    python -m studies all --out runs
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console

from optstudy_core import ALGORITHMS
from optstudy_core.hyperparameters import RANGES, nearest

from .compare import Comparison
from .methods import METHODS, PLAIN
from .runner import Plan, Prepared
from .study import QUICK, STUDIES
from .training import BACKENDS, installed_backends

DEFAULT_ALGORITHMS = ("sgd", "adam")
DEFAULT_SEED = 2021
LR_FACTORS = (1.0, 16.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; ``None``: those of the process.

    Returns:
        the exit status: 0, or 2 for an argument that is not allowed.
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        if arguments.command == "compare":
            arguments.algorithm = [arguments.algorithm]
            arguments.methods = [PLAIN, *(arguments.methods or METHODS)]
        if arguments.lr_factors is None:
            arguments.lr_factors = LR_FACTORS if arguments.lr is None else (1.0,)
        arguments.algorithm = arguments.algorithm or DEFAULT_ALGORITHMS
        arguments.methods = arguments.methods or [PLAIN]
        backends = _backends(parser, arguments.backend)
        names = QUICK if arguments.name == "all" else (arguments.name,)
        prepare = Comparison if arguments.command == "compare" else Prepared
        try:
            prepared = [
                prepare(
                    Plan(
                        study=name,
                        algorithms=tuple(dict.fromkeys(arguments.algorithm)),
                        methods=tuple(dict.fromkeys(arguments.methods)),
                        backends=backends,
                        out=arguments.out,
                        epochs=arguments.epochs,
                        lr=arguments.lr,
                        seed=arguments.seed,
                        dialect=arguments.dialect,
                        overwrite=arguments.overwrite,
                        lr_factor=factor,
                        data=arguments.data,
                        events=arguments.events,
                    )
                )
                for name in names
                for factor in dict.fromkeys(arguments.lr_factors)
            ]
        except FileExistsError as error:
            parser.error(f"{error}; --overwrite replaces it")
        except (ValueError, NotADirectoryError, FileNotFoundError) as error:
            parser.error(str(error))
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    console = Console()
    for study in prepared:
        study.carry_out(console)
    console.print(f"Everything is in {arguments.out}", soft_wrap=True, highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies",
        description="Train with the project's optimizers, measure every epoch, and draw it.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="one study")
    run.add_argument(
        "name", metavar="NAME", type=_name("study", STUDIES), help=" or ".join(STUDIES)
    )
    run.add_argument(
        "--algorithm",
        action="append",
        type=_name("algorithm", ALGORITHMS),
        metavar="A",
        help=f"one of {', '.join(ALGORITHMS)}; may be given several times (default: sgd and adam)",
    )
    run.add_argument(
        "--method",
        dest="methods",
        action="append",
        type=_name("method", METHODS),
        metavar="M",
        help=f"what is done at the end of an epoch: {', '.join(METHODS)}; may be given several "
        f"times (default: {PLAIN})",
    )
    compare = commands.add_parser("compare", help="with each epoch method and without")
    compare.add_argument(
        "name",
        nargs="?",
        default="all",
        metavar="NAME",
        type=_name("study", [*STUDIES, "all"]),
        help=f"{', '.join(STUDIES)} or all (default: all)",
    )
    compare.add_argument(
        "--methods",
        nargs="+",
        type=_name("method", METHODS),
        metavar="M",
        help=f"some of {', '.join(METHODS)} (default: all); {PLAIN} is always one",
    )
    compare.add_argument(
        "--algorithm",
        default="adam",
        type=_name("algorithm", ALGORITHMS),
        metavar="A",
        help="(default: adam)",
    )
    everything = commands.add_parser(
        "all", help="the quick studies with SGD and Adam, and their comparison"
    )
    everything.set_defaults(
        name="all",
        algorithm=None,
        methods=None,
        epochs=None,
        lr=None,
        dialect=None,
        data=None,
        events=None,
    )
    compare.add_argument(
        "--lr-factors",
        nargs="+",
        type=_rate_factor,
        metavar="X",
        help="a comparison with so many times the learning rate each (default: 1 if --lr is given, "
        f"else {' and '.join(f'{x:g}' for x in LR_FACTORS)}; at the latter the loss jumps, for "
        "which the careful methods are)",
    )
    for command in (run, everything):
        command.set_defaults(lr_factors=(1.0,))
    for command in (run, compare):
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
        command.add_argument(
            "--epochs", type=_whole("epochs", 1), metavar="N", help="(default: the study's)"
        )
        command.add_argument(
            "--lr", type=_rate, metavar="X", help="learning rate (default: the study's)"
        )
        command.add_argument(
            "--dialect", metavar="D", help="whose mathematics, e.g. torch or optax"
        )
    for command in (run, compare, everything):
        command.add_argument(
            "--backend",
            type=_name("backend", [*BACKENDS, "both"]),
            metavar="B",
            help="torch, jax or both (default: what is installed)",
        )
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
        command.add_argument(
            "--overwrite", action="store_true", help="replace runs that are there already"
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


def _rate_factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"lr-factors = {text}: allowed are finite numbers > 0")
    return value


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
