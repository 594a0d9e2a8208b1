"""A run's folder is data: whatever it holds, nothing of it runs, and nothing outside it changes."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from harness import ROOT, slow_unless_quick
from rich.console import Console
from run_folders import data_of, write_run

from studies.__main__ import main
from studies.comparisons.runner import Plan, Prepared, done
from studies.problems.table import STUDIES
from studies.report import extras

pytest.importorskip("torch")
pytest.importorskip("plotly")

RAN = "import pathlib\npathlib.Path({!r}).touch()\n"
"""A file that leaves a mark where it is imported or run."""
CONFIG = {
    "source": "linear_regression",
    "seed": 5,
    "data": None,
    "events": None,
    "dialect": None,
    "method": "plain",
    "parameters": {"w": [3]},
}


def configured(folder, **config):
    """Write a run of a study, whose configuration says this."""
    write_run(folder, **CONFIG | config)
    return folder


def report(folder, *more):
    """Return the data of the report on a folder."""
    out = folder.parent / "report.html"
    assert main(["report", str(folder), "--out", str(out), *map(str, more)]) == 0
    return data_of(out)


def planted(folder, marks, *names):
    """Write Python files that leave a mark; return their paths."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(RAN.format(str(marks / "ran")))
    return [folder / name for name in names]


@pytest.mark.parametrize(
    "source",
    [
        "study.py",
        "./study.py",
        "{run}/study.py",
        "../run/study.py",
        "study",
        "run.study",
        "studies.study",
        "..study",
        "digits/../study.py",
        "digits.py",
        "os",
        "",
        "STUDIES",
    ],
)
def test_a_report_runs_nothing_that_came_with_the_folder(tmp_path, monkeypatch, source):
    folder = configured(tmp_path / "run", source=source.format(run=tmp_path / "run"))
    planted(folder, tmp_path, "study.py", "digits.py", "STUDIES.py", "run/study.py")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    data = report(folder)
    assert not (tmp_path / "ran").exists()
    (run,) = data["runs"]
    assert run["columns"]["loss"]  # the rest is drawn
    assert "landscapes" not in run
    (problem,) = data["problems"]
    assert "without the loss around the path: its study is the file" in problem["what"]
    assert f"--study {source.rpartition('/')[2]}" in problem["what"]


@pytest.mark.parametrize("name", slow_unless_quick(STUDIES, {"linear_regression"}))
def test_a_name_of_the_package_is_no_module_of_the_folder(tmp_path, name):
    folder = configured(tmp_path / "run", source=name, events=2)
    names = (f"{name}.py", "studies.py", f"studies/{name}.py", "studies/__init__.py")
    planted(folder, tmp_path, *names)
    code = (
        "import sys; from studies.problems.table import STUDIES, load\n"
        "from studies.report.source import study_of, checked\n"
        "from studies import records; import pathlib\n"
        f"sys.path.append({str(folder)!r})\n"
        f"config = checked(records.read(pathlib.Path({str(folder)!r})).config)\n"
        "try: study_of(config, {})\n"
        "except (ValueError, ImportError) as error: print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert not (tmp_path / "ran").exists()
    assert done.stdout  # the parameters are not those of the run, or the study takes no events


OWN = """
from dataclasses import replace
from studies.problems.linear_regression import study as base
def study(seed):
    return replace(base(seed), name="own", grid=5)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A file with a study, and the folder of a run of it."""
    place = tmp_path_factory.mktemp("own")
    file = place / "own.py"
    file.write_text(OWN)
    plan = Plan(str(file), ["sgd"], ["plain"], ["torch"], place / "runs", 1, None, 5, None, False)
    prepared = Prepared(plan)
    prepared.train(prepared.optimizers[0], "torch", Console(quiet=True))
    return file, place / "runs"


@pytest.fixture
def named(own, tmp_path):
    """The same, in files of this test, as arguments of :func:`report`."""
    file, runs = own
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs", "--study", file


def test_a_study_that_the_user_names_is_run(named, capsys):
    assert "landscapes" not in report(named[0])["runs"][0]
    assert "report --study own.py" in capsys.readouterr().out
    data = report(*named)
    assert list(data["runs"][0]["landscapes"]) == ["path"]
    assert not data["problems"]
    # What was computed is data from then on.
    assert report(named[0])["runs"][0]["landscapes"] == data["runs"][0]["landscapes"]


def test_a_file_of_another_name_is_not_run(tmp_path):
    folder = configured(tmp_path / "run", source="theirs.py")
    (mine,) = planted(tmp_path, tmp_path, "mine.py")
    assert "--study theirs.py" in report(folder, "--study", mine)["problems"][0]["what"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["nowhere.py"], "there is no such file"),
        (["digits"], "allowed are files *.py"),
        (["a/own.py", "b/own.py"], "allowed is one file of the name 'own.py'"),
    ],
)
def test_what_the_user_may_name(tmp_path, monkeypatch, capsys, files, message):
    configured(tmp_path / "run")
    planted(tmp_path, tmp_path, "a/own.py", "b/own.py")
    monkeypatch.chdir(tmp_path)
    named = [word for file in files for word in ("--study", file)]
    assert main(["report", "run", "--out", "out.html", *named]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("source", ["digits"]),
        ("seed", "x"),
        ("seed", True),
        ("data", 7),
        ("events", [1]),
        ("algorithm", {}),
        ("lr", "0.1"),
        ("parameters", []),
    ],
)
def test_a_configuration_of_other_kinds(tmp_path, entry, value):
    folder = configured(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text()) | {entry: value}
    (folder / "config.json").write_text(json.dumps(config))
    (problem,) = report(folder)["problems"]
    assert f"config.json: {entry} = {value!r}; expected is " in problem["what"]


def test_nothing_is_written_through_a_link(named, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (folder,) = (f.parent for f in named[0].rglob("config.json"))
    for name in (extras.FILE, f"{extras.FILE}.{os.getpid()}.part"):
        (folder / name).symlink_to(outside)
    (tmp_path / "report.html.part").symlink_to(outside)
    assert report(*named)["runs"][0]["landscapes"]
    assert outside.read_text() == "mine"
    assert not (folder / extras.FILE).is_symlink()


def test_a_folder_that_takes_nothing_is_drawn(named, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    assert report(*named)["runs"][0]["landscapes"]
    assert not list(named[0].rglob("report.npz*"))


def test_no_object_is_read_from_an_archive(tmp_path):
    class Mark:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = configured(tmp_path / "run", source="theirs.py")
    made = extras.Extras({}, np.array([Mark()], object), np.empty(0))
    extras._write(folder / extras.FILE, made)
    report(folder)
    assert not (tmp_path / "ran").exists()


def test_compare_reuses_data(named, tmp_path):
    """A run that is there is compared with what was asked for, and its study is not run."""
    (there,) = (f.parent for f in named[0].rglob("config.json"))
    (theirs,) = planted(there, tmp_path, "own.py")
    config = json.loads((there / "config.json").read_text()) | {"source": str(theirs)}
    (there / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileExistsError, match="holds a run with source = "):
        done(there, config | {"source": str(named[2])})
    assert done(there, config)
    assert not (tmp_path / "ran").exists()


def test_the_page_on_security_names_what_there_is(capsys):
    text = (ROOT / "SECURITY.md").read_text()
    main(["report", "--help"])
    said = capsys.readouterr().out
    for option in "--study", "--no-landscapes":
        assert option in text
        assert option in said
    assert "](SECURITY.md)" in (ROOT / "README.md").read_text().splitlines()[-1]


RUNS_CODE = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "imp", "runpy"}
"""Modules that run what they read."""
SUSPECT = re.compile(rf"\b({'|'.join(sorted(RUNS_CODE))}|load)\b")
"""What a file holds that is looked at closely."""


def test_nothing_is_unpickled():
    """No module of ours asks a library for objects, and one alone runs a file."""
    found = []
    for package in ("optstudy_core", "optstudy_torch", "optstudy_jax", "studies", "parity"):
        for file in sorted((ROOT / package).rglob("*.py")):
            text = file.read_text()
            for node in ast.walk(ast.parse(text)) if SUSPECT.search(text) else ():
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                where = str(file.relative_to(ROOT))
                found += [(where, n) for n in names if n.partition(".")[0] in RUNS_CODE]
                if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "load":
                    call = ast.unparse(node.func)
                    given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    if call == "np.load":
                        assert given.get("allow_pickle") == "False", where
                    if call == "torch.load":
                        assert given.get("weights_only") == "True", where
    assert found == [("studies/problems/table.py", "runpy")]
