"""``python -m parity``: test that all backends have the same bits on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from optstudy_core._extras import extra

from . import backends, conformance, digest
from .subjects import everything, find_subject
from .suite import (
    DTYPE_NAMES,
    QUANTITIES,
    Cell,
    Report,
    check_arguments,
    check_cell,
    replay,
)
from .suite import write_failure as write

with extra("digest"):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parity",
        allow_abbrev=False,
        description="Train random cases on every backend, and compare the bits with NumPy. "
        "Exit status: 0 if every cell ran and is identical, 1 if not, 2 for bad arguments.",
        epilog="Other commands: `parity conformance --help` compares every dialect with its "
        "library; `parity digest --help` prints a digest of the bits of each algorithm.",
    )
    parser.add_argument(
        "--algorithms",
        default="all",
        help="names separated by commas, or all (default). A wrapped algorithm is named like "
        "lookahead_adam, an epoch method epoch.NAME",
    )
    parser.add_argument(
        "--backends",
        default=",".join(backends.NAMES),
        help="names of backends separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--dtypes",
        default=",".join(DTYPE_NAMES),
        help="dtypes of the parameters: float32, float64, bfloat16, float16 (default: %(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="device: cpu (default) or cuda")
    parser.add_argument(
        "--steps",
        type=int,
        default=200,
        help="largest number of steps of a case (default: %(default)s)",
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=20,
        help="number of cases for each cell (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the cases (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to FILE")
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="run the failing case in FILE again"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "conformance":
        return conformance.main(argv[1:])
    if argv and argv[0] == "digest":
        return digest.main(argv[1:])
    arguments = _parser().parse_args(argv)
    console = Console()

    def refuse(error: object) -> NoReturn:
        print(f"parity: {error}", file=sys.stderr)
        raise SystemExit(2)

    try:
        if arguments.replay is not None:
            cells = [replay(arguments.replay, arguments.device)]
        else:
            names = _split(arguments.algorithms)
            if names == ["all"]:
                names = everything()
            subjects = [find_subject(name) for name in names]
            dtypes = _split(arguments.dtypes)
            chosen = check_arguments(
                _split(arguments.backends),
                dtypes,
                arguments.device,
                arguments.examples,
                arguments.steps,
            )
            cells = []
            with _progress(console) as progress:
                bar = progress.add_task(
                    "", total=len(subjects) * len(chosen) * len(dtypes) * arguments.examples
                )
                for name, subject in zip(names, subjects, strict=True):
                    for backend in chosen:
                        for dtype in dtypes:
                            progress.update(bar, description=f"{name} {backend} {dtype}")
                            cells.append(
                                check_cell(
                                    subject,
                                    backend,
                                    dtype,
                                    device=arguments.device,
                                    examples=arguments.examples,
                                    steps=arguments.steps,
                                    seed=arguments.seed,
                                    on_case=lambda: progress.advance(bar),
                                )
                            )
                            progress.update(bar, completed=len(cells) * arguments.examples)
        if arguments.json is not None:
            report = json.dumps(Report(cells).to_json(), indent=1)
            arguments.json.write_text(report + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        refuse(error)
    _show(console, cells)
    _write_failures(console, cells, arguments.replay)
    return 0 if Report(cells).complete else 1


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def _show(console: Console, cells: list[Cell]) -> None:
    table = Table(title="Compared with NumPy, bit by bit", title_justify="left")
    for heading in ("algorithm", "backend", "dtype", "trajectories", "states", "norms", "angles"):
        table.add_column(heading, overflow="fold")
    previous = ""
    for cell in cells:
        if previous not in ("", cell.algorithm):
            table.add_section()
        verdicts = (
            [f"[yellow]{cell.verdict('')}[/]"] + [""] * 3
            if cell.not_run is not None
            else [_coloured(cell, quantity) for quantity in QUANTITIES]
        )
        table.add_row(
            cell.algorithm if cell.algorithm != previous else "",
            cell.backend,
            cell.dtype,
            *verdicts,
        )
        previous = cell.algorithm
    console.print(table)
    zeros = sum(cell.tolerated.signed_zeros for cell in cells)
    flushed = sum(cell.tolerated.subnormals for cell in cells)
    console.print(
        f"{sum(cell.cases for cell in cells)} cases. Differences that the contract allows: "
        f"{zeros} zeros with the other sign, {flushed} subnormal numbers that became zero."
    )
    if Report(cells).complete:
        console.print("[bold green]identical[/] in every cell")
    else:
        wrong = [cell for cell in cells if not cell.identical]
        console.print(
            f"[bold red]not identical or not run[/] in {len(wrong)} of {len(cells)} cells"
        )


def _coloured(cell: Cell, quantity: str) -> str:
    good = cell.identical or (cell.cases and quantity not in cell.differences)
    return f"[{'green' if good else 'red'}]{cell.verdict(quantity).replace('[', chr(92) + '[')}[/]"


def _write_failures(console: Console, cells: list[Cell], replayed: Path | None) -> None:
    if replayed is not None:
        return
    failing = [cell for cell in cells if cell.failing is not None]
    for cell in failing:
        path = Path(f"parity-failure-{cell.algorithm}-{cell.backend}-{cell.dtype}.json")
        try:
            write(cell, path)
        except OSError as error:
            console.print(f"cannot write {path}: {error}")
        else:
            console.print(f"smallest failing case: {path} (run again with --replay {path})")


if __name__ == "__main__":
    sys.exit(main())
