"""The figures of a run, drawn from its record, the same for all frameworks and studies.

A learner computes losses and outputs at other points. Values that are not finite (of a diverged
run) are left out of a figure and raise no error.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from matplotlib.figure import Figure

from studies.learners.training import Learner
from studies.pairs import Journey, Twins
from studies.records import Run
from studies.study import Assessed, Study

from .comparison import draw_comparison, evaluations
from .epochs import epoch_steps, layers, moving, overview, parting, training_loss
from .landscape import Landscape, is_plane, path_on_contours, paths, surface
from .predictions import class_probabilities, fitted_lines, softmax
from .style import FORMATS, FRAMEWORKS, ROW, save, title

__all__ = [
    "FORMATS",
    "FRAMEWORKS",
    "ROW",
    "Landscape",
    "class_probabilities",
    "draw_assessed",
    "draw_comparison",
    "draw_journeys",
    "draw_overview",
    "draw_paths",
    "draw_run",
    "draw_twins",
    "evaluations",
    "fitted_lines",
    "is_plane",
    "number_of_figures",
    "softmax",
    "title",
]


def draw_run(
    study: Study,
    learner: Learner,
    run: Run,
    *,
    after_each: Callable[[], None] = lambda: None,
) -> list[pathlib.Path]:
    """Draw every figure of a finished run in ``figures/`` of its folder.

    Args:
        study: the study of the run.
        learner: a learner of the framework of the run, for losses and outputs.
        run: the record.
        after_each: called after each figure, for a progress bar.

    Returns:
        the PNG files.
    """
    landscape = Landscape.around(study, learner, run)
    drawings: dict[str, Callable[[Figure], None]] = {}
    if study.assess is not None and run.parameters is not None:
        drawings |= study.assess(partial(learner.outputs, run.parameters)).drawings
    if study.draw_predictions is not None:
        drawings["predictions"] = partial(
            study.draw_predictions, study=study, run=run, learner=learner
        )
    drawings |= {
        "parameters": lambda figure: path_on_contours(figure, study, run, landscape),
        "epoch_steps": lambda figure: epoch_steps(figure, study, run),
        "training_loss": lambda figure: training_loss(figure, study, run),
        "layers": lambda figure: layers(figure, study, run),
    }
    if landscape.exact:
        drawings["surface"] = lambda figure: surface(figure, study, run, landscape)
    drawn = []
    for name, draw in drawings.items():
        drawn.append(save(run.folder / "figures", name, draw))
        after_each()
    return drawn


def draw_assessed(assessed: Assessed, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw the assessment of a network; return the PNG files."""
    return [save(folder, name, draw) for name, draw in assessed.drawings.items()]


def number_of_figures(study: Study) -> int:
    """Return the number of figures of :func:`draw_run`."""
    more = (study.draw_predictions is not None, study.assess is not None, is_plane(study))
    return 4 + sum(more)


def draw_overview(study: Study, runs: Sequence[Run], folder: pathlib.Path) -> pathlib.Path:
    """Draw loss, step size and angle of several runs of a study; return the PNG file."""
    return save(folder, "overview", lambda figure: overview(figure, study, runs))


def draw_twins(study: Study, pair: Twins, folder: pathlib.Path) -> pathlib.Path:
    """Draw where a training diverges between the frameworks; return the PNG file."""
    return save(folder, "twins", lambda figure: parting(figure, study, pair))


def draw_journeys(study: Study, journeys: Sequence[Journey], folder: pathlib.Path) -> pathlib.Path:
    """Draw the distances between moving and staying trainings; return the PNG file."""
    return save(folder, "journey", lambda figure: moving(figure, study, journeys))


def draw_paths(
    study: Study, learner: Learner, runs: Mapping[str, Run], folder: pathlib.Path
) -> pathlib.Path:
    """Draw the paths of two-parameter runs in small panels, one each; return the PNG file."""
    return save(folder, "paths", lambda figure: paths(figure, study, learner, runs))
