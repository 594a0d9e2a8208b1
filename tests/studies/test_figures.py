"""The figures: what they show, and files of every format."""

import pathlib
from dataclasses import replace

import numpy as np
import pytest
from harness import slow
from matplotlib.figure import Figure
from trainings import learner_of

from optstudy_core.records import Run
from studies import figures, records
from studies.__main__ import main
from studies.figures import epochs, landscape, style
from studies.learners import training
from studies.problems.table import load

pytest.importorskip("torch")
pytest.importorskip("flax")
pytest.importorskip("sklearn")


def test_files_of_every_format(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "FORMATS", figures.FORMATS)
    for folder in ("once", "again"):
        style.save(tmp_path / folder, "line", lambda figure: figure.subplots().plot([1, 2, 4]))
    begin = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert set(figures.FORMATS) == set(begin)
    for form, first in begin.items():
        content = (tmp_path / "once" / f"line.{form}").read_bytes()
        assert content.startswith(first)
        assert content == (tmp_path / "again" / f"line.{form}").read_bytes()  # no date


def test_the_plane_of_two_parameters_is_theirs(study_of, tmp_path):
    study = study_of("linear_regression")
    learner = learner_of("torch", study)
    with Run.create(tmp_path, {}, tensorboard=False) as writer:
        training.record(replace(study, epochs=2), learner, writer)
    around = figures.Landscape.around(study, learner, records.read(tmp_path))
    assert around.exact
    assert around.labels == ("m", "b")
    assert around.path[0].tolist() == [float(study.initial["m"]), float(study.initial["b"])]
    # Row i is v (b), column j is u (m): against the formula, in double.
    m, b = around.u[5], around.v[11]
    x, y = (v.astype(np.float64) for v in study.train[:2])
    expected = ((m * x + b - y) ** 2).sum()
    assert around.losses[11, 5] == pytest.approx(expected, rel=1e-4)  # float32 sum of 120


def test_the_projected_plane_holds_the_path(study_of, tmp_path):
    study = study_of("digits")
    learner = learner_of("torch", study)
    with Run.create(tmp_path, {}, tensorboard=False) as writer:
        training.record(replace(study, epochs=1), learner, writer)
    around = figures.Landscape.around(study, learner, records.read(tmp_path))
    # A path of two points lies on its plane, the last one at the origin.
    assert around.path[-1].tolist() == [0.0, 0.0]
    start, end = around.path
    assert start[1] == pytest.approx(0.0, abs=1e-9)
    assert end[0] < start[0]
    row = int(np.argmin(np.abs(around.v)))
    column = int(np.argmin(np.abs(around.u - start[0])))
    assert around.losses[row, column] == pytest.approx(around.heights[0], rel=0.05)


def test_probabilities_of_huge_outputs():
    assert figures.softmax(np.float32([[3e38, 0.0]])).tolist() == [[1.0, 0.0]]
    assert np.isnan(figures.softmax(np.float32([[np.nan, 0.0]]))).all()


def test_filter_normalised_directions(study_of):
    study = study_of("digits")
    parameters = dict(study.initial)
    directions = landscape.filter_normalised(study, parameters)
    assert np.array_equal(directions, landscape.filter_normalised(study, parameters))
    for direction in directions:
        part = landscape._unflatten(direction, study.initial)
        for name, value in parameters.items():
            if value.ndim == 1:
                assert not part[name].any()
            else:  # float32 on the way back
                lengths = [np.linalg.norm(array, axis=1) for array in (part[name], value)]
                np.testing.assert_allclose(*lengths, rtol=1e-6)
    cosine = directions[0] @ directions[1] / np.prod(np.linalg.norm(directions, axis=1))
    assert abs(cosine) < 0.1  # 2368 random numbers: a standard deviation of 0.02


def test_evaluations_count_what_was_asked_before():
    rows = [{"epoch": e, "method": {"evaluations": 6}} for e in (1, 2, 3)]
    run = records.Run(pathlib.Path(), {}, rows, None, None, None)
    assert figures.evaluations(run).tolist() == [1, 8, 15]


def test_no_figure_over_seconds_where_a_run_has_none(tmp_path):
    study = load("linear_regression", seed=1)
    row = {"epoch": 1, "loss": 1.0, "step_size": 1.0, "angle": 9.0}
    row["method"] = {"evaluations": 0, "lr_factor": 1.0, "undone": False}
    config = {"backend": "torch", "seed": 1}
    old, new = (
        records.Run(pathlib.Path(), config, [row | more], None, None, None)
        for more in ({}, {"seconds": 1.5})
    )
    for runs, drawn in ([new, new], True), ([new, old], False):
        shown = {"one": runs[:1], "other": runs[1:]}
        files = figures.draw_comparison(study, "", shown, tmp_path / str(drawn))
        assert ("seconds" in {file.stem for file in files}) == drawn


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear_regression", "digits"])
def test_a_diverging_run_ends_with_figures(tmp_path, capsys, name):
    arguments = ["run", name, "--algorithm", "sgd", "--epochs", "3", "--lr", "1e30"]
    arguments += ["--backend", "torch", "--out", str(tmp_path)]
    assert main(arguments) == 0
    folder = tmp_path / name / "sgd" / "torch"
    assert not np.isfinite(records.read(folder).column("loss")).any()
    assert len(list((folder / "figures").glob("*.png"))) >= 5


@pytest.mark.parametrize("backend", ["torch", slow("jax")])
def test_a_run_that_stands_still_ends_with_figures(tmp_path, backend):
    arguments = ["run", "linear_regression", "--algorithm", "sgd", "--epochs", "1", "--lr", "0"]
    assert main([*arguments, "--backend", backend, "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.rglob("figures/*.png"))) == 6


@pytest.mark.parametrize(
    ("named", "labels"),
    [(2, ["all parameters", "m", "b"]), (1, ["all parameters", "each of the arrays"])],
)
def test_many_arrays_have_one_entry_in_the_legend(study_of, tmp_path, monkeypatch, named, labels):
    study = replace(study_of("linear_regression"), epochs=1)
    with Run.create(tmp_path, {}, tensorboard=False) as writer:
        training.record(study, learner_of("torch", study), writer)
    run = records.read(tmp_path)
    run.config.update(algorithm="adam", backend="torch", method="plain")
    monkeypatch.setattr(epochs, "NAMED", named)
    figure = Figure()
    epochs.epoch_steps(figure, study, run)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels


@pytest.mark.parametrize(("name", "panels"), [("linear_regression", 1), ("digits", 2)])
def test_layers_show_no_angles_of_numbers(name, panels):
    study = load(name, seed=1)
    rows = [
        {"epoch": e, "layers": {n: {"step_size": 1.0, "angle": 9.0} for n in study.initial}}
        for e in (1, 2)
    ]
    config = {"algorithm": "adam", "method": "plain", "backend": "torch", "study": name}
    figure = Figure(layout="constrained")
    epochs.layers(figure, study, records.Run(pathlib.Path(), config, rows, None, None, None))
    drawn = [ax for ax in figure.axes if ax.images]
    assert len(drawn) == panels
