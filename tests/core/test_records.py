"""Run folders: what is written comes back, whatever happens in between."""

from __future__ import annotations

import gc
import io
import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from harness import ROOT

from optstudy_core.records import (
    Run,
    WriteError,
    _database,
    environment,
    pack,
    random_state,
    unpack,
)
from optstudy_core.records._arrays import DTYPES

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SCRIPT = ROOT / "tests" / "support" / "kill_and_resume.py"
ARRAYS = {
    **{name: np.asarray([0, 1, 3], ml_dtypes.bfloat16 if name == "bfloat16" else name)
       for name in DTYPES},
    "special": np.float32([np.nan, np.inf, -np.inf, -0.0, 1e-45]),
    "0-d": np.array(2.5),
    "empty": np.zeros((0, 3), np.float16),
    "strided": np.arange(12.0).reshape(3, 4)[:, ::2],
    "big-endian": np.arange(3, dtype=">f4"),
}  # fmt: skip
STATE = {"lr": 0.1 + 0.2, "nan": math.nan, "inf": -math.inf, "big": 2**80, "list": [1, [], None]}


def same(a: Any, b: Any) -> bool:
    """The same text, NaN and all."""
    return json.dumps(a) == json.dumps(b)


def same_arrays(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].shape == b[n].shape and a[n].dtype == b[n].dtype and a[n].tobytes() == b[n].tobytes()
        for n in a
    )


def write(folder: Path, epochs: int = 3, **options: Any) -> None:
    with Run.create(folder, {"study": "s", "betas": (0.9, 0.5)}, **options) as run:
        for k in range(1, epochs + 1):
            run.steps((10 * k + i, {"loss": k + i / 8}) for i in range(4))
            row = {"loss": 1 / k, "layers": {"a/b": {"step_size": np.float32(k)}}}
            run.checkpoint(k, {"w": np.full(3, k)}, {"k": k}, row=row)


# What is written comes back.


def test_rows_come_back(tmp_path):
    row = {"loss": 0.1 + 0.2, "nan": math.nan, "inf": -math.inf, "none": None, "word": "Δ",
           "big": 2**70, "yes": True, "half": np.float16(0.1), "tiny": 5e-324,
           "layers": {"w": {"angle": math.nan}}}  # fmt: skip
    with Run.create(tmp_path, {}, tensorboard=False) as run:
        run.epoch(0, row)
        run.epoch(np.int64(7), {"loss": 1})
        run.steps([(3, {"loss": 2.0}), (1, {"loss": math.inf})])
    run = Run.read(tmp_path)
    assert same(run.epochs[0], {"epoch": 0, **row, "half": 0.0999755859375})
    assert run.epochs[1] == {"epoch": 7, "loss": 1}
    assert run.step_rows == [{"step": 1, "loss": math.inf}, {"step": 3, "loss": 2.0}]


def test_columns(tmp_path):
    write(tmp_path)
    run = Run.read(tmp_path)
    assert run.column("loss").tolist() == [1.0, 1 / 2, 1 / 3]
    assert run.column("layers/a/b/step_size").tolist() == [1.0, 2.0, 3.0]
    assert len(run.column("loss", of="steps")) == 12
    assert run.column("epoch").dtype == np.float64
    with pytest.raises(ValueError, match="name = 'los': did you mean 'loss'"):
        run.column("los")
    with Run.resume(tmp_path) as run:
        run.epoch(4, {"loss": None, "word": "x"})
        assert np.isnan(run.column("loss")[-1])
        assert np.isnan(run.column("layers/a/b/step_size")[-1])
        with pytest.raises(ValueError, match="'x' is no number"):
            run.column("word")
    assert Run.read(tmp_path).column("loss", of="steps").size == 12


def test_a_row_with_the_same_number_is_replaced(tmp_path):
    write(tmp_path)
    with Run.resume(tmp_path) as run:
        run.epoch(2, {"loss": -1.0})
        run.steps([(10, {"loss": -2.0})])
        run.steps([])
    run = Run.read(tmp_path)
    assert run.column("loss").tolist() == [1.0, -1.0, 1 / 3]
    assert run.column("loss", of="steps")[0] == -2.0
    assert len(run.step_rows) == 12


def test_steps_are_written_all_or_none(tmp_path):
    with Run.create(tmp_path, {}) as run:
        with pytest.raises(TypeError, match=r"row\['loss'\] of type complex"):
            run.steps([(1, {"loss": 1.0}), (2, {"loss": 1j})])
        assert run.step_rows == []


def test_config_has_versions_and_is_readable(tmp_path):
    write(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["betas"] == [0.9, 0.5]
    assert {"python", "numpy", "torch", "jax", "optax", "flax", "optstudy"} <= set(
        config["versions"]
    )
    assert config == Run.read(tmp_path).config


def test_a_checkpoint_comes_back(tmp_path):
    with Run.create(tmp_path, {}) as run:
        run.checkpoint(5, ARRAYS, STATE)
        assert run.epochs == []
    last = Run.read(tmp_path).last_checkpoint()
    assert last.epoch == 5
    assert same(last.state, STATE)
    assert last.arrays.pop("big-endian").tolist() == [0.0, 1.0, 2.0]
    assert same_arrays(last.arrays, {n: a for n, a in ARRAYS.items() if n != "big-endian"})
    for array in last.arrays.values():
        assert array.flags.writeable


def test_bfloat16_is_read_without_its_package_imported(tmp_path):
    with Run.create(tmp_path, {}) as run:
        run.checkpoint(1, {"w": ARRAYS["bfloat16"]}, {})
    code = (
        "from optstudy_core.records import Run; import sys; "
        f"a = Run.read({str(tmp_path)!r}).last_checkpoint().arrays['w']; "
        "assert a.dtype.name == 'bfloat16', a.dtype; assert a.tolist() == [0, 1, 3]"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(("keep", "left"), [(2, [4, 5]), (1, [5]), (None, [1, 2, 3, 4, 5])])
def test_old_checkpoints_go(tmp_path, keep, left):
    write(tmp_path, epochs=5, keep=keep)
    run = Run.read(tmp_path)
    assert run.checkpoint_epochs == left
    assert len(list((tmp_path / "checkpoints").iterdir())) == len(left)
    for epoch in left:
        assert run.read_checkpoint(epoch).state == {"k": epoch}
    with pytest.raises(ValueError, match=r"epoch = 9: allowed are epochs with checkp"):
        run.read_checkpoint(9)


def test_a_checkpoint_is_replaced(tmp_path):
    write(tmp_path, keep=None)
    with Run.resume(tmp_path) as run:
        for k in range(3):
            run.checkpoint(2, {"w": np.full(3, -k)}, {"k": -k})
            assert run.last_checkpoint().state == {"k": -k}
        # Epoch 3 came after the 2 that is no more.
        assert run.checkpoint_epochs == [1, 2]
        assert len(run.epochs) == 3
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_checkpoint_and_its_row_are_one_transaction(tmp_path, monkeypatch):

    made, transaction = [], _database._transaction
    with Run.create(tmp_path, {}) as run:
        monkeypatch.setattr(_database, "_transaction", lambda f: made.append(f) or transaction(f))
        run.checkpoint(1, {"w": np.ones(2)}, {}, row={"loss": 1.0})
    assert len(made) == 1


def test_files_are_for_everybody(tmp_path):
    before = os.umask(0o022)
    try:
        write(tmp_path)
    finally:
        os.umask(before)
    for file in tmp_path.rglob("*"):
        assert file.stat().st_mode & 0o444 == 0o444, file


def test_nothing_is_pickled(tmp_path):
    with Run.create(tmp_path, {}) as run:
        with pytest.raises(ValueError, match=r"arrays\['w'\] of dtype object"):
            run.checkpoint(1, {"w": np.array([{}])}, {})
        with pytest.raises(TypeError, match=r"state\['f'\] of type function"):
            run.checkpoint(1, {}, {"f": lambda: 0})
        assert run.last_checkpoint() is None
    for file in (ROOT / "optstudy_core" / "records").glob("*.py"):
        assert "pickle" not in file.read_text().replace("unpickled", "")


# Trees.


def test_trees_come_back():
    tree = {
        "dict": {0: np.arange(3), "0": np.arange(2), 1.5: None, True: [], "x": {}},
        "a/b": np.float32(1),
        "a": {"b": np.array(2.0), "c": (1, (2.5, [True, None, "s", math.inf]))},
        "__metadata__": np.zeros(1),
        "bytes": b"\x00\xff",
        "empty": b"",
        "scalar": np.float16(0.5),
    }
    arrays, state = pack(tree)
    again = unpack(arrays, json.loads(json.dumps(state)))
    assert repr(again) == repr(tree)
    assert again["scalar"].dtype == np.float16
    for name in ("__metadata__",):
        assert name not in arrays
    array = np.ones(2)
    assert unpack(*pack(array)) is array


class Pair(NamedTuple):
    x: int


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [Pair(1)]}, "tree at 'a/0' is a named tuple, Pair"),
        ({"a": {(1, 2): 3}}, r"tree at 'a' with the key \(1, 2\)"),
        ({"a": {1, 2}}, "tree at 'a' of type set"),
        ({"a": 1j}, "tree at 'a' of type complex"),
    ],
)
def test_other_trees_are_refused(tree, message):
    with pytest.raises(TypeError, match=message):
        pack(tree)


@pytest.mark.parametrize("state", [{}, {"tree": {"array": "x"}}, {"tree": {"what": []}},
                                   {"tree": {"dict": 3}}, {"tree": {"a": 1, "b": 2}}])  # fmt: skip
def test_a_foreign_state_is_no_tree(state):
    with pytest.raises(ValueError, match="state: allowed is a result of pack"):
        unpack({}, state)


@pytest.mark.parametrize("make", [
    lambda: random.Random(3), lambda: np.random.default_rng(3), lambda: np.random.RandomState(3),
    lambda: np.random.Generator(np.random.MT19937(3)), lambda: random, lambda: np.random,
])  # fmt: skip
def test_generators_come_back(tmp_path, make):
    from optstudy_core.records import restore_random_state

    generator = make()
    draw = getattr(generator, "random", None) or generator.random_sample
    draw()
    with Run.create(tmp_path, {}) as run:
        run.checkpoint(1, *pack(random_state(generator)))
        expected = [draw() for _ in range(5)]
        last = run.last_checkpoint()
    restore_random_state(generator, unpack(last.arrays, last.state))
    assert [draw() for _ in range(5)] == expected


def test_no_generator():
    with pytest.raises(TypeError, match="generator of type int"):
        random_state(3)


# Opening and refusing.


def test_another_run_is_not_overwritten(tmp_path):
    write(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"already has a run: continue it \(resume\)"):
        Run.create(tmp_path, {})
    assert len(Run.read(tmp_path).epochs) == 3
    write(tmp_path, epochs=1, overwrite=True)
    assert len(Run.read(tmp_path).epochs) == 1
    assert Run.read(tmp_path).checkpoint_epochs == [1]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_places_that_hold_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run \(records\.sqlite is missing\)"):
        Run.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        Run.resume(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(NotADirectoryError, match="file': is a file; allowed are folders"):
            Run.create(folder, {})


def test_one_process_writes(tmp_path):
    with Run.create(tmp_path, {}, tensorboard=False) as run:
        for again in (Run.resume, lambda f: Run.create(f, {}, overwrite=True)):
            with pytest.raises(BlockingIOError, match="a running process writes to this run"):
                again(tmp_path)
        code = f"from optstudy_core.records import Run; Run.resume({str(tmp_path)!r})"
        other = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert "BlockingIOError" in other.stderr
        run.epoch(1, {"loss": 1.0})
        assert Run.read(tmp_path).column("loss").tolist() == [1.0]
    run.close()
    with Run.resume(tmp_path) as run:
        run.epoch(2, {"loss": 2.0})
    assert len(Run.read(tmp_path).epochs) == 2


def test_one_process_writes_where_there_is_no_flock(tmp_path, monkeypatch):
    monkeypatch.setattr(_database, "fcntl", None)  # as on Windows
    run = Run.create(tmp_path, {}, tensorboard=False)
    with pytest.raises(BlockingIOError, match="a running process writes to this run"):
        Run.resume(tmp_path)
    run.close()
    Run.resume(tmp_path).close()


def test_a_run_stays_where_it_was_made(tmp_path, monkeypatch):
    for folder in ("a", "b/a"):
        (tmp_path / folder).mkdir(parents=True)
        monkeypatch.chdir((tmp_path / folder).parent)
        with Run.create("a", {}, tensorboard=False) as run:
            monkeypatch.chdir(tmp_path if folder != "a" else "/")
            run.epoch(1, {"loss": 1.0, "where": folder})
    for folder in ("a", "b/a"):
        assert [row["where"] for row in Run.read(tmp_path / folder).epochs] == [folder]


@pytest.mark.parametrize("name", ["versions", "platform"])
def test_names_that_the_run_writes_itself(tmp_path, name):
    with pytest.raises(ValueError, match=rf"config\['{name}'\]: the run writes this"):
        Run.create(tmp_path, {name: "mine"})
    assert not any(tmp_path.iterdir())


def test_a_copy_of_the_folder_leaves_the_lock(tmp_path):
    code = f"""
import shutil, subprocess, sys
from optstudy_core.records import Run
run = Run.create({str(tmp_path / "run")!r}, {{}}, tensorboard=False)
shutil.copytree({str(tmp_path / "run")!r}, {str(tmp_path / "copy")!r})
other = "from optstudy_core.records import Run; Run.resume(sys.argv[1])"
for name, refused in (("run", True), ("copy", False)):
    command = [sys.executable, "-c", "import sys; " + other, {str(tmp_path)!r} + "/" + name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert ("BlockingIOError" in done.stderr) == refused, done.stderr
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_child_that_outlives_its_parent_holds_no_lock(tmp_path):
    code = f"""
import os, time
from optstudy_core.records import Run
run = Run.create({str(tmp_path)!r}, {{}}, tensorboard=False)
reading, writing = os.pipe()
if os.fork() == 0:
    os.close(1), os.close(2)
    os.write(writing, b"!")  # by now the child has let go
    time.sleep(5)
else:
    os.read(reading, 1)
os._exit(0)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)
    Run.resume(tmp_path).close()


def test_a_run_that_is_forgotten_is_closed(tmp_path):
    run = Run.create(tmp_path, {})
    run.epoch(1, {"loss": 1.0})
    del run
    gc.collect()
    Run.resume(tmp_path).close()


def test_writing_where_it_is_not_allowed(tmp_path):
    write(tmp_path)
    with pytest.raises(io.UnsupportedOperation, match=r"is open for reading only; Run\.resume"):
        Run.read(tmp_path).epoch(1, {})
    run = Run.resume(tmp_path)
    run.close()
    with pytest.raises(ValueError, match="this run is closed"):
        run.epoch(1, {})


@pytest.mark.parametrize(
    ("number", "row", "error", "message"),
    [
        (-1, {}, ValueError, "epoch = -1: allowed are whole numbers >= 0"),
        (2**63, {}, ValueError, "allowed are whole numbers"),
        (1.0, {}, TypeError, "epoch = 1.0: allowed are whole numbers"),
        (True, {}, TypeError, "epoch = True"),
        (1, [], TypeError, "row of type list: allowed are dictionaries"),
        (1, {"a": {2: 3}}, TypeError, r"row\['a'\] with the key 2: allowed are strings"),
        (1, {"a": np.ones(2)}, TypeError, r"row\['a'\] of type ndarray"),
        (1, {"epoch": 2}, ValueError, r"row\['epoch'\] = 2: allowed is 1"),
    ],
)
def test_bad_rows_are_refused(tmp_path, number, row, error, message):
    with Run.create(tmp_path, {}, tensorboard=False) as run:
        with pytest.raises(error, match=message):
            run.epoch(number, row)
        assert run.epochs == []


def test_bad_options_are_refused(tmp_path):
    for keep in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=r"keep = .*: allowed are None and whole numbers >= 1"):
            Run.create(tmp_path, {}, keep=keep)
    with pytest.raises(TypeError, match=r"config\['f'\] of type function"):
        Run.create(tmp_path, {"f": lambda: 0})
    with Run.create(tmp_path, {}) as run:
        for arrays in ({3: np.ones(1)}, {"__metadata__": np.ones(1)}):
            with pytest.raises(ValueError, match="arrays with the name"):
                run.checkpoint(1, arrays, {})
        with pytest.raises(TypeError, match=r"arrays\['w'\] of type list"):
            run.checkpoint(1, {"w": [1]}, {})


def test_other_processes_of_a_run_do_not_write(tmp_path):
    code = f"""
import os, sys
from optstudy_core.records import Run
run = Run.create({str(tmp_path)!r}, {{}}, tensorboard=False)
run.epoch(1, {{"loss": 1.0}})
child = os.fork()
if child == 0:
    try:
        run.epoch(2, {{}})
    except RuntimeError as error:
        assert "only the process that opened a run" in str(error)
        run.close()  # of the child's copy alone
        os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
run.epoch(2, {{"loss": 2.0}})
try:
    Run.resume({str(tmp_path)!r})
except BlockingIOError:
    sys.exit(0)
sys.exit("the lock is gone")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)
    assert len(Run.read(tmp_path).epochs) == 2


def test_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"tensorboard is not installed: pip install 'optstudy\["):
        Run.create(tmp_path, {})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with Run.create(tmp_path, {}, tensorboard=False) as run:
        run.epoch(1, {"loss": 1.0})
        with pytest.raises(ImportError, match="safetensors is not installed: pip install"):
            run.checkpoint(2, {}, {})


def test_the_core_does_not_import_records():
    code = (
        "import sys, optstudy_core; "
        "sys.exit(any(m in sys.modules for m in ('sqlite3', 'optstudy_core.records')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    code = (
        "import sys, optstudy_core.records; "
        "sys.exit(any(m in sys.modules for m in ('safetensors', 'tensorboard', 'torch', 'jax')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# TensorBoard.


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.exists():
        return {}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def assert_mirrored(folder: Path) -> None:
    run = Run.read(folder)
    shown = scalars(folder / "tensorboard") | scalars(folder / "tensorboard" / "steps")
    for kind, rows in (("epoch", run.epochs), ("step", run.step_rows)):
        expected = [(row[kind], float(np.float32(row["loss"]))) for row in rows]
        assert shown.get(f"{kind}/loss", []) == expected


def test_tensorboard_shows_the_rows(tmp_path):
    write(tmp_path)
    assert_mirrored(tmp_path)
    shown = scalars(tmp_path / "tensorboard")
    assert set(shown) == {"epoch/loss", "epoch/layers/a/b/step_size"}
    assert shown["epoch/layers/a/b/step_size"] == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_tensorboard_shows_no_row_twice(tmp_path):
    write(tmp_path, epochs=5)
    for loss in (0.25, 0.125):
        with Run.resume(tmp_path) as run:
            assert_mirrored(tmp_path)
            for epoch in (3, 4, 5, 6):
                run.epoch(epoch, {"loss": loss})
                run.steps((10 * epoch + i, {"loss": loss}) for i in range(4))
        assert_mirrored(tmp_path)
    with Run.resume(tmp_path) as run:
        run.epoch(4, {"loss": 9.0})
    # The run has left the course on which 5 and 6 were: they stay recorded, and are not shown.
    assert len(Run.read(tmp_path).epochs) == 6
    shown = scalars(tmp_path / "tensorboard")["epoch/loss"]
    assert shown == [(1, 1.0), (2, 0.5), (3, 0.125), (4, 9.0)]


def test_extremes_do_not_disturb_tensorboard(tmp_path):
    with Run.create(tmp_path, {}) as run:
        run.epoch(1, {"nan": math.nan, "inf": math.inf, "big": 1e300, "int": 10**400, "yes": True,
                      "none": None, "word": "x", "\udcff": 1.0})  # fmt: skip
        run.epoch(2, {"nan": 1.0})
    shown = scalars(tmp_path / "tensorboard")
    assert len(Run.read(tmp_path).epochs) == 2
    if shown:  # a name that is no text ends the mirror, never the run
        assert shown["epoch/inf"] == [(1, math.inf)]


def test_a_broken_tensorboard_does_not_break_the_run(tmp_path, monkeypatch, caplog):
    from tensorboard.summary.writer import record_writer

    full = True
    original = record_writer.RecordWriter.write

    def write(self, data):
        if full:
            raise OSError(28, "No space left on device")
        original(self, data)

    with Run.create(tmp_path, {}) as run:
        run.epoch(1, {"loss": 1.0})
        monkeypatch.setattr(record_writer.RecordWriter, "write", write)
        full = False
        run.epoch(2, {"loss": 2.0})
        full = True
        run.epoch(3, {"loss": 3.0})
        run.epoch(4, {"loss": 4.0})
        assert run.column("loss").tolist() == [1.0, 2.0, 3.0, 4.0]
        assert scalars(tmp_path / "tensorboard")["epoch/loss"] == [(1, 1.0), (2, 2.0)]
        full = False
        run.epoch(5, {"loss": 5.0})
    assert_mirrored(tmp_path)


def test_without_tensorboard(tmp_path):
    write(tmp_path, tensorboard=False)
    Run.resume(tmp_path).close()
    assert not (tmp_path / "tensorboard").exists()


# Disks that are full, folders that cannot be written to.

LIMITED = """
import json, sys, resource
import numpy as np
from optstudy_core.records import Run, WriteError
folder, limit = sys.argv[1], int(sys.argv[2])
run = Run.create(folder, {"w": "x" * 100})
run.checkpoint(1, {"w": np.ones(4)}, {"k": 1}, row={"loss": 1.0})
state = np.random.default_rng(1)
before = state.bit_generator.state
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
failed, k = set(), 1
while len(failed) < 2 and k < 400:
    k += 1
    try:
        run.epoch(k, {"loss": 1.0 / k, "note": "y" * 400})
        run.steps((100 * k + i, {"loss": i}) for i in range(20))
        assert "row" not in failed
    except WriteError as error:
        assert folder in str(error) and "cannot write" in str(error), error
        failed.add("row")
    try:
        run.checkpoint(k, {"w": np.ones(300 * k)}, {"k": k})
    except WriteError as error:
        assert folder in str(error) and f"checkpoint of epoch {k}" in str(error), error
        failed.add("checkpoint")
assert failed == {"row", "checkpoint"}, failed
assert state.bit_generator.state == before
print(json.dumps([[row["epoch"] for row in run.epochs], run.checkpoint_epochs]))
assert run.last_checkpoint().epoch == run.checkpoint_epochs[-1]
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
run.steps([(10**6, {"loss": 1.0})])
run.checkpoint(k, {"w": np.ones(300 * k)}, {"k": k}, row={"loss": 0.0})
run.close()
"""


@pytest.mark.parametrize("limit", [30_000, 45_001, 70_000])
def test_files_that_may_not_grow(tmp_path, limit):
    command = [sys.executable, "-W", "error", "-c", LIMITED, str(tmp_path / "run"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    epochs, checkpoints = json.loads(done.stdout)
    run = Run.read(tmp_path / "run")
    assert [row["epoch"] for row in run.epochs][: len(epochs)] == epochs
    assert run.epochs[-1]["loss"] == 0.0
    assert run.checkpoint_epochs[0] in checkpoints
    assert run.last_checkpoint().epoch == run.epochs[-1]["epoch"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no small disk: {error}")
    if done.returncode:
        pytest.skip(f"no small disk: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk):
    folder = small_disk / "run"
    run = Run.create(folder, {})
    written = []
    ballast = small_disk / "ballast"
    with pytest.raises(WriteError, match=r"cannot write the row of epoch .*full") as caught:  # noqa: PT012
        for k in range(2000):
            run.epoch(k, {"loss": float(k), "note": "z" * 300})
            written.append(k)
    assert str(folder) in str(caught.value)
    assert [row["epoch"] for row in Run.read(folder).epochs] == written
    with pytest.raises(WriteError, match="cannot write the checkpoint"):
        run.checkpoint(len(written), {"w": np.ones(20_000)}, {})
    assert run.last_checkpoint() is None
    assert [f.name for f in (folder / "checkpoints").iterdir()] == []
    with pytest.raises(WriteError, match="cannot write"):
        Run.create(small_disk / "other", {"w": "x" * 100_000})
    assert not ballast.exists()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    run.epoch(len(written), {"loss": -1.0})
    run.checkpoint(len(written) + 1, {"w": np.ones(20_000)}, {}, row={"loss": -2.0})
    assert len(run.epochs) == len(written) + 2
    run.close()
    assert_mirrored(folder)


READ_ONLY = """
import os, sys
from optstudy_core.records import Run, WriteError
folder = sys.argv[1]
Run.read(folder).last_checkpoint()  # imports what an ordinary user may not
Run.create(folder + "-2", {}).close()
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for attempt in (Run.resume, lambda f: Run.create(f, {}, overwrite=True),
                lambda f: Run.create(f + "/below", {})):
    try:
        attempt(folder)
    except WriteError as error:
        assert folder in str(error) and "cannot write" in str(error), error
    else:
        sys.exit("was written to")
run = Run.read(folder)
assert run.column("loss").tolist() == [1.0, 1 / 2, 1 / 3]
assert run.last_checkpoint().arrays["w"].tolist() == [3, 3, 3]
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_that_is_read_only(tmp_path, killed):
    folder = tmp_path / "run"
    write(folder)
    if killed:
        leave_a_journal(folder)
    paths = [folder, *folder.rglob("*")]
    for path in (p for p in (tmp_path, *tmp_path.parents) if p.owner() == folder.owner()):
        if path.stat().st_mode & 0o005 != 0o005 and "pytest-of" in str(path):
            path.chmod(path.stat().st_mode | 0o755)
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", READ_ONLY, str(folder)],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert done.returncode == 0, done.stderr


def leave_a_journal(folder: Path) -> None:
    """Kill a process within a transaction that has reached the file."""
    code = f"""
import os, signal, sqlite3
connection = sqlite3.connect({str(folder / "records.sqlite")!r}, isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE epochs SET row = 'half done'")
for i in range(100):
    connection.execute("INSERT INTO steps VALUES (?, 9, ?)", (1000 + i, "x" * 1000))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert (folder / "records.sqlite-journal").stat().st_size > 0


def test_half_a_transaction_is_undone(tmp_path):
    write(tmp_path)
    leave_a_journal(tmp_path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir() if f.is_file()}
    run = Run.read(tmp_path)
    assert run.column("loss").tolist() == [1.0, 1 / 2, 1 / 3]
    assert len(run.step_rows) == 12
    # To read a run does not touch it.
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir() if f.is_file()} == before
    with Run.resume(tmp_path) as run:
        assert not (tmp_path / "records.sqlite-journal").exists()
        assert len(run.step_rows) == 12
    leave_a_journal(tmp_path)
    with Run.create(tmp_path, {}, overwrite=True) as run:
        assert run.epochs == []


# Damage.


def read_all(folder: Path) -> None:
    run = Run.read(folder)
    assert isinstance(run.config, dict)
    assert all(row["epoch"] in (1, 2, 3) for row in run.epochs)
    assert run.step_rows is not None
    for epoch in run.checkpoint_epochs:
        run.read_checkpoint(epoch)
    run.last_checkpoint()


def names(file: str, error: Exception) -> bool:
    assert file.split("/")[-1] in str(error), error
    return True


FILES = ("config.json", "records.sqlite", "checkpoints/epoch-3.safetensors")


@pytest.mark.parametrize("file", FILES)
def test_cut_files_are_refused(tmp_path, file):
    write(tmp_path / "run")
    whole = (tmp_path / "run" / file).read_bytes()
    rng = np.random.default_rng(11)
    refused = 0
    cuts = [0, 1, 15, 16, 17, 99, 100, len(whole) - 1, *rng.integers(0, len(whole), 60).tolist()]
    for cut in cuts:
        (tmp_path / "run" / file).write_bytes(whole[:cut])
        try:
            read_all(tmp_path / "run")
        except ValueError as error:
            refused += names(file, error)
    # The last byte of the text is a line end.
    assert refused >= len(cuts) - (1 if file == "config.json" else 0)


@pytest.mark.parametrize("file", FILES)
def test_damaged_and_foreign_files_are_refused(tmp_path, file):
    write(tmp_path / "run")
    whole = (tmp_path / "run" / file).read_bytes()
    rng = np.random.default_rng(12)
    foreign: list[bytes] = [b"[1, 2]", b"[" * 5000, b"\xff\xfe", b'"x"', b"\0" * 5000]
    foreign += [(tmp_path / "run" / other).read_bytes() for other in FILES if other != file]
    for _ in range(80):
        damaged = bytearray(whole)
        at = int(rng.integers(0, len(whole)))
        length = int(rng.integers(1, 40))
        damaged[at : at + length] = rng.bytes(length)
        foreign.append(bytes(damaged))
    for i, content in enumerate(foreign):
        (tmp_path / "run" / file).write_bytes(content)
        try:
            read_all(tmp_path / "run")
        except ValueError as error:
            refused = names(file, error)
        except AssertionError:
            refused = False
        else:
            refused = False
        assert refused or i >= 7, content[:40]  # a digit of a row changed: there is no checksum


def test_another_programs_database_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "records.sqlite").unlink()
    with sqlite3.connect(tmp_path / "records.sqlite") as connection:
        connection.execute("CREATE TABLE epochs (number, row)")
    connection.close()
    with pytest.raises(ValueError, match=r"records\.sqlite: is truncated, damaged or not the data"):
        Run.read(tmp_path)
    with pytest.raises(ValueError, match="not the database of a run"):
        Run.resume(tmp_path)


def test_missing_parts_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "checkpoints" / "epoch-3.safetensors").unlink()
    run = Run.read(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"epoch-3.* is missing; .*; there are other checkpoints, of the epochs \[2",
    ):
        run.last_checkpoint()
    assert run.read_checkpoint(2).state == {"k": 2}
    shutil.copy(tmp_path / "checkpoints" / "epoch-2.safetensors",
                tmp_path / "checkpoints" / "epoch-3.safetensors")  # fmt: skip
    with pytest.raises(ValueError, match=r"and epoch 2; expected is .* and epoch 3"):
        run.last_checkpoint()
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: is missing"):
        Run.read(tmp_path)
    with pytest.raises(FileExistsError):
        Run.create(tmp_path, {})


# Killed and resumed.


def start(training: str, folder: Path, epochs: int, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), training, str(folder), "--epochs", str(epochs), *more]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> int:
    said, complained = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), complained
    durable = [int(line.split()[1]) for line in said.splitlines() if line.startswith("epoch")]
    return max(durable, default=0)


def undisturbed(training: str, folder: Path, epochs: int) -> Run:
    process = start(training, folder, epochs)
    assert finish(process) == epochs
    return Run.read(folder)


def assert_on_course(folder: Path, durable: int, reference: Run) -> None:
    """Every row that was durable is there, once, and each is the undisturbed run's."""
    if not (folder / "records.sqlite").exists():
        assert durable == 0
        return
    run = Run.read(folder)
    epochs = run.epochs
    assert len(epochs) >= durable
    assert same(epochs, reference.epochs[: len(epochs)])
    assert same(run.step_rows, reference.step_rows[: len(run.step_rows)])
    assert len(run.step_rows) >= 6 * len(epochs)
    last = run.last_checkpoint()
    assert (last.epoch if last else 0) == len(epochs)


def assert_same_end(folder: Path, reference: Run) -> None:
    run = Run.read(folder)
    assert same(run.epochs, reference.epochs)
    assert same(run.step_rows, reference.step_rows)
    ours, theirs = run.last_checkpoint(), reference.last_checkpoint()
    assert ours.epoch == theirs.epoch
    assert json.dumps(ours.state) == json.dumps(theirs.state)
    assert same_arrays(ours.arrays, theirs.arrays)
    assert_mirrored(folder)
    assert {f.name for f in folder.iterdir()} == {
        "checkpoints", "config.json", "lock", "records.sqlite", "tensorboard",
    }  # fmt: skip
    assert len(list((folder / "checkpoints").iterdir())) == 2


def kill_at_random(training: str, tmp_path: Path, kills: int, epochs: int, seed: int) -> int:
    """Train, killed that many times; return in how many different epochs."""
    reference = undisturbed(training, tmp_path / "undisturbed", epochs)
    rng = random.Random(seed)
    folder, durable, done, ends = tmp_path / "killed", 0, 0, set()
    while done < kills:
        process = start(training, folder, epochs)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if done % 4 < 3:  # else while the run is opened
            said = process.stdout.readline().split()
            durable = max(durable, int(said[1])) if said else durable
        wait = rng.expovariate(1 / 0.03)
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            process.kill()
            done += 1
        durable = max(durable, finish(process))
        if process.returncode == 0:  # quicker than expected: from the start again
            assert_same_end(folder, reference)
            shutil.rmtree(folder)
            durable = 0
        assert_on_course(folder, durable, reference)
        ends.add(durable)
    finish(start(training, folder, epochs))
    assert_same_end(folder, reference)
    return len(ends)


def rejections(folder: Path) -> int:
    return int(Run.read(folder).column("cut").sum())


@pytest.mark.slow
@pytest.mark.parametrize(("training", "kills"), [("torch", 1), ("jax", 2)])
def test_killed_and_resumed(tmp_path, training, kills):
    pytest.importorskip(training)
    kill_at_random(training, tmp_path, kills=kills, epochs=12, seed=1)
    # Epochs are undone, and some are not: the state that goes with it matters.
    assert 0 < rejections(tmp_path / "killed") < 12


@pytest.mark.slow
@pytest.mark.parametrize("training", ["torch", "jax"])
def test_killed_and_resumed_often(tmp_path, training):
    pytest.importorskip(training)
    assert kill_at_random(training, tmp_path, kills=25, epochs=60, seed=2) > 5
    assert rejections(tmp_path / "killed") > 5


def kill_at(tmp_path: Path, number: int, reference: Run) -> bool:
    """Kill a run before its so-many-th operation, and resume it; return whether it was killed."""
    folder = tmp_path / f"killed-{number}"
    process = start("numpy", folder, 4, "--kill-at", str(number))
    durable = finish(process)
    killed = process.returncode != 0
    assert_on_course(folder, durable, reference)
    # Again, within what resuming does.
    process = start("numpy", folder, 4, "--kill-at", str(number % 20))
    durable = max(durable, finish(process))
    assert_on_course(folder, durable, reference)
    finish(start("numpy", folder, 4))
    assert_same_end(folder, reference)
    shutil.rmtree(folder)
    return killed


def test_killed_before_an_operation(tmp_path):
    reference = undisturbed("numpy", tmp_path / "undisturbed", 4)
    for number in (3, 36):  # while the run is created; in its course, and while it is resumed
        assert kill_at(tmp_path, number, reference)


@pytest.mark.slow
def test_killed_before_every_operation(tmp_path):
    reference = undisturbed("numpy", tmp_path / "undisturbed", 4)
    number = 0
    while kill_at(tmp_path, number, reference):
        number += 1
    assert number > 60


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_killed_within_sqlite(tmp_path):
    reference = undisturbed("numpy", tmp_path / "undisturbed", 4)
    calls = "pwrite64,fdatasync,fsync,unlink,rename,renameat,ftruncate"
    number, killed = 1, True
    while killed:
        folder = tmp_path / f"killed-{number}"
        command = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={calls}",
                   "-e", f"inject={calls}:signal=SIGKILL:when={number}",
                   sys.executable, str(SCRIPT), "numpy", str(folder), "--epochs", "4"]  # fmt: skip
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        if "ptrace" in done.stderr:
            pytest.skip(f"strace may not trace here: {done.stderr.splitlines()[0]}")
        killed = done.returncode != 0
        durable = done.stdout.splitlines()[-1].removeprefix("epoch ").replace("ready", "0")
        assert_on_course(folder, int(durable), reference)
        finish(start("numpy", folder, 4))
        assert_same_end(folder, reference)
        shutil.rmtree(folder)
        number += 3
    assert number > 100


# The states of the frameworks.


def test_torch_states_come_back(tmp_path):
    torch = pytest.importorskip("torch")
    from optstudy_torch import checkpoint

    class Odd:
        """Whatever has a state."""

        state: ClassVar = {
            "bfloat16": torch.tensor([1.5, math.nan], dtype=torch.bfloat16),
            "float8": torch.tensor([1.5, 2.0]).to(torch.float8_e4m3fn),
            "complex": torch.tensor([[1 + 2j]], dtype=torch.complex128),
            "strided": torch.arange(6.0).reshape(2, 3).T,
            "0-d": torch.tensor(True),
            "empty": torch.zeros((0, 2), dtype=torch.int16),
            0: (np.float64(0.1), [None, "x", math.inf, np.arange(2)]),
        }

        def state_dict(self):
            return self.state

        def load_state_dict(self, state):
            self.loaded = state

    norm = torch.nn.BatchNorm1d(2)
    objects = {
        "odd": [Odd(), Odd()],
        "norm": norm,
        "generators": [torch.Generator(), np.random.default_rng(1), random.Random(1)],
    }
    with Run.create(tmp_path, {}) as run:
        assert checkpoint.load(run, **objects) is None
        checkpoint.save(run, 4, row={"loss": 1.0}, **objects)
        drawn = [torch.rand(2), torch.rand(2, generator=objects["generators"][0])]
        drawn += [objects["generators"][1].random(), objects["generators"][2].random()]
        norm(torch.randn(8, 2))
        assert checkpoint.load(run, **objects) == 4
        assert norm.running_mean.tolist() == [0.0, 0.0]
        again = [torch.rand(2), torch.rand(2, generator=objects["generators"][0])]
        again += [objects["generators"][1].random(), objects["generators"][2].random()]
        assert [np.asarray(x).tolist() for x in drawn] == [np.asarray(x).tolist() for x in again]
        for odd in objects["odd"]:
            assert list(odd.loaded) == list(Odd.state)
            for name, value in Odd.state.items():
                if isinstance(value, torch.Tensor):
                    other = odd.loaded[name]
                    assert (other.dtype, other.shape) == (value.dtype, value.shape)
                    assert str(other) == str(value)
            assert repr(odd.loaded[0]) == repr(Odd.state[0])
        for others in ({"norm": norm}, objects | {"odd": Odd()}, objects | {"odd": [Odd()]}):
            with pytest.raises(ValueError, match=r"checkpoint (of|has)"):
                checkpoint.load(run, **others)
        with pytest.raises(TypeError, match=r"x\[0\] of type int: allowed are objects with state_"):
            checkpoint.save(run, 5, x=[3])
        Odd.state = {"sparse": torch.eye(2).to_sparse()}
        with pytest.raises(
            TypeError, match=r"odd\['sparse'\] has a tensor of layout torch.sparse_coo"
        ):
            checkpoint.save(run, 5, odd=Odd())
        assert run.last_checkpoint().epoch == 4


def test_jax_trees_come_back(tmp_path):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy

    from optstudy_jax import checkpoint

    with jax.enable_x64(True):
        wide = jnp.asarray([0.1, math.inf])
    tree = {
        "bfloat16": jnp.asarray([1.5, math.nan], jnp.bfloat16),
        "float8": jnp.asarray([1.5, 2.0], jnp.float8_e4m3fn),
        "wide": wide,
        "weak": jnp.asarray(2.0),
        "flag": jnp.zeros((), bool),
        "empty": jnp.zeros((0, 2), jnp.int8),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4, impl="rbg"), 3),
        "pair": Pair(np.float32(1.5)),
        "numbers": [1, 0.1, None, "x", np.arange(3)],
        "random": np.random.default_rng(5),
    }
    with Run.create(tmp_path, {}) as run:
        assert checkpoint.load(run, tree=tree) is None
        checkpoint.save(run, 3, tree=tree, row={"loss": 2.0})
        drawn = tree["random"].random()
        epoch, found = checkpoint.load(run, tree=tree)
        again = found["tree"]
        assert epoch == 3
        assert jax.tree.structure(again) == jax.tree.structure(tree)
        assert again["random"].random() == drawn
        for name, value in tree.items():
            if isinstance(value, jax.Array):
                other = again[name]
                assert (other.dtype, other.shape) == (value.dtype, value.shape)
                weak = getattr(value, "weak_type", None)  # keys have none
                assert getattr(other, "weak_type", None) == weak
                assert str(other) == str(value)
        assert again["numbers"][:4] == tree["numbers"][:4]
        assert isinstance(again["pair"].x, np.float32)
        for name, other in (
            ("weak", jnp.zeros(2)),
            ("flag", jnp.zeros(())),
            ("key", jax.random.key(3, impl="rbg")),
            ("key", jnp.zeros(2, jnp.uint32)),
            ("numbers", [1, 2]),
        ):
            with pytest.raises(ValueError, match=f"{name}.*allowed is|another structure"):
                checkpoint.load(run, tree=tree | {name: other})
        with pytest.raises(
            ValueError, match="checkpoint of tree: expected is a checkpoint of other"
        ):
            checkpoint.load(run, other=tree)
        with pytest.raises(TypeError, match=r"tree\['f'\] of type function: allowed are arrays"):
            checkpoint.save(run, 4, tree={"f": lambda: 0})


def test_a_run_knows_its_program_and_commit(tmp_path, monkeypatch):
    program = tmp_path / "repository" / "src" / "train.py"
    program.parent.mkdir(parents=True)
    program.write_text("1\n")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(program), raising=False)

    def found():
        versions = environment()["versions"]
        return versions["commit"], versions["program"]

    digest = "train.py 4355a46b19d3"  # of SHA-256
    assert found() == (None, digest)
    home = tmp_path / "repository" / ".git"
    (home / "refs" / "heads").mkdir(parents=True)
    (home / "HEAD").write_text("ref: refs/heads/main\n")
    (home / "packed-refs").write_text(f"# pack-refs\n{'b' * 40} refs/heads/main\n")
    assert found() == ("b" * 40, digest)
    (home / "refs" / "heads" / "main").write_text("c" * 40 + "\n")
    assert found() == ("c" * 40, digest)
    (home / "HEAD").write_text("d" * 40 + "\n")  # no branch
    program.write_text("2\n")
    assert found()[0] == "d" * 40
    assert found()[1] != digest
    monkeypatch.delattr(sys.modules["__main__"], "__file__")  # an interactive session
    assert found() == (None, None)
