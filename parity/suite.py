"""The suite: it draws cases, trains them on each backend, and compares the bits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed

from optstudy_core import Algorithm
from optstudy_core.arrays.numbers import nearest

from . import backends
from . import epochs as epoch_methods
from .case import Case
from .cases import cases
from .compare import Difference, Tolerated, first_unequal
from .epochs import EpochCase, EpochMethod
from .saved import MOST_STEPS, Saved
from .structures import DTYPES, STRUCTURES
from .subjects import Subject, find_subject, subject_name

QUANTITIES = ("trajectory", "state", "norm", "angle")
DTYPE_NAMES = ("float32", "float64", "bfloat16")


@dataclass
class Cell:
    """One algorithm or epoch method on one backend in one dtype.

    Attributes:
        algorithm: the name of the algorithm; ``epoch.NAME`` for an epoch method.
        backend: a name in ``backends.NAMES``.
        dtype: the dtype of the parameters.
        cases: the number of compared cases.
        differences: the first difference of each quantity with differences.
        not_run: the reason why nothing was compared, or ``None``.
        tolerated: allowed differences: signs of zeros, subnormal numbers that became zero.
        failing: the smallest case with a difference.
    """

    algorithm: str
    backend: str
    dtype: str
    cases: int = 0
    differences: dict[str, Difference] = field(default_factory=dict)
    not_run: str | None = None
    tolerated: Tolerated = field(default_factory=Tolerated)
    failing: Case | EpochCase | None = None

    @property
    def identical(self) -> bool:
        """Whether something was compared and nothing differs."""
        return self.cases > 0 and not self.differences and self.not_run is None

    def verdict(self, quantity: str) -> str:
        """Return the text of the table for a quantity.

        Args:
            quantity: a key of ``differences``.
        """
        if self.not_run is not None:
            return f"not run: {self.not_run}"
        if quantity in self.differences:
            return str(self.differences[quantity])
        return f"identical ({self.cases})" if self.cases else "no cases"


@dataclass
class Report:
    """The result of a check.

    Attributes:
        cells: one for each backend and dtype (and algorithm).
    """

    cells: list[Cell]

    @property
    def identical(self) -> bool:
        """Whether every cell that could run is identical, and at least one could."""
        ran = [cell for cell in self.cells if cell.not_run is None]
        return bool(ran) and all(cell.identical for cell in ran)

    @property
    def complete(self) -> bool:
        """Whether every cell ran and is identical."""
        return bool(self.cells) and all(cell.identical for cell in self.cells)

    @property
    def first_difference(self) -> Difference | None:
        """The first difference of the first cell with differences."""
        return next((d for cell in self.cells for d in cell.differences.values()), None)

    @property
    def cases(self) -> int:
        """The number of cases compared."""
        return sum(cell.cases for cell in self.cells)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        rows = []
        for cell in self.cells:
            row = asdict(cell) | {"identical": cell.identical}
            row["failing"] = cell.failing.to_json() if cell.failing else None
            rows.append(row)
        return {"identical": self.identical, "complete": self.complete, "cells": rows}


class _MismatchError(AssertionError):
    """Tells Hypothesis that a case differs."""


def _strategy(subject: Subject, dtype: str, steps: int, seed: int) -> Any:
    if isinstance(subject, EpochMethod):
        return subject.strategy(dtype, steps, seed)
    return cases(subject, dtype, steps=steps, seed=seed)


def _run(subject: Subject, backend: backends.Backend, case: Any) -> backends.Run:
    if isinstance(subject, EpochMethod):
        return epoch_methods.run(subject, backend, case)
    return backend.run(subject, case)


def compare(
    expected: backends.Run,
    found: backends.Run,
    case: Case | EpochCase,
    tolerated: Tolerated,
    backend: str,
) -> dict[str, Difference]:
    """Return the first difference of each quantity between the runs of NumPy and a backend."""
    paths = [leaf.path for leaf in STRUCTURES[case.structure]]
    differences: dict[str, Difference] = {}

    def note(quantity: str, step: int, leaf: str, x: np.ndarray, y: np.ndarray) -> None:
        first = first_unequal(np.asarray(x), np.asarray(y), tolerated)
        if first is not None and quantity not in differences:
            differences[quantity] = Difference(backend, case.dtype, quantity, step, leaf, *first)

    rows = zip(expected.trajectory, found.trajectory, strict=True)
    for step, (want, got) in enumerate(rows, 1):
        for path, x, y in zip(paths, want, got, strict=True):
            note("trajectory", step, path, x, y)
    for quantity in ("state", "norm", "angle"):
        attribute = quantity if quantity == "state" else f"{quantity}s"
        wanted, gotten = getattr(expected, attribute), getattr(found, attribute)
        if set(wanted) != set(gotten):
            names = f"{sorted(wanted)} and {sorted(gotten)}"
            raise ValueError(f"{quantity}: the backends report {names}")
        for name in wanted:
            note(quantity, case.steps, name, wanted[name], gotten[name])
    return differences


def run_case(
    subject: Subject, case: Case | EpochCase, backend: backends.Backend, tolerated: Tolerated
) -> dict[str, Difference]:
    """Train one case with NumPy and with ``backend``; return the differences."""
    case.values()  # drawn before subnormal numbers are flushed
    with backends.whole_range(backend.device):
        expected = _run(subject, backends.NumPyBackend(), case)
        found = _run(subject, backend, case)
        differences = compare(expected, found, case, tolerated, backend.name)
        if differences and compare(
            expected, _run(subject, backends.NumPyBackend(), case), case, Tolerated(), "numpy"
        ):
            differences = {n: replace(d, note=_IMPURE) for n, d in differences.items()}
    return differences


_IMPURE: Final = (
    "the rule is not a pure function, because NumPy has other bits when it runs the case again"
)


def check_cell(
    subject: Subject,
    backend: str,
    dtype: str,
    *,
    device: str = "cpu",
    examples: int = 20,
    steps: int = 200,
    seed: int = 0,
    on_case: Callable[[], None] = lambda: None,
) -> Cell:
    """Draw cases for one algorithm or method, and shrink the first case with a difference."""
    cell = Cell(subject_name(subject), backend, dtype)
    try:
        runner = backends.make(backend, device)
    except backends.NotRunError as reason:
        cell.not_run = str(reason)
        return cell

    @hypothesis_seed(seed)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    @given(_strategy(subject, dtype, steps, seed))
    def compare_drawn(case: Case | EpochCase) -> None:
        tolerated = Tolerated()
        differences = run_case(subject, case, runner, tolerated)
        if differences:
            cell.differences, cell.failing = differences, case
            raise _MismatchError
        if cell.failing is None:
            cell.cases += 1
            cell.tolerated.signed_zeros += tolerated.signed_zeros
            cell.tolerated.subnormals += tolerated.subnormals
            on_case()

    try:
        compare_drawn()
    except _MismatchError:
        cell.cases += 1
    return cell


def check(
    algorithm: str | Subject,
    *,
    backends: Sequence[str] | None = None,
    dtypes: Sequence[str] = DTYPE_NAMES,
    device: str = "cpu",
    examples: int = 20,
    steps: int = 200,
    seed: int = 0,
    on_case: Callable[[], None] = lambda: None,
) -> Report:
    """Test the numerics contract for an algorithm: the same bits on every backend.

    Args:
        algorithm: a name in ``optstudy_core.ALGORITHMS``, also wrapped (``lookahead_adam``); an
            ``Algorithm`` of your own; or an epoch method, such as ``"epoch.careful"`` (see
            ``parity.epochs.METHODS``).
        backends: some of ``numpy``, ``torch``, ``torch-compiled``, ``jax`` and ``jax-jit``;
            ``None`` for all.
        dtypes: dtypes of the parameters: ``float32``, ``float64``, ``bfloat16``, ``float16``.
        device: ``cpu`` or ``cuda``.
        examples: the number of cases for each backend and dtype.
        steps: the largest number of steps of a case (an epoch method has at most 8 epochs).
        seed: the seed of the cases.
        on_case: called after each case, for example to print a dot: a check takes seconds for each
            backend and dtype, and minutes with all of them.

    Returns:
        a report with ``identical``, ``first_difference``, ``cases`` and ``cells``.

    Raises:
        ValueError: if an algorithm, backend, dtype or device is unknown, or a number is less
            than 1.
    """
    subject = find_subject(algorithm)
    names = check_arguments(backends, dtypes, device, examples, steps)
    return Report(
        [
            check_cell(
                subject,
                backend,
                dtype,
                device=device,
                examples=examples,
                steps=steps,
                seed=seed,
                on_case=on_case,
            )
            for backend in names
            for dtype in dtypes
        ]
    )


def check_arguments(
    names: Sequence[str] | None, dtypes: Sequence[str], device: str, examples: int, steps: int
) -> Sequence[str]:
    """Refuse unknown values; return the names of the backends.

    Raises:
        ValueError: if a value is not allowed; the message names argument, value and what is
            allowed.
    """
    names = backends.NAMES if names is None else names
    for label, given_names, known in (
        ("backends", names, backends.NAMES),
        ("dtypes", dtypes, tuple(DTYPES)),
        ("device", [device], ("cpu", "cuda")),
    ):
        if isinstance(given_names, str):
            raise ValueError(f"{label} = {given_names!r}: allowed are lists of {', '.join(known)}")
        if not given_names:
            raise ValueError(f"{label} is empty: allowed are {', '.join(known)}")
        for name in given_names:
            if name not in known:
                raise ValueError(f"{label} = {name!r}: {nearest(str(name), known)}")
    for label, count in (("examples", examples), ("steps", steps)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{label} = {count!r}: allowed are whole numbers from 1")
    if steps > MOST_STEPS:
        raise ValueError(f"steps = {steps}: allowed are whole numbers from 1 to {MOST_STEPS}")
    return names


def write_failure(cell: Cell, path: str | Path) -> None:
    """Write a failing case to a JSON file for :func:`replay`.

    Args:
        cell: a cell with a ``failing`` case.
        path: the path of the file; an existing file is replaced.
    """
    assert cell.failing is not None
    data = {
        "optstudy-parity": 1,
        "algorithm": cell.algorithm,
        "backend": cell.backend,
        "case": cell.failing.to_json(),
        "differences": {name: str(d) for name, d in cell.differences.items()},
    }
    Path(path).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def replay(path: str | Path, device: str = "cpu", *, algorithm: Algorithm | None = None) -> Cell:
    """Run a case from :func:`write_failure` again, and return the result.

    Args:
        path: the path of the file.
        device: the device of the adapters.
        algorithm: the rule, if it is one of your own; ``None``: the algorithm of optstudy with the
            name in the file.

    Returns:
        the cell of the case, with its differences.

    Raises:
        ValueError: if the file has no case, or a case of another algorithm; the message says what
            was expected.
        OSError: if the file cannot be read.
    """
    try:
        saved = Saved(json.loads(Path(path).read_text(encoding="utf-8")), "it")
        name, backend = saved.text("algorithm"), saved.text("backend", backends.NAMES)
        try:
            subject = find_subject(algorithm or name)
        except ValueError as error:
            own = f"for a rule of your own, call parity.replay({str(path)!r}, algorithm=rule)"
            raise ValueError(f"{error} ({own})") from None
        if subject_name(subject) != name:
            raise ValueError(
                f"algorithm = {subject_name(subject)!r}: the file has a case of {name!r}"
            )
        kind = EpochCase if isinstance(subject, EpochMethod) else Case
        case: Any = kind.from_json(saved.mapping("case"))
        case.check(subject)
    except (ValueError, TypeError, RecursionError) as error:  # the last: of deeply nested JSON
        raise ValueError(
            f"{path}: expected a JSON file written by the parity suite, found: {error}"
        ) from error
    check_arguments([backend], [case.dtype], device, 1, case.steps)
    cell = Cell(subject_name(subject), backend, case.dtype)
    try:
        runner = backends.make(backend, device)
    except backends.NotRunError as reason:
        cell.not_run = str(reason)
        return cell
    cell.differences = run_case(subject, case, runner, cell.tolerated)
    cell.cases = 1
    cell.failing = case if cell.differences else None
    return cell
