"""The same training in PyTorch and in JAX: how far apart, because of gradients or optimizers.

There are two comparisons. The first compares the parameters of the two runs after each epoch. The
second repeats the PyTorch training and separates gradients from optimizers. At each step both
frameworks evaluate their *gradients* at the same parameters on the same mini-batch. Then the
*optimizers* of both take a step with PyTorch's gradient. The optimizers start at the same
parameters, and must never diverge.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from optstudy_core import geometry
from optstudy_core.records import write_json, write_text
from studies.learners.epochs import difference
from studies.learners.optimizer import Optimizer
from studies.learners.training import make_learner
from studies.pairs import Difference, EpochPair, Gradients, Twins
from studies.records import Run, encode
from studies.study import Study

# Float32 gradients of small models that differ by more than this have another formula.
_ROUNDING: Final = 1e-4


def compare(
    study: Study,
    optimizer: Optimizer,
    torch_run: Run,
    jax_run: Run,
    *,
    after_epoch: Callable[[], None] = lambda: None,
) -> Twins:
    """Compare two finished runs of a study with the same optimizer.

    Args:
        study: the study.
        optimizer: the optimizer of both runs.
        torch_run: the record of the PyTorch training.
        jax_run: the record of the JAX training.
        after_epoch: called after each epoch, for a progress bar.
    """
    assert torch_run.path is not None
    assert jax_run.path is not None
    ours, theirs = (run.path.at_epochs(study.steps_per_epoch) for run in (torch_run, jax_run))  # type: ignore[union-attr]
    with np.errstate(invalid="ignore"):
        losses = torch_run.column("loss") - jax_run.column("loss")
    pairs = []
    for epoch, (gradients, fed_alike) in enumerate(walk(study, optimizer, len(losses)), 1):
        steps = (difference(path[epoch], path[epoch - 1]) for path in (ours, theirs))
        pairs.append(
            EpochPair(
                epoch=epoch,
                distance=geometry.norm(difference(ours[epoch], theirs[epoch]), exact=True),
                angle=geometry.angle(*steps, degrees=True, exact=True),
                loss_difference=float(losses[epoch - 1]),
                parameters=Difference.between(ours[epoch], theirs[epoch]),
                gradients=gradients,
                optimizer=fed_alike,
            )
        )
        after_epoch()
    return Twins(
        study=study.name,
        algorithm=optimizer.algorithm,
        hyperparameters=optimizer.hyperparameters,
        epochs=tuple(pairs),
        conclusion=conclude(pairs),
    )


def walk(study: Study, optimizer: Optimizer, epochs: int) -> Iterator[tuple[Gradients, Difference]]:
    """Yield, for each epoch of the PyTorch training, the difference of gradients and optimizers."""
    from studies.learners.torch_learner import subnormals_flushed

    torch_side = make_learner("torch", study, optimizer)
    jax_side = make_learner("jax", study, optimizer)
    for epoch in range(1, epochs + 1):
        differing: list[int] = []
        distances: list[float] = []
        relative: list[float] = []
        for step, batch in enumerate(study.batches(epoch), 1):
            here = torch_side.parameters()
            gradients = torch_side.gradients(here, batch)
            others = jax_side.gradients(here, batch)
            if Difference.between(gradients, others).differing:
                differing.append(step)
                distances.append(geometry.norm(difference(gradients, others), exact=False))
                length = geometry.norm(gradients, exact=False)
                relative.append(distances[-1] / length if length else math.inf)
            loss = torch_side.loss(here, batch)
            hessian = torch_side.hessian(here, batch)
            # XLA treats subnormal numbers as zero on the CPU. torch has a setting for this, which
            # is on here, because the comparison is about rounding.
            with subnormals_flushed():
                torch_side.apply(gradients, loss, hessian)
            jax_side.apply(gradients, loss, hessian)
        yield (
            Gradients(
                steps=study.steps_per_epoch,
                differing=len(differing),
                first=differing[0] if differing else None,
                first_relative=relative[0] if relative else 0.0,
                distance=max(filter(math.isfinite, distances), default=0.0),
                relative=max(filter(math.isfinite, relative), default=0.0),
            ),
            Difference.between(torch_side.parameters(), jax_side.parameters()),
        )


def conclude(pairs: Sequence[EpochPair]) -> str:
    """Return one sentence that says where two trainings diverge and why."""
    elements = pairs[0].parameters.elements
    parted = next((p for p in pairs if p.parameters.differing), None)
    optimizer = next((p for p in pairs if p.optimizer.differing), None)
    gradients = next((p for p in pairs if p.gradients.differing), None)
    if optimizer is None:
        alike = (
            "the optimizers never diverge: given the same gradients, they have the same parameters "
            f"after each of the {len(pairs)} epochs (0 of {elements} elements differ, 0 ulp)"
        )
    else:
        alike = (
            "the optimizers diverge, too: given the same gradients, "
            f"{optimizer.optimizer.differing} of {elements} elements differ after epoch "
            f"{optimizer.epoch}, which the numerics contract does not allow"
        )
    if parted is None:
        return f"The two trainings do not diverge (0 of {elements} parameters differ), and {alike}."
    start = f"The two trainings diverge in epoch {parted.epoch}"
    if gradients is None:
        return (
            f"{start}, although both frameworks compute identical gradients at the parameters of "
            f"the PyTorch training when nothing else is computed, and {alike}."
        )
    size = gradients.gradients.first_relative
    reason = (
        "each framework adds up the products of the model in its own order"
        if size < _ROUNDING
        else "more than rounding explains"
    )
    return (
        f"{start} because of their gradients, which first differ in step "
        f"{gradients.gradients.first} of epoch {gradients.epoch} at the same parameters and on the "
        f"same mini-batch (by {size:.1e} relative to their norm: {reason}), while {alike}."
    )


# Reports.

_HEADINGS = (
    ("", "epoch"),
    ("‖θ_torch", "− θ_jax‖"),
    ("largest", "ulp"),
    ("steps'", "angle (°)"),
    ("loss", "differs"),
    ("gradients", "differ by"),
    ("in steps", "of epoch"),
    ("optimizers", "differ"),
    ("largest", "ulp"),
)
_EXPLANATION = """\
The first columns compare both runs after each epoch: the distance of the parameters, the largest
difference of a parameter in ulp (of the larger number), the angle between the steps of the two
epochs, and the mean training loss in PyTorch minus that in JAX. Gradients: those of both frameworks
at the same parameters and mini-batches, from the PyTorch training; the largest distance relative to
the norm of the gradient, and the number of steps of the epoch with a difference. Optimizers: both
get the gradients of PyTorch from the same start; the number of parameters that differ at the end of
the epoch, and the largest difference in ulp. For this comparison torch treats subnormal numbers as
zero, as XLA does on the CPU."""


def _cells(pair: EpochPair) -> tuple[str, ...]:
    gradients, optimizer = pair.gradients, pair.optimizer
    return (
        str(pair.epoch),
        f"{pair.distance:.1e}",
        f"{pair.parameters.ulp:.0f}",
        f"{pair.angle:.0e}",
        f"{pair.loss_difference:+.0e}",
        f"{gradients.relative:.0e}",
        f"{gradients.differing}/{gradients.steps}",
        f"{optimizer.differing}/{optimizer.elements}",
        f"{optimizer.ulp:.0f}",
    )


def _title(twins: Twins) -> str:
    return f"{twins.study}, {twins.algorithm}: PyTorch and JAX"


def show(twins: Twins, console: Console, rows: int = 8) -> None:
    """Print the table (at most ``rows`` epochs, evenly spread) and the conclusion."""
    table = Table(title=_title(twins), box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in _HEADINGS:
        table.add_column("\n".join(heading), justify="right", no_wrap=True)
    count = len(twins.epochs)
    for i in sorted(set(np.linspace(0, count - 1, min(rows, count)).round().astype(int).tolist())):
        table.add_row(*_cells(twins.epochs[i]))
    console.print(table)
    console.print(twins.conclusion, highlight=False)


def save(twins: Twins, folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Write ``twins.json`` and ``twins.md`` with every epoch; return the two files."""
    write_json(folder / "twins.json", encode(asdict(twins)))
    hyperparameters = json.dumps(encode(twins.hyperparameters), ensure_ascii=False)
    lines = [
        f"# {_title(twins)}",
        "",
        f"Hyperparameters: `{hyperparameters}`",
        "",
        "| " + " | ".join(" ".join(filter(None, h)) for h in _HEADINGS) + " |",
        "|" + " ---: |" * len(_HEADINGS),
        *("| " + " | ".join(_cells(pair)) + " |" for pair in twins.epochs),
        "",
        twins.conclusion,
        "",
        _EXPLANATION,
        "",
    ]
    write_text(folder / "twins.md", "\n".join(lines))
    return folder / "twins.json", folder / "twins.md"
