"""Sinks, and exports of rows: what is given to whom, with fakes of the packages' own calls."""

from __future__ import annotations

import csv
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from optstudy_core.records import Output, Run, TensorBoard

STEPS = [{"epoch": 1, "step": n, "loss": 2.0, "layers": {"w": {"angle": 9.0}}} for n in (2, 4)]
EPOCH = {"epoch": 1, "loss": 1.5, "note": "warm", "layers": {"w": {"angle": 3}}}


class FakeLightning:
    """A logger of Lightning: ``log_metrics(metrics, step)``."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log_hyperparams(self, params: dict[str, Any]) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert all(isinstance(value, int | float) for value in metrics.values())
        self.logged.append((step, dict(metrics)))


class FakeAccelerate:
    """An ``Accelerator``, or one of its trackers: ``log(values, step)``."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log(self, values: dict[str, float], step: int | None = None, **rest: Any) -> None:
        assert not rest
        self.logged.append((step, dict(values)))


class FakeRun:
    """What ``wandb.init`` returns."""

    def __init__(self, config: Any = None) -> None:
        self.config = config
        self.axes: dict[str, str | None] = {}
        self.logged: list[dict[str, float]] = []
        self.finished = 0

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, data: dict[str, float], step: int | None = None) -> None:
        assert step is None  # W&B drops what is logged at a step that has passed
        self.logged.append(data)

    def finish(self) -> None:
        self.finished += 1


def told(*sinks: Any, run: Any = None) -> Output:
    output = Output(run, sinks, {"every": 2}, writes=True)
    output.add_steps(STEPS)
    output.epoch(EPOCH)
    output.close()
    return output


def test_a_callable_is_given_each_row() -> None:
    rows: list[Any] = []
    output = told(rows.append)
    assert rows == [*STEPS, EPOCH]
    assert (output.steps, output.epochs) == (STEPS, [EPOCH])


@pytest.mark.parametrize("logger", [FakeLightning(), FakeAccelerate()])
def test_loggers_have_one_axis_that_only_grows(logger: Any) -> None:
    told(logger)
    step = {"epoch": 1, "step/epoch": 1, "step/loss": 2.0, "step/layers/w/angle": 9.0}
    epoch = {"epoch": 1, "epoch/loss": 1.5, "epoch/layers/w/angle": 3.0}
    assert logger.logged == [(2, step), (4, step), (4, epoch)]
    alone = type(logger)()
    output = Output(None, [alone], {}, writes=True)
    for number in (1, 2):
        output.epoch({"epoch": number, "loss": 1.0})
    assert [at for at, _ in alone.logged] == [1, 2]


def test_weights_and_biases_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeRun] = []
    fake = types.ModuleType("wandb")
    fake.init = lambda config: made.append(FakeRun(config)) or made[-1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with Run.create(tmp_path, {"lr": 0.5}, tensorboard=False) as run:
        told("wandb", run=run)
    (one,) = made
    assert one.config["lr"] == 0.5
    assert one.config["versions"]
    assert one.axes == {"epoch": None, "epoch/*": "epoch", "step": None, "step/*": "step"}
    assert one.logged[0] == {
        "step": 2, "step/epoch": 1.0, "step/loss": 2.0, "step/layers/w/angle": 9.0
    }  # fmt: skip
    assert one.logged[-1] == {"epoch": 1, "epoch/loss": 1.5, "epoch/layers/w/angle": 3.0}
    assert one.finished == 1


@pytest.mark.filterwarnings("default")  # of that package's own
def test_the_real_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    summaries = []
    finish = wandb.Run.finish
    monkeypatch.setattr(
        wandb.Run, "finish", lambda run: summaries.append(dict(run.summary)) or finish(run)
    )
    told("wandb")
    (found,) = summaries
    assert (found["step"], found["epoch"]) == (4, 1)
    assert (found["epoch/loss"], found["epoch/layers/w/angle"]) == (1.5, 3.0)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"step/layers/w/angle" in file.read_bytes()


def test_a_run_of_weights_and_biases_stays_open() -> None:
    run = FakeRun()
    told(run)
    assert len(run.logged) == 3
    assert run.finished == 0


def test_weights_and_biases_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'optstudy\[wandb\]'"):
        Output(None, ["wandb"], {}, writes=True)


def test_tensorboard_without_a_run(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    told(TensorBoard(tmp_path))

    def read(folder: Path, tag: str) -> list[tuple[int, float]]:
        events = accumulator.EventAccumulator(str(folder))
        events.Reload()
        return [(e.step, e.value) for e in events.Scalars(tag)]

    assert read(tmp_path, "epoch/loss") == [(1, 1.5)]
    assert read(tmp_path / "steps", "step/layers/w/angle") == [(2, 9.0), (4, 9.0)]


def test_a_sink_comes_after_the_run_and_is_closed(tmp_path: Path) -> None:
    class Sink:
        closed = 0

        def __call__(self, row: Any) -> None:
            if "step" not in row:
                assert Run.read(tmp_path).epochs == [EPOCH]
                raise KeyboardInterrupt

        def close(self) -> None:
            self.closed += 1

    sink = Sink()
    output = Output(tmp_path, [sink], {}, writes=True)
    with pytest.raises(KeyboardInterrupt):  # a sink may end a training
        output.epoch(EPOCH)
    output.close()
    assert sink.closed == 1
    assert Run.read(tmp_path).epochs == [EPOCH]


def test_a_process_that_does_not_write_has_no_sinks(tmp_path: Path) -> None:
    rows: list[Any] = []
    output = Output(tmp_path / "run", [rows.append, "unknown"], {}, writes=False)
    output.epoch(EPOCH)
    output.close()
    assert rows == []
    assert not (tmp_path / "run").exists()


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="allowed are callables of a row, loggers") as kept:
        Output(tmp_path, [3], {}, writes=True)
    Run.resume(tmp_path).close()  # what was opened is closed again, though its frame is kept
    assert "sinks with 3" in str(kept.value)
    with pytest.raises(ValueError, match="sinks with 'wandbb': allowed are callables, loggers and"):
        Output(None, ["wandbb"], {}, writes=True)
    with pytest.raises(TypeError, match="sinks = 'wandb': allowed are lists"):
        Output(None, "wandb", {}, writes=True)


# Exports.


def a_run(folder: Path) -> Run:
    with Run.create(folder, {}, tensorboard=False) as run:
        run.epoch(1, {"loss": 0.1, "n": 1})
        run.epoch(2, {"loss": math.nan, "n": 2.5, "layers": {"a,b": {"angle": math.inf}}})
        run.steps([(7, {"loss": 3, "tags": ["x"]})])
    return Run.read(folder)


def test_csv(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    for name in ("epochs", "steps"):
        run.export(tmp_path / f"{name}.csv", name)  # type: ignore[arg-type]
    with (tmp_path / "epochs.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["epoch", "loss", "n", "layers/a,b/angle"], ["1", "0.1", "1", ""],
            ["2", "nan", "2.5", "inf"],
        ]  # fmt: skip
    assert (tmp_path / "steps.csv").read_text() == 'step,loss,tags\n7,3,"[""x""]"\n'


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    a_run(tmp_path / "run").export(tmp_path / "rows.parquet")
    found = parquet.read_table(tmp_path / "rows.parquet").to_pydict()
    assert found["n"] == [1.0, 2.5]
    assert found["layers/a,b/angle"] == [None, math.inf]


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a module that is called as pyarrow is, and with none."""
    written: dict[str, Any] = {}
    pyarrow, parquet = types.ModuleType("pyarrow"), types.ModuleType("pyarrow.parquet")

    def write_table(table: Any, where: Path) -> None:
        written.update(table)
        where.write_text("table")

    pyarrow.table, pyarrow.parquet = dict, parquet  # type: ignore[attr-defined]
    parquet.write_table = write_table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", pyarrow)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    run = a_run(tmp_path / "run")
    run.export(tmp_path / "rows.parquet")
    assert written["n"] == [1.0, 2.5]
    assert written["layers/a,b/angle"] == [None, math.inf]
    assert (tmp_path / "rows.parquet").read_text() == "table"
    assert not (tmp_path / "rows.parquet.part").exists()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'optstudy\[parquet\]'"):
        run.export(tmp_path / "rows.parquet")


def test_another_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows.xls': allowed are names that end in .csv or"):
        a_run(tmp_path / "run").export(tmp_path / "rows.xls")
