"""Comparisons: where twins part, and trainings that differ in what is varied."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from harness import slow, slow_unless_quick
from run_folders import data_of
from trainings import BACKENDS, assert_figures

from optstudy_core import ALGORITHMS
from studies import figures, pairs, records
from studies.__main__ import main
from studies.comparisons import compare, table, twins
from studies.learners import training
from studies.study import Batch, Study

pytest.importorskip("torch")
pytest.importorskip("flax")
pytest.importorskip("sklearn")


# Twins.


@pytest.mark.parametrize("algorithm", slow_unless_quick(ALGORITHMS))
def test_the_optimizers_never_part(study_of, algorithm):
    never_part(study_of("linear_regression"), algorithm)


@pytest.mark.parametrize("algorithm", slow_unless_quick(ALGORITHMS, {"adam"}))
def test_the_optimizers_of_a_network_never_part(study_of, algorithm):
    never_part(study_of("digits"), algorithm)


def never_part(study: Study, algorithm: str) -> None:
    optimizer = training.Optimizer.of(study, algorithm, None, None)
    for gradients, fed_alike in twins.walk(study, optimizer, 2):
        assert gradients.steps == study.steps_per_epoch
        assert gradients.relative < 1e-4  # roundings, not another gradient
        assert fed_alike.differing == 0
        assert fed_alike.ulp == 0.0
    assert fed_alike.elements == sum(v.size for v in study.initial.values())


def test_another_optimizer_is_seen(study_of, monkeypatch):
    study = study_of("linear_regression")
    optimizer = training.Optimizer.of(study, "adam", 1e-2, None)
    make = training.make_learner

    def nudged(backend, study, optimizer):
        lr = optimizer.lr * (1 + 1e-6 * (backend == "jax"))
        return make(backend, study, training.Optimizer(optimizer.algorithm, lr))

    monkeypatch.setattr(twins, "make_learner", nudged)
    ((_, fed_alike),) = twins.walk(study, optimizer, 1)
    assert fed_alike.differing > 0
    pair = pair_of(optimizer=fed_alike)
    assert "the optimizers diverge, too" in twins.conclude([pair])


def pair_of(parted=0, gradients=0, optimizer=None, by=1e-7) -> pairs.EpochPair:
    return pairs.EpochPair(
        epoch=1,
        distance=0.0,
        angle=0.0,
        loss_difference=0.0,
        parameters=pairs.Difference(9, parted, float(parted)),
        gradients=pairs.Gradients(5, gradients, gradients or None, by, 0.0, 0.0),
        optimizer=optimizer or pairs.Difference(9, 0, 0.0),
    )


def test_the_conclusion_says_what_was_measured():
    assert twins.conclude([pair_of()]).startswith("The two trainings do not diverge")
    because = twins.conclude([pair_of(parted=2, gradients=3)])
    assert "diverge in epoch 1 because of their gradients" in because
    assert "step 3 of epoch 1" in because
    assert "in its own order" in because
    assert "more than rounding" in twins.conclude([pair_of(parted=2, gradients=3, by=0.1)])
    assert "identical gradients" in twins.conclude([pair_of(parted=2)])


def test_ulps():
    one = np.float32(1)
    a = np.float32([1, 0, -0.0, np.nan, np.inf, np.inf, 1, -1e-45])
    b = np.float32([1 + 2**-23, -0.0, 0, np.nan, np.inf, 1, np.nan, 1e-45])
    assert pairs.ulps(a, b).tolist() == [1, 0, 0, 0, 0, np.inf, np.inf, 2]
    assert pairs.ulps(one, np.nextafter(one, np.float32(2))) == 1


# Trainings side by side.


COMPARE = ["compare", "linear_regression", "--jobs", "1"]


@pytest.mark.parametrize("backends", [("torch",), slow(BACKENDS)])
def test_compare(tmp_path, capsys, monkeypatch, backends):
    arguments = [*COMPARE, "--vary", "method=plain,careful-rollback,eve_grid", "--seeds", "2"]
    arguments += ["--lr", "1", "--epochs", "3", "--out", str(tmp_path)]
    arguments += ["--backend", "both" if len(backends) > 1 else backends[0]]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "linear_regression" / "compare"
    assert_figures(
        folder / "adam_figures",
        {"together", "overview", "evaluations", "seconds", "paths"}
        | {"careful_rate_rollback", "eve_grid"},
    )
    table = (folder / "adam.md").read_text()
    for method, label in {
        "plain": "plain",
        "careful_rollback": "careful rate, rollback",
        "eve_grid": "EVE, grid",
    }.items():
        assert table.count(f"| {label} |") == len(backends)
        name = "adam" if method == "plain" else f"adam_{method}"
        for backend in backends:
            for seed in (2021, 2022):
                run = records.read(folder / name / f"seed_{seed}" / backend)
                assert len(run.rows) == 3
                assert run.config["seed"] == seed
                asked = sum(row["method"]["evaluations"] for row in run.rows)
                assert asked == 18 * (method == "eve_grid")
                assert all(row["seconds"] > 0 for row in run.rows)
    assert "Linear regression, Adam, learning rate 1" in said
    # What is done is not done again; other numbers are refused; an interrupted run is made again.
    rows = sorted(folder.rglob("records.sqlite"))
    before = {file: file.stat().st_mtime_ns for file in rows}
    gone = folder / "adam" / "seed_2022" / "torch"
    shutil.rmtree(gone / "checkpoints")
    monkeypatch.setattr(figures, "draw_comparison", lambda *_: [])  # it was drawn above
    assert main(arguments) == 0
    assert f"{len(rows) - 1} of {len(rows)} trainings are already done" in capsys.readouterr().out
    after = {file: file.stat().st_mtime_ns for file in rows}
    assert {file.parent for file in rows if before[file] != after[file]} == {gone}
    again = (folder / "adam.md").read_text()
    but_seconds = [[line.rsplit("|", 2)[0] for line in x.splitlines()] for x in (again, table)]
    assert but_seconds[0] == but_seconds[1]
    assert main([*arguments, "--epochs", "4"]) == 2
    assert "holds a run with epochs = 3, not 4; --overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_varies_all_that_can_be(tmp_path, capsys):
    vary = ["--vary", "algorithm=adam,sgd", "--vary", "lr=0.001,0.01", "--epochs", "2"]
    assert main([*COMPARE, *vary, "--backend", "torch", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "linear_regression" / "compare"
    rates = {}
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text())
        rates[config["algorithm"], config["lr"]] = file
    assert set(rates) == {(a, lr) for a in ("adam", "sgd") for lr in (0.001, 0.01)}
    assert "| SGD, learning rate 0.01 | PyTorch |" in (folder / "all.md").read_text()
    for bad, message in {
        "method=eve": "method = 'eve': did you mean",
        "lr=0": "lr = 0: allowed are finite numbers > 0",
        "speed=1": "vary = 'speed'",
        "lr": "vary = 'lr': allowed are key=value",
        "algorithm=adamm": "algorithm = 'adamm': did you mean 'adam'",
    }.items():
        assert main([*COMPARE, "--vary", bad, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


OF_ONE_FRAMEWORK = """
import numpy as np
from studies import Batch, NnxLeaf, Study

def torch_model():
    from torch import nn
    return nn.Linear(3, 1)

def nnx_model():
    from flax import nnx
    return nnx.Linear(3, 1, rngs=nnx.Rngs(0))

def mean_square(outputs, targets):
    return ((outputs[:, 0] - targets) ** 2).mean()

def study(seed):
    x = np.random.default_rng(seed).standard_normal((64, 3)).astype(np.float32)
    initial = {"weight": np.ones((1, 3), np.float32), "bias": np.zeros(1, np.float32)}
    return Study(name="mine", title="Mine", seed=seed, train=Batch(x, x @ np.float32([1, -2, 3])),
                 initial=initial, batch_size=16, epochs=2, FRAMEWORK)
"""
FRAMEWORK = {
    "torch": "torch_model=torch_model, torch_loss=mean_square",
    "jax": "nnx_model=nnx_model, jax_loss=mean_square, nnx_leaves={"
    "'weight': NnxLeaf(('kernel',), (1, 0)), 'bias': NnxLeaf(('bias',))}",
}


@pytest.mark.parametrize(("backend", "other"), [("torch", "jax"), slow("jax", "torch")])
def test_a_study_of_one_framework_at_the_best_of_some_rates(
    tmp_path, capsys, monkeypatch, backend, other
):
    file = tmp_path / "mine.py"
    file.write_text(OF_ONE_FRAMEWORK.replace("FRAMEWORK", FRAMEWORK[backend]))
    out = ["--out", str(tmp_path / "out")]
    monkeypatch.setattr(figures, "draw_comparison", lambda *_: [])
    titles, progress = [], compare.progress
    monkeypatch.setattr(
        compare, "progress", lambda console, *a: titles.append(a[0]) or progress(console, *a)
    )
    tuned = ["--vary", "algorithm=sgd,adam", "--tune", "lr=1e-4,0.1,1e-3", "--seeds", "2"]
    assert main(["compare", str(file), "--jobs", "1", *tuned, *out]) == 0
    said = capsys.readouterr().out
    assert "SGD: learning rate 0.1, mean loss" in said
    assert "the best rate is at the end of the list" in said
    assert "already done" not in said  # the comparison uses trainings of the search
    assert all(re.search(r"\d+ trainings( of the search for rates)?, epochs$", x) for x in titles)
    assert len(titles) == 2
    folder = tmp_path / "out" / "mine" / "compare"
    losses = {
        lr: records.read(folder / f"sgd_lr_{lr}" / "seed_2021" / backend).loss
        for lr in ("0.0001", "0.001", "0.1")
    }
    assert min(losses, key=losses.get) == "0.1"
    table = (folder / "all.md").read_text()
    assert table.count(" | 0.1 | ") == 2
    assert "0.0001, 0.1, 0.001 by the mean final loss over seeds 2021 to 2022" in table
    name = {"torch": "torch", "jax": "jax"}[other]
    for command in (["compare", str(file), "--backend", other], ["twins", str(file)]):
        assert main([*command, *out]) == 2
        said = capsys.readouterr().err
        assert (
            f"backend = {name!r}: the study 'mine' has no model in this framework; allowed is"
            in said
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--tune", "lr"], "tune = 'lr': allowed are lr=value,value"),
        (["--tune", "b1=0.5"], "tune = 'b1=0.5': allowed are lr="),
        (["--tune", "lr=-1"], "lr = -1: allowed are finite numbers > 0"),
        (["--tune", "lr=1", "--vary", "lr=1,2"], "tune: allowed without lr and lr_factor in vary"),
    ],
)
def test_rates_that_cannot_be_searched(tmp_path, capsys, given, message):
    assert main([*COMPARE, *given, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_study_has_the_model_and_the_loss_of_a_framework():
    given = {
        "name": "a", "title": "A", "seed": 1, "train": Batch(np.ones((4, 1)), np.ones(4)),
        "initial": {}, "batch_size": 2, "epochs": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="torch_model alone: allowed are torch_model and torch_l"):
        Study(**given, torch_model=lambda: None)
    with pytest.raises(ValueError, match="torch_model and nnx_model are missing"):
        Study(**given)


@pytest.mark.slow
def test_compare_in_processes(tmp_path):
    losses = []
    for jobs in ("1", "2"):
        arguments = ["compare", "linear_regression", "--vary", "method=plain,careful", "--lr", "1"]
        arguments += ["--backend", "torch", "--epochs", "2", "--jobs", jobs]
        assert main([*arguments, "--out", str(tmp_path / jobs)]) == 0
        folders = (tmp_path / jobs / "linear_regression" / "compare").glob("*/*/torch")
        losses.append({f.parts[-3]: records.read(f).column("loss").tolist() for f in folders})
    assert losses[0] == losses[1]
    assert set(losses[0]) == {"adam", "adam_careful"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear_regression", "digits"])
def test_compare_has_a_rate_at_which_careful_acts(tmp_path, name):
    arguments = ["compare", name, "--vary", "method=plain,careful", "--vary", "lr_factor=1,16"]
    arguments += ["--backend", "torch", "--jobs", "1", "--epochs", "14", "--out", str(tmp_path)]
    assert main(arguments) == 0
    factors = {}
    for at_rate in ("", "_lr_factor_16"):
        plain, careful = (
            records.read(tmp_path / name / "compare" / f"adam{m}{at_rate}" / "seed_2021" / "torch")
            for m in ("", "_careful")
        )
        factors[at_rate] = careful.column("method/lr_factor")[-1]
        same = plain.column("loss").tolist() == careful.column("loss").tolist()
        assert same == (factors[at_rate] == 1)
    assert factors[""] == 1
    assert factors["_lr_factor_16"] < 1


def test_spread():
    spread = table.Spread.of([3.0, math.nan, 1.0])
    assert (spread.median, spread.low, spread.high) == (3.0, 1.0, math.inf)
    assert spread.text(".3g") == "3 (1 – inf)"
    assert table.Spread.of([2.0]).text(".3g") == "2"


@pytest.mark.slow
def test_everything_side_by_side(tmp_path, capsys):
    assert main(["all", "--backend", "torch", "--jobs", "2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for name, title in (("linear_regression", "Linear regression"), ("digits", "Handwritten")):
        assert f"{title}" in said
        for run in ("sgd", "adam"):
            assert records.read(tmp_path / name / run / "torch").parameters is not None
        folder = tmp_path / name / "compare"
        assert_figures(
            folder / "adam_figures", {f.stem for f in (folder / "adam_figures").iterdir()}
        )
        assert (folder / "adam_lr_factor_16.md").is_file()
    page = tmp_path / "index.html"
    assert f"Open {page.as_uri()}" in said
    assert len(data_of(page)["runs"]) == len([*tmp_path.rglob("config.json")])
    runs = {f: f.read_bytes() for f in tmp_path.glob("*/*/torch/records.sqlite")}
    assert len(runs) == 4
    assert main(["all", "--backend", "torch", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("training is already done") == 4
    assert runs == {f: f.read_bytes() for f in runs}
