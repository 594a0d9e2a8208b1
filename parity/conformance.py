"""Compare each dialect with its library: ``python -m parity conformance``.

Both optimizers get the same parameters and the same gradients, step after step. In float64 the
distance between the two trajectories is at rounding level if the formulas are the same, and far
above it if a term is missing. In float32 it shows how far two correct programs diverge. The pairs
are in ``parity.peers``, one module for each library.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from optstudy_core import ALGORITHMS, WRAPPERS
from optstudy_core.arrays.numbers import nearest

from . import peers
from .pairs import Arrays, Peer, Problem, Runner, rule, show

STEPS = 200
FEW_STEPS = 60  # include every event of :func:`problem`
SEEDS = (0, 1, 2)
CHECKPOINTS = (1, 10, 100, 1000)

BOUND = 1e-12
"""Largest distance in float64 between two optimizers with the same formula.

Measured: at most 1e-13 if only the order of roundings differs, and at least 1e-9 if a term is
missing (``tests/parity/test_conformance.py`` removes terms).
"""

# Problems.


@functools.cache
def problem(seed: int = 0, steps: int = STEPS, dtype: str = "float64") -> Problem:
    """Return parameters and gradients of five leaves: all magnitudes, zeros, late starts."""
    rng = np.random.default_rng(seed)

    def scale(shape: Any) -> Any:
        return 10 ** rng.uniform(-6, 3, shape)

    shapes: list[tuple[int, ...]] = [(40,), (6, 5), (12,), (), (10,)]
    begin = [np.asarray(rng.normal(size=s)) for s in shapes]
    begin[4] = np.zeros(10)  # starts at zero
    begin[2][:2] = 0.0
    fixed = scale((40,))
    grads = []
    for t in range(steps):
        g = [np.asarray(rng.normal(size=s)) for s in shapes]
        g[0] *= fixed
        g[1] *= scale((6, 5)) * (rng.random((6, 5)) > 0.2)  # a new scale each step, exact zeros
        g[2] *= t >= 10  # nothing for ten steps
        g[2][:4] = 0.0  # and here always zero
        g[3] = np.asarray(g[3] * scale(()))
        if t == 50:
            g = [np.zeros(s) for s in shapes]
        grads.append(g)

    def cast(arrays: Arrays) -> Arrays:
        return [np.asarray(x, dtype) for x in arrays]

    rng = np.random.default_rng([seed, 1])
    inputs = tuple(
        {
            "value": np.dtype(dtype).type(10 ** rng.uniform(-2, 2)),
            "hessian": cast([scale(s) * (rng.random(s) > 0.1) for s in shapes]),
        }
        for _ in range(steps)
    )
    return Problem(cast(begin), [cast(g) for g in grads], inputs=inputs)


@functools.cache
def problems(scheduled: bool = True, gaps: bool = False, steps: int = STEPS) -> tuple[Problem, ...]:
    """Return the float64 problems of a pair: three seeds, a falling rate, missing gradients.

    Args:
        scheduled: whether the learning rate can change.
        gaps: whether a gradient can be ``None``.
        steps: the number of steps.
    """
    found = [problem(seed, steps) for seed in SEEDS]
    harder = problem(0, steps)
    if scheduled:
        rates = tuple(1e-2 if t < steps // 2 else 1e-3 for t in range(steps))
        harder = replace(harder, rates=rates)
    if gaps:
        missing = [(t, i) for t in range(steps) for i in range(5) if t < 5 * i or (t + i) % 7 == 0]
        harder = replace(harder, gaps=frozenset(missing))
    if scheduled or gaps:
        found.append(harder)
    return tuple(found)


def evened(problem: Problem) -> Problem:
    """Return a problem with gradients of one magnitude."""
    rng = np.random.default_rng(len(problem.grads))

    def draw(x: np.ndarray) -> np.ndarray:
        return np.asarray(rng.normal(size=x.shape), x.dtype)

    return replace(problem, grads=[[draw(x) for x in row] for row in problem.grads])


# Distances.


def distances(begin: Arrays, ours: list[Arrays], theirs: list[Arrays]) -> list[float]:
    """Return, after each step, the largest |ours − theirs| over the running maximum of |theirs|.

    Each element has its own running maximum, which starts at the initial parameters ``begin``, so a
    parameter that crosses zero gives no large distance. NaN on one side only gives infinity.
    """
    found = []
    peaks = [np.abs(x) for x in begin]
    for a, b in zip(ours, theirs, strict=True):
        worst = 0.0
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            x, y = (np.asarray(v, np.float64) for v in (x, y))
            peaks[i] = np.fmax(peaks[i], np.abs(y))
            with np.errstate(invalid="ignore", divide="ignore"):
                difference = np.where(x == y, 0.0, np.abs(x - y) / peaks[i])
            both = np.isnan(x) & np.isnan(y)
            difference = np.where(both, 0.0, np.where(np.isnan(difference), np.inf, difference))
            worst = max(worst, float(np.max(difference, initial=0.0)))
        found.append(worst)
    return found


def distance(problem: Problem, ours: Runner, theirs: Runner) -> float:
    """Return the largest of :func:`distances` of two runs of a problem."""
    return max(distances(problem.begin, ours(problem), theirs(problem)))


@dataclass
class Measured:
    """The measured distance between an optimizer and its peer.

    Attributes:
        peer: the pair.
        float64: largest distance over all problems, relative to the running maximum.
        ulp: distance in float32 after :data:`CHECKPOINTS` steps, in units in the last place of
            the running maximum.
    """

    peer: Peer
    float64: float
    ulp: list[float] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether the two compute the same formula."""
        return self.float64 <= BOUND

    @property
    def expected(self) -> bool:
        """Whether the two are the same, or differ as :mod:`parity.differences` says."""
        difference = self.peer.difference
        return self.same if difference is None else BOUND < self.float64 <= difference.largest

    @property
    def verdict(self) -> str:
        """The verdict in the table."""
        difference = self.peer.difference
        if not self.expected:
            return "same, but listed as different" if self.same else "**differs**"
        return "same" if difference is None else f"differs: {difference.cause}"


def measure(peer: Peer, *, float32: bool = True, quick: bool = False) -> Measured:
    """Run both sides of a pair.

    Args:
        peer: the pair.
        float32: whether to measure in float32 too, over 1000 steps.
        quick: whether to run few steps of the last problem only, which has the events of all.
    """
    change = evened if peer.even else lambda problem: problem
    wanted = problems(peer.scheduled, peer.gaps, FEW_STEPS if quick else STEPS)
    trained = [change(p) for p in wanted[-1 if quick else 0 :]]
    found = Measured(peer, max(distance(p, peer.ours, peer.theirs) for p in trained))
    if float32:
        single = change(problem(0, CHECKPOINTS[-1], "float32"))
        apart = distances(single.begin, peer.ours(single), peer.theirs(single))
        # A unit in the last place is 2^-24 to 2^-23 of a number. The distance is relative, and
        # 2^-24 gives the larger count.
        found.ulp = [apart[n - 1] * 2.0**24 for n in CHECKPOINTS]
    return found


# The report.


HEADINGS = ("algorithm", "dialect", "peer", "settings", "float64", "float32", "verdict")


def rows(
    names: Iterable[str], measured: Sequence[Measured], missing: Mapping[str, str]
) -> list[tuple[str, ...]]:
    """Return the table: a row for each pair, and one for each dialect without a peer.

    A wrapper has the dialects of the wrapped algorithm; only dialects with a peer get a row.

    Args:
        names: names of algorithms and wrappers.
        measured: the pairs that ran.
        missing: the reason for each dialect that could not run.
    """
    found: list[tuple[str, ...]] = []
    for name in names:
        for dialect, values in rule(name).dialects.items():
            own = [m for m in measured if (m.peer.algorithm, m.peer.dialect) == (name, dialect)]
            if name in WRAPPERS and not own and dialect not in missing:
                continue
            for m in own:
                ulp = " / ".join(f"{x:.3g}" for x in m.ulp)
                settings = show(m.peer.settings) or "defaults"
                found.append(
                    (name, dialect, m.peer.name, settings, f"{m.float64:.1e}", ulp, m.verdict)
                )
            if not own:
                found.append(
                    (name, dialect, "", "", "", "", _without_peer(name, values, missing, dialect))
                )
    return found


def _without_peer(
    name: str, values: Mapping[str, Any], missing: Mapping[str, str], dialect: str
) -> str:
    if dialect in missing:
        return f"not run: {missing[dialect]}"
    for other, those in ALGORITHMS[name].dialects.items():
        if other != dialect and dict(those) == dict(values):
            return f"the values of dialect {other}"
    return "no peer"


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Return the table as a page in Markdown."""
    cells = [HEADINGS, ["---"] * len(HEADINGS), *table]
    lines = ["| " + " | ".join(x.replace("|", "\\|") for x in row) + " |" for row in cells]
    return "\n".join([*_PREFACE, _versions(), "", *lines, ""])


def _versions() -> str:
    used = ", ".join(f"{name} {version}" for name, version in peers.versions().items())
    return f"Measured with {used}."


def renewed(text: str, table: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the rows of a page of :func:`markdown`, updated with the rows of a table.

    Raises:
        ValueError: if the page was measured with other versions.
    """
    if _versions() not in text.splitlines():
        raise ValueError(f"its rows have other versions than {_versions()}: measure all algorithms")
    rows = [
        tuple(x.strip().replace("\\|", "|") for x in re.split(r"(?<!\\)\|", line)[1:-1])
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    new = {row[0] for row in table}
    kept = [row for row in rows[2:] if row[0] not in new]
    order = [*ALGORITHMS, *WRAPPERS]
    return sorted([*kept, *table], key=lambda row: order.index(row[0]))


_PREFACE = (
    "# Conformance: distances from the libraries",
    "",
    "Generated by `python -m parity conformance --write docs/conformance.md`. Each optimizer and",
    "its peer get the same parameters and the same gradients: magnitudes from 1e-6 to 1e3, and",
    "exact zeros. Shampoo and SOAP get gradients of one magnitude, because the eigenvectors of",
    "tiny eigenvalues depend on rounding alone.",
    "",
    "- **float64**: largest distance between the two trajectories over 200 steps, relative to the",
    "  running maximum of the parameter. The runs are three seeds and a learning rate that falls;",
    "  for torch some gradients are `None`. Up to 1e-12 the formulas are the same, with another",
    "  order of roundings.",
    "- **float32**: the distance after 1 / 10 / 100 / 1000 steps, in units of 2⁻²⁴ of the running",
    "  maximum. It shows how far two correct programs diverge.",
    "- **the paper's pseudocode**: a loop written from the paper.",
    "- **under**: hyperparameters change, by a scheduler, by hand or injected.",
    "- The last rows are **wrappers** around Adam.",
    "",
    "A dialect accepts the values that its library accepts and computes with finite results. optax",
    "and Keras check no values. The dialects optax and keras refuse decay rates below 0 or from 1",
    "on: 1 − β is 0, or the average grows without bound. They refuse infinite values, except",
    "`d=inf` of Adafactor, which is `clipping_threshold=None` in optax.",
    "",
)


def main(argv: Sequence[str]) -> int:
    """Run the command; return 0 if every pair is as expected, 1 if not, 2 for bad arguments."""
    parser = argparse.ArgumentParser(
        prog="parity conformance",
        allow_abbrev=False,
        description="Compare every dialect with the library of the same name. Exit status: 0 if "
        "every pair that ran agrees with the table of peers, 1 if not, 2 for bad arguments.",
    )
    parser.add_argument(
        "--algorithms",
        default="all",
        help="names of algorithms and wrappers separated by commas, or all (default)",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write the table as Markdown to FILE; for some algorithms, update their rows in FILE",
    )
    arguments = parser.parse_args(argv)
    known = names = [*ALGORITHMS, *WRAPPERS]
    if arguments.algorithms != "all":
        names = [name.strip() for name in arguments.algorithms.split(",") if name.strip()]
    for name in names:
        if name not in known:
            parser.error(f"algorithm = {name!r}: {nearest(name, known)}")
    console = Console()
    every_peer, missing = peers.collect()
    chosen = [peer for peer in every_peer if peer.algorithm in names]
    measured = [measure(p) for p in track(chosen, "measuring", console=console, transient=True)]
    found = rows(names, measured, missing)
    if arguments.write is not None:
        whole = found
        if names != known and arguments.write.exists():
            try:
                whole = renewed(arguments.write.read_text(encoding="utf-8"), found)
            except ValueError as error:
                parser.error(f"{arguments.write}: {error}")
        arguments.write.write_text(markdown(whole), encoding="utf-8")
    table = Table(title="Distances from the libraries", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for row in found:
        table.add_row(*row)
    console.print(table)
    wrong = [m for m in measured if not m.expected]
    for m in wrong:
        console.print(f"[bold red]not as expected[/]: {m.peer.label}: {m.float64:.1e}")
    return 1 if wrong else 0
