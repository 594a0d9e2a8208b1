"""The command line: from end to end, and what it refuses."""

import json
import os
import re
import subprocess
import sys

import pytest
from harness import ROOT, slow
from run_folders import write_run
from trainings import BACKENDS, assert_figures, own_pair

from studies import records
from studies.__main__ import main
from studies.problems.table import QUICK

pytest.importorskip("torch")
pytest.importorskip("flax")
pytest.importorskip("sklearn")

RUN_FILES = {"config.json", "records.sqlite", "checkpoints", "tensorboard", "lock"}


@pytest.mark.parametrize("name", [slow(n) if n == "digits" else n for n in QUICK])
def test_end_to_end(tmp_path, capsys, name):
    out = tmp_path / "out"
    arguments = ["run", name, "--algorithm", "adam", "--epochs", "2", "--out", str(out)]
    arguments += ["--backend", "both"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    expected = {"predictions", "parameters", "epoch_steps", "training_loss", "layers"}
    expected |= {"surface"} if name == "linear_regression" else set()
    for backend in BACKENDS:
        folder = out / name / "adam" / backend
        assert {f.name for f in folder.iterdir()} == RUN_FILES | {"figures"}
        assert_figures(folder / "figures", expected)
        assert str(folder) in said
        run = records.read(folder)
        assert len(run.rows) == 2
        assert run.config["hyperparameters"]["b1"] == 0.9
    assert_figures(out / name, {"overview"})
    assert_figures(out / name / "adam", {"twins"})
    table = json.loads((out / name / "adam" / "twins.json").read_text())
    assert [e["optimizer"]["differing"] for e in table["epochs"]] == [0, 0]
    assert table["conclusion"] in (out / name / "adam" / "twins.md").read_text()
    assert "0 ulp" in table["conclusion"]
    if name == "digits":
        assert "test accuracy" in said
    # Once more: refused, and nothing is touched.
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_with_a_method(tmp_path, capsys):
    arguments = ["run", "linear_regression", "--algorithm", "sgd", "--method", "careful"]
    arguments += ["--method", "plain", "--epochs", "2", "--backend", "torch"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert "sgd_careful, torch" in capsys.readouterr().out
    for name, method in (("sgd", "plain"), ("sgd_careful", "careful")):
        run = records.read(tmp_path / "linear_regression" / name / "torch")
        assert run.config["method"] == method


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "linear"], "study = 'linear': did you mean 'linear_regression'?"),
        (["run", "digits", "--algorithm", "adm"], "algorithm = 'adm': did you mean 'adam'"),
        (
            ["run", "digits", "--algorithm", "adam", "--dialect", "torhc"],
            "dialect = 'torhc' for 'adam': did you mean 'torch'?",
        ),
        (["run", "digits", "--backend", "jaxx"], "backend = 'jaxx': did you mean 'jax'?"),
        (["run", "digits", "--epochs", "0"], "epochs = 0: allowed are whole numbers >= 1"),
        (["run", "digits", "--epochs", "two"], "epochs = two: allowed are whole numbers >= 1"),
        (["run", "digits", "--lr", "-1"], "lr = -1: allowed are finite numbers >= 0"),
        (["run", "digits", "--lr", "nan"], "lr = nan: allowed are finite numbers >= 0"),
        (["run", "digits", "--lr", "inf"], "lr = inf: allowed are finite numbers >= 0"),
        (["run", "digits", "--lr", "fast"], "lr = fast: allowed are finite numbers >= 0"),
        (["all", "--seed", "-3"], "seed = -3: allowed are whole numbers >= 0"),
        ([], "COMMAND"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    where = ["--out", str(tmp_path / "out")] if arguments else []
    assert main([*arguments, *where]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["", "linear_regression", "linear_regression/adam/torch"])
def test_out_may_not_be_a_file(tmp_path, capsys, place):
    out = tmp_path / "out"
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    (out / place).write_text("")
    arguments = ["run", "linear_regression", "--algorithm", "adam", "--out", str(out)]
    assert main(arguments) == 2
    assert f"{str(out / place)!r}: is a file; allowed are folders" in capsys.readouterr().err


def test_a_framework_that_is_not_installed(capsys, monkeypatch):
    monkeypatch.setattr("studies.__main__.installed_backends", lambda: ["torch"])
    assert main(["run", "linear_regression", "--backend", "both"]) == 2
    said = capsys.readouterr().err
    assert "backend = 'both': jax or optax or flax is not installed; allowed are 'torch'" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "absent"), [("torch", ("jax", "jaxlib", "optax", "flax")), ("jax", ("torch",))]
)
def test_one_framework_is_enough(tmp_path, backend, absent):
    script = f"""

import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {absent!r}:
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Without, sys.meta_path)
from studies.__main__ import main
sys.exit(main(["run", "linear_regression", "--backend", {backend!r}, "--algorithm", "sgd",
               "--epochs", "1", "--out", {str(tmp_path)!r}]))
"""
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "linear_regression" / "sgd" / backend / "figures" / "surface.png").exists()


# A user's own pair.


@pytest.mark.slow
def test_twins_of_a_users_own_pair(tmp_path, capsys):
    file = tmp_path / "own.py"
    file.write_text(own_pair())
    assert main(["twins", str(file), "--out", str(tmp_path / "out")]) == 0
    assert "part" in capsys.readouterr().out
    folder = tmp_path / "out" / "my_pair" / "adam"
    pair = json.loads((folder / "twins.json").read_text())
    assert [epoch["optimizer"]["differing"] for epoch in pair["epochs"]] == [0, 0, 0]
    assert_figures(folder, {"twins"})
    # The same file for the other commands.
    assert main(["run", str(file), "--backend", "jax", "--out", str(tmp_path / "run")]) == 0
    assert not list((tmp_path / "run").rglob("predictions.*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("x = 1", "has no function study(seed)"),
        ("def study(seed): return seed", "its function study returned 2021, not a Study"),
    ],
)
def test_a_users_file_that_is_none(tmp_path, capsys, text, message):
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    assert main(["twins", str(file), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_export(tmp_path, capsys):
    write_run(tmp_path / "run", epochs=2)
    out = tmp_path / "rows.csv"
    assert main(["export", str(tmp_path / "run"), str(out)]) == 0
    assert out.read_text().startswith("epoch,")
    assert len(out.read_text().splitlines()) == 3
    for arguments, said in [
        ([tmp_path / "run", tmp_path / "rows.xls"], "allowed are *.csv and *.parquet"),
        ([tmp_path / "none", out], "holds no run"),
    ]:
        assert main(["export", *map(str, arguments)]) == 2
        assert said in capsys.readouterr().err


# Networks that were trained before.


def test_evaluate(tmp_path, capsys):
    command = ["evaluate", "allcnn", "--events", "20", "--backend", "torch", "--out", str(tmp_path)]
    assert main(command) == 0
    text = capsys.readouterr().out
    efficiency = float(re.search(r"efficiency\W+([0-9.]+)", text)[1])
    assert efficiency > 0.85  # 0.955 of a thousand events
    folder = tmp_path / "allcnn" / "evaluation"
    assert {file.name for file in folder.glob("*.png")} == {"performance.png", "predictions.png"}
    assert main(["evaluate", "digits", "--out", str(tmp_path)]) == 2
    assert "digits has no such option" in capsys.readouterr().err


def test_a_training_begins_with_runs(tmp_path, capsys):
    run = ["run", "linear_regression", "--backend", "torch", "--algorithm", "sgd", "--epochs", "1"]
    out = ["--out", str(tmp_path / "first")]
    assert main([*run, *out]) == 0
    first = tmp_path / "first" / "linear_regression" / "sgd" / "torch"
    assert main([*run, "--out", str(tmp_path / "second"), "--start", str(first)]) == 0
    second = tmp_path / "second" / "linear_regression" / "sgd" / "torch"
    begun, ended = records.read(second), records.read(first)
    for name, value in ended.parameters.items():
        assert begun.path[0][name].tolist() == value.tolist()
    assert begun.config["start"] == [str(first)]
    capsys.readouterr()
    other = ["run", "digits", "--backend", "torch", "--out", str(tmp_path), "--start", str(first)]
    assert main(other) == 2
    assert "the run has no parameter of digits" in capsys.readouterr().err
    assert main([*run, "--out", str(tmp_path), "--start", str(tmp_path / "none")]) == 2
    assert main(["evaluate", "linear_regression", *out, "--start", str(first)]) == 2
    assert "has no evaluation" in capsys.readouterr().err
    assert main([*run, "--out", str(tmp_path), "--pretrained"]) == 2
    assert "pretrained = 'True': linear_regression has no such option" in capsys.readouterr().err
