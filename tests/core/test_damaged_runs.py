"""Run folders with other contents than those that were written: read right, or refused in words."""

from __future__ import annotations

import json
import pathlib
import random
import sqlite3
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from damage import ODD, damaged, nested, parts, text_of
from safetensors import safe_open
from safetensors.numpy import save_file

from optstudy_core.records import Run, pack
from studies import records
from studies.report import runs

FILES = ("config.json", "records.sqlite", "checkpoints/epoch-3.safetensors")


def write_run(folder: pathlib.Path) -> None:
    config = {"study": "digits", "source": "digits", "algorithm": "adam", "lr": 0.1, "seed": 1}
    start = {"w": np.float32([1, 2, 3]), "b": np.float32(4)}
    path = records.Path.start(start, "epoch")
    with Run.create(folder, config, tensorboard=False) as run:
        for epoch in (1, 2, 3):
            layer = {"step_size": 0.5 / epoch, "angle": 90.0}
            run.epoch(epoch, {"loss": 1 / epoch, "step_size": 0.5, "layers": {"w": layer}})
            path.append({name: value / np.float32(epoch) for name, value in start.items()})
        records.finish(run, 3, start, path, 0.25)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run."""
    folder = tmp_path_factory.mktemp("written") / "run"
    write_run(folder)
    return {name: (folder / name).read_bytes() for name in FILES}


def restore(folder: pathlib.Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name in ("records.sqlite-journal", "records.sqlite-wal", "records.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)


# What is changed.


def bytes_of(folder: pathlib.Path, draw: random.Random) -> str:
    name = draw.choice(FILES)
    done, content = damaged((folder / name).read_bytes(), draw)
    (folder / name).write_bytes(content)
    return f"{name}: {done}"


def config_of(folder: pathlib.Path, draw: random.Random) -> str:
    file = folder / "config.json"
    file.write_text(text_of(file.read_text(), draw))
    return f"config {file.read_text()[:300]}"


def database_of(folder: pathlib.Path, draw: random.Random) -> str:
    columns = [("epochs", column) for column in ("batch", "row", "row", "number")]
    columns += [("checkpoints", "file"), ("checkpoints", "epoch"), ("settings", "keep")]
    connection = sqlite3.connect(folder / "records.sqlite")
    try:
        table, column = draw.choice(columns)
        value: Any = draw.choice([x for x in ODD if not isinstance(x, list | dict | bool)])
        if column == "row" and draw.random() < 0.8:
            text = connection.execute("SELECT row FROM epochs WHERE number = 2").fetchone()[0]
            value = text_of(text, draw)
        where = " WHERE number = 2" if table == "epochs" else ""
        try:
            connection.execute(f"UPDATE {table} SET {column} = ?{where}", (value,))
            connection.commit()
        except (sqlite3.Error, OverflowError):  # which SQLite does not keep
            pass
    finally:
        connection.close()
    return f"{table}.{column} = {str(value)[:300]!r}"


def checkpoint_of(folder: pathlib.Path, draw: random.Random) -> str:
    file = folder / FILES[2]
    with safe_open(file, framework="numpy") as content:
        notes = dict(content.metadata())
        arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    if draw.random() < 0.3:
        name = draw.choice(list(arrays))
        arrays[name] = draw.choice([np.zeros((2, 7)), np.zeros(()), np.zeros((0, 3), np.int8)])
    elif draw.random() < 0.2:
        del arrays[draw.choice(list(arrays))]
    elif draw.random() < 0.2:
        del notes[draw.choice(list(notes))]
    else:
        notes["state"] = text_of(notes["state"], draw)
    save_file(arrays, file, metadata=notes)
    return f"checkpoint {sorted(arrays)} {str(notes)[:300]}"


CHANGES = (bytes_of, config_of, database_of, checkpoint_of)


def refused(folder: pathlib.Path) -> str | None:
    """Do all that reads a run; return what is said of it, if it is refused."""
    try:
        run = records.read(folder)
        for name in ("loss", "epoch", "layers/w/angle"):
            run.column(name)
        with Run.resume(folder) as going_on:  # which says what was written last
            going_on.epoch(4, {"loss": 0.0})
    except ValueError as error:
        if type(error) is ValueError:  # no decoder's
            return str(error)
        raise
    except FileNotFoundError as error:
        return str(error)
    return None


def test_what_was_written_is_read(tmp_path: pathlib.Path, written: dict[str, bytes]) -> None:
    restore(tmp_path, written)
    assert refused(tmp_path) is None


@pytest.mark.parametrize(("seed", "count"), parts(240, 4000))
def test_whatever_a_folder_holds(
    tmp_path: pathlib.Path, written: dict[str, bytes], seed: int, count: int
) -> None:
    draw = random.Random(seed)
    told = 0
    for _ in range(count):
        restore(tmp_path, written)
        done = draw.choice(CHANGES)(tmp_path, draw)
        try:
            found, problems = runs.read([tmp_path])
            runs.describe(found)
            said = refused(tmp_path)
        except Exception as error:
            raise AssertionError(done) from error
        assert len(found) + len(problems) >= 1, done
        if said is not None:
            told += 1
            assert str(tmp_path) in said or "name = " in said, (done, said)
    assert count > told > count / 6


# What was found, one by one.


def execute(folder: pathlib.Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(folder / "records.sqlite")
    connection.execute(statement, values)
    connection.commit()
    connection.close()


@pytest.mark.parametrize("batch", [2**63 - 1, -7, "seven", 2.5, b"\1"])
def test_a_batch_that_is_none(
    tmp_path: pathlib.Path, written: dict[str, bytes], batch: object
) -> None:
    restore(tmp_path, written)
    execute(tmp_path, "UPDATE epochs SET batch = ?", batch)
    message = r"records.sqlite: is .* \(epochs with batch .*; expected are whole numbers\)"
    with Run.resume(tmp_path) as run, pytest.raises(ValueError, match=message):
        run.epoch(4, {"loss": 0.0})
    assert len(Run.read(tmp_path).epochs) == 3  # it is read all the same


@pytest.mark.parametrize("name", ["../config.json", "/tmp/x.safetensors", "..", "", "a\\b", "a\0"])
def test_a_checkpoint_elsewhere(
    tmp_path: pathlib.Path, written: dict[str, bytes], name: str
) -> None:
    restore(tmp_path, written)
    execute(tmp_path, "UPDATE checkpoints SET file = ?", name)
    with pytest.raises(ValueError, match=r"records.sqlite: is .*checkpoint 3 in"):
        Run.read(tmp_path).last_checkpoint()


@pytest.mark.parametrize("text", ["[]", '"x"', "7", "null", nested(300), nested(5000)])
def test_a_state_that_is_none(tmp_path: pathlib.Path, written: dict[str, bytes], text: str) -> None:
    restore(tmp_path, written)
    file = tmp_path / FILES[2]
    notes = {"format": "optstudy checkpoint 1", "epoch": "3", "state": text}
    save_file({"a": np.zeros(2)}, file, metadata=notes)
    with pytest.raises(ValueError, match=r"epoch-3.safetensors, state: is ") as error:
        Run.read(tmp_path).last_checkpoint()
    assert type(error.value) is ValueError


@pytest.mark.parametrize("row", [{"loss": 1}, {"epoch": "2"}, {"epoch": 3}, {"epoch": 2.0}])
def test_a_row_of_another_epoch(
    tmp_path: pathlib.Path, written: dict[str, bytes], row: dict[str, Any]
) -> None:
    restore(tmp_path, written)
    execute(tmp_path, "UPDATE epochs SET row = ? WHERE number = 2", json.dumps(row))
    with pytest.raises(ValueError, match=r"records.sqlite, epoch 2: epoch = .*; expected is 2"):
        records.read(tmp_path)


def test_a_number_that_no_float_holds(tmp_path: pathlib.Path, written: dict[str, bytes]) -> None:
    restore(tmp_path, written)
    text = '{"epoch": 2, "loss": ' + "7" * 350 + "}"
    execute(tmp_path, "UPDATE epochs SET row = ? WHERE number = 2", text)
    with pytest.raises(ValueError, match="name = 'loss': a whole number is too large for float64"):
        records.read(tmp_path).column("loss")


@pytest.mark.parametrize("entry", ["parameters", "path", "every", "loss"])
@pytest.mark.parametrize("value", ["x", {}, None, {"w": np.zeros((3, 7))}])
def test_a_checkpoint_of_others(tmp_path: pathlib.Path, entry: str, value: object) -> None:
    write_run(tmp_path)
    tree = {"parameters": {"w": np.ones(3)}, "path": {"w": np.ones((2, 3))}, "every": "epoch"}
    with Run.resume(tmp_path) as run:
        run.checkpoint(3, *pack(tree | {"loss": 0.5}))
        records.read(tmp_path)
        run.checkpoint(3, *pack(tree | {"loss": 0.5, entry: value}))
    with pytest.raises(ValueError, match=r"the checkpoint of epoch 3: .*; expected is "):
        records.read(tmp_path)


def test_what_is_not_read_is_not_written(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="allowed are at most 200"):
        Run.create(tmp_path, {"a": json.loads(nested(250))}, tensorboard=False)
    with Run.create(tmp_path, {"a": json.loads(nested(190))}, tensorboard=False) as run:
        run.epoch(1, {"a": json.loads(nested(190))})
    assert len(Run.read(tmp_path).epochs) == 1


@pytest.mark.parametrize("name", ["records.sqlite", "config.json"])
def test_a_folder_in_the_place_of_a_file(
    tmp_path: pathlib.Path, written: dict[str, bytes], name: str
) -> None:
    restore(tmp_path, written)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match="is missing"):
        records.read(tmp_path)


KILLED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
for i in range(10, 90):
    connection.execute("INSERT INTO epochs VALUES (?, 9, ?)", (i, "x" * 4000))
os._exit(0)
"""
"""A process that ends within a transaction."""


@pytest.mark.parametrize("there", [False, True], ids=["whole", "naming a file"])
def test_a_journal_removes_no_file(
    tmp_path: pathlib.Path, written: dict[str, bytes], there: bool
) -> None:
    """SQLite removes the file that a journal of several databases names."""
    folder, other = tmp_path / "run", tmp_path / "other.txt"
    other.write_text("mine\0")
    restore(folder, written)
    command = [sys.executable, "-c", KILLED, folder / "records.sqlite"]
    subprocess.run(command, check=True)
    journal = folder / "records.sqlite-journal"
    assert journal.stat().st_size > 1000
    if not there:
        assert len(Run.read(folder).epochs) == 3  # what was half done is undone
        return
    name = str(other).encode()
    with journal.open("ab") as stream:
        size = int.from_bytes((folder / "records.sqlite").read_bytes()[16:18], "big")
        stream.write((2**30 // size + 1).to_bytes(4, "big") + name)
        stream.write(len(name).to_bytes(4, "big") + (sum(name)).to_bytes(4, "big"))
        stream.write(bytes.fromhex("d9d505f920a163d7"))
    for action in Run.read, Run.resume, records.read:
        with pytest.raises(ValueError, match="the journal names another file"):
            action(folder)
    assert other.exists()
