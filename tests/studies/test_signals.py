"""Trainings that a signal ends: nothing runs on, and the same command goes on."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from harness import ROOT

from studies import processes, records
from studies.__main__ import main
from studies.comparisons import compare, everything, runner
from studies.comparisons.runner import Plan

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="needs /proc")


def begun(tmp_path, *more):
    """Start a comparison in a process of its own, whose processes carry a mark."""
    arguments = ["compare", "linear_regression", "--vary", "algorithm=sgd,adam,lion,yogi"]
    arguments += ["--backend", "torch", "--epochs", "10", "--out", str(tmp_path), *more]
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from studies.__main__ import main\n"
        "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))"
    )
    script = tmp_path / "begin.py"
    script.write_text(code)
    process = subprocess.Popen(
        [sys.executable, script, *arguments],
        env=os.environ | {"MARK": str(tmp_path), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process, arguments


def wait_for(found, seconds=60):
    end = time.monotonic() + seconds
    while not (what := found()) and time.monotonic() < end:
        time.sleep(0.01)
    assert what


def folders(tmp_path):
    """The trainings that began."""
    return list((tmp_path / "linear_regression" / "compare").glob("*/*/torch"))


def ended(tmp_path):
    """The trainings that ended."""
    found = []
    for folder in folders(tmp_path):
        with contextlib.suppress(ValueError, FileNotFoundError):
            found += [folder] if records.read(folder).parameters is not None else []
    return found


def marked(tmp_path):
    """The processes with the mark."""
    found = []
    for file in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"MARK={tmp_path}\0".encode() in file.read_bytes():
                found.append(file.parent.name)
    return found


@pytest.mark.parametrize(
    ("sent", "status", "jobs"),
    [
        (signal.SIGTERM, 143, "1"),
        *(
            pytest.param(*kind, jobs, marks=pytest.mark.slow)
            for kind in ((signal.SIGINT, 130), (signal.SIGTERM, 143))
            for jobs in ("1", "3")
        ),
    ],
)
def test_a_signal_ends_all_and_the_same_command_goes_on(tmp_path, capsys, sent, status, jobs):
    process, arguments = begun(tmp_path, "--jobs", jobs)
    with process:
        wait_for(lambda: len(folders(tmp_path)) > int(jobs))  # so one has ended
        process.send_signal(sent)
        said, _ = process.communicate(timeout=30)
    there = ended(tmp_path)
    assert process.returncode == status, said
    assert "Interrupted; the same command continues with the rest." in said
    assert "Traceback" not in said
    wait_for(lambda: not marked(tmp_path), seconds=5)
    assert 1 <= len(there) < 4
    before = {f: f.stat().st_mtime_ns for run in there for f in run.glob("checkpoints/*")}
    assert before
    vary = {"algorithm": ["sgd", "adam", "lion", "yogi"]}
    plan = Plan("linear_regression", ["adam"], ["plain"], ["torch"], tmp_path, 10, None, 2021,
                None, overwrite=False)  # fmt: skip
    assert len(compare.Comparison(plan, vary).waiting) == 4 - len(there)
    if jobs != "1":
        assert main(arguments) == 0
        assert f"{len(there)} of 4 trainings are already done" in capsys.readouterr().out
        assert before == {f: f.stat().st_mtime_ns for f in before}


@pytest.mark.parametrize("end", [KeyboardInterrupt, processes.TerminatedError])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "linear_regression"], "with --overwrite starts again"),
        (["all"], "the same command continues"),
        (["all", "--overwrite"], "the same command without --overwrite continues"),
        (["compare", "linear_regression"], "the same command continues"),
    ],
)
def test_what_is_said_when_it_is_ended(tmp_path, monkeypatch, capsys, arguments, words, end):
    def interrupted(*_):
        raise end

    monkeypatch.setattr("studies.__main__.TOYS", 2)  # `all` makes toy events before it begins
    for kind in (compare.Comparison, runner.Prepared, everything.Everything):
        monkeypatch.setattr(kind, "carry_out", interrupted)
    status = 143 if end is processes.TerminatedError else 130
    assert main([*arguments, "--out", str(tmp_path), "--backend", "torch"]) == status
    assert words in capsys.readouterr().out.replace("\n", " ")
