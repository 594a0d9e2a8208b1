"""A run: its folder, written and read."""

from __future__ import annotations

import io
import os
import pathlib
import shutil
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Literal

import numpy as np

from optstudy_core import _processes

from . import _arrays, _files
from ._arrays import Checkpoint
from ._config import environment, read_config
from ._database import JOURNAL, NAME, Database, Lock, Table
from ._export import write_table
from ._extra import need_safetensors, need_tensorboard
from ._rows import WORDS, check_number, column, decode, encode
from ._tree import plain
from ._writing import TENSORBOARD, Writing

CONFIG: Final = "config.json"
CHECKPOINTS: Final = "checkpoints"


class Run:
    """A run's folder; made by :meth:`create`, :meth:`resume` and :meth:`read`.

    A context manager that closes it.

    Of several processes that train together (``torch.distributed``) all may call the same methods:
    the first writes, and what the others are to write is left to it. They touch no file unless
    they are asked for something in it.

    Attributes:
        folder: where it is.
        config: what was asked for, with ``versions`` and ``platform``.
    """

    folder: pathlib.Path
    config: dict[str, Any]

    def __init__(
        self,
        folder: pathlib.Path,
        writing: Writing | None,
        elsewhere: dict[str, Any] | None = None,  # the configuration of a run that another writes
    ) -> None:
        self.folder = folder = folder.absolute()  # wherever the process goes
        self._is_elsewhere = elsewhere is not None
        self._database = Database(folder)
        self._writing = writing
        self._closed = False
        self._recorder: weakref.ref[Any] | None = None
        self._mutex = threading.RLock()
        self.config = read_config(folder / CONFIG) if elsewhere is None else elsewhere
        # A run that is not closed by hand is closed with its object or its process.
        self._close = weakref.finalize(self, writing.close) if writing else lambda: None

    # Made, opened, closed.

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        overwrite: bool = False,
        tensorboard: bool = True,
        keep: int | None = 2,
    ) -> Run:
        """Make a run.

        Args:
            folder: is made if it does not exist; other files in it are left alone.
            config: JSON values by name; ``versions`` and ``platform`` are added, and refused.
            overwrite: replace a run that is there.
            tensorboard: write event files as well.
            keep: the last so many checkpoints stay, ≥ 1; ``None``: all.

        Returns:
            the run, open for writing.

        Raises:
            FileExistsError: if the folder holds a run and ``overwrite`` is false.
            NotADirectoryError: if it, or a folder above it, is a file.
            BlockingIOError: if a living process writes to the run that is there.
            WriteError: if it cannot be written.
            ImportError: if ``tensorboard`` is asked for and not installed.
            TypeError, ValueError: for a value that is not allowed.
        """
        folder = pathlib.Path(folder)
        if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep < 1):
            raise ValueError(f"keep = {keep!r}: allowed are None and whole numbers >= 1")
        asked, added = plain(config, "config"), environment()
        for name in added.keys() & asked.keys():
            raise ValueError(f"config[{name!r}]: is written by the run; allowed are other names")
        complete = {**asked, **added}
        if not _processes.is_first():
            return cls(folder, None, complete)
        if tensorboard:
            need_tensorboard()
        cls.check_free(folder, overwrite=overwrite)
        with _files.writing(folder, "a run"):
            _files.make_folder(folder)
            lock = Lock(folder)
        try:
            cls.check_free(folder, overwrite=overwrite)  # nobody was quicker
            with _files.writing(folder, "a run"):
                # The database is what makes a folder a run: it goes first and comes last.
                for name in (NAME, JOURNAL, CONFIG):
                    (folder / name).unlink(missing_ok=True)
                for name in (CHECKPOINTS, TENSORBOARD):
                    if (folder / name).exists():
                        shutil.rmtree(folder / name)
                _files.make_folder(folder / CHECKPOINTS)
                _files.write_json(folder / CONFIG, complete)
                Database(folder).create(keep=keep, tensorboard=tensorboard)
                _files.sync_folder(folder)
            return cls._open(folder, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def resume(cls, folder: str | os.PathLike[str]) -> Run:
        """Open a run to go on with it, with the options that it was made with.

        Rows later than the last checkpoint stay until they are written again.

        Args:
            folder: of the run.

        Returns:
            the run, open for writing.

        Raises:
            FileNotFoundError: if there is no run.
            BlockingIOError: if a living process writes to it.
            WriteError: if the folder cannot be written to.
            ValueError: if a file is not what it should be.
        """
        folder = _existing(folder)
        if not _processes.is_first():
            return cls(folder, None, read_config(folder / CONFIG))
        with _files.writing(folder, "to the run"):
            lock = Lock(folder)
        try:
            return cls._open(folder, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def create_or_resume(cls, folder: str | os.PathLike[str], config: Mapping[str, Any]) -> Run:
        """Make a run, or open the one that is there to go on with it.

        Args and errors as for :meth:`create` and :meth:`resume`.

        Returns:
            the run, open for writing.
        """
        try:
            return cls.create(folder, config)
        except FileExistsError:
            return cls.resume(folder)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Run:
        """Open a run to read it, also while a process writes to it; nothing is written.

        Args:
            folder: of the run.

        Returns:
            the run, which cannot be written to.

        Raises:
            FileNotFoundError: if there is no run.
            ValueError: if a file is not what it should be.
        """
        run = cls(_existing(folder), None)
        run._database.settings()
        return run

    @staticmethod
    def is_run(folder: str | os.PathLike[str]) -> bool:
        """Return whether a folder holds a run.

        Args:
            folder: any path.
        """
        return (pathlib.Path(folder) / NAME).is_file()

    @classmethod
    def check_free(cls, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Refuse a folder in which :meth:`create` could not make a run.

        Args:
            folder: any path.
            overwrite: as for :meth:`create`.

        Raises:
            FileExistsError: if it holds a run and ``overwrite`` is false.
            NotADirectoryError: if it, or a folder above it, is a file.
        """
        folder = pathlib.Path(folder)
        for part in (folder, *folder.parents):
            if part.exists() and not part.is_dir():
                raise NotADirectoryError(f"folder = {str(part)!r}: is a file; allowed are folders")
        if not overwrite and (folder / NAME).exists():
            raise FileExistsError(
                f"folder = {str(folder)!r}: holds a run already; go on with it (resume), replace "
                "it (overwrite), or choose another folder"
            )

    @classmethod
    def _open(cls, folder: pathlib.Path, lock: Lock) -> Run:
        database = Database(folder)
        keep, tensorboard = database.settings()
        writing = Writing(lock, {}, keep, os.getpid())
        run = cls(folder, writing)
        with _files.writing(folder, "to the run"):
            database.repair()
            run._tidy()
        if tensorboard:
            writing.open_mirrors(folder, database)
        return run

    def attach(self, recorder: object) -> None:
        """Let a recorder write rows; rows of two would replace each other.

        Args:
            recorder: of either adapter.

        Raises:
            ValueError: if another one writes, which is neither closed nor gone.
        """
        other = None if self._recorder is None else self._recorder()
        if other is not None and other is not recorder:
            raise ValueError(
                f"run = {str(self.folder)!r}: another recorder writes its rows; close it first, "
                "or give each recorder a run"
            )
        self._recorder = weakref.ref(recorder)

    def detach(self, recorder: object) -> None:
        """Let another recorder write rows.

        Args:
            recorder: the one that wrote.
        """
        if self._recorder is not None and self._recorder() is recorder:
            self._recorder = None

    def close(self) -> None:
        """Let other processes write; may be called twice."""
        self._closed = True
        self._close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Written.

    def epoch(self, number: int, row: Mapping[str, Any]) -> None:
        """Write the row of an epoch; when this returns, it is on the disk.

        Args:
            number: of the epoch, ≥ 0; a row with the same number is replaced.
            row: measurements by name: numbers (NaN and infinities too), ``None``, strings, and
                dictionaries of them.

        Raises:
            WriteError: if it cannot be written; it can be tried again.
            TypeError, ValueError: for a value that is not allowed.
        """
        self._write("epochs", [(number, row)])

    def steps(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Write rows of steps, all or none; errors as for :meth:`epoch`.

        Args:
            rows: pairs of a step's number and its row, as for :meth:`epoch`.
        """
        self._write("steps", rows)

    def checkpoint(
        self,
        epoch: int,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        state: Mapping[str, Any],
        row: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a checkpoint; when this returns, it is on the disk. It is there whole or not.

        Checkpoints of later epochs are dropped: the run is on another course now.

        Args:
            epoch: after which it is, ≥ 0.
            arrays: NumPy arrays by name; bfloat16, 0-d and empty ones too.
            state: JSON values by name; see :func:`optstudy_core.records.pack` for trees.
            row: of the epoch, as for :meth:`epoch`; written in the same transaction.

        Raises:
            WriteError: if it cannot be written; the last one is still there.
            TypeError, ValueError: for a value that is not allowed.
            ImportError: if ``safetensors`` is not installed.
        """
        if self._is_elsewhere:
            return
        need_safetensors()
        rows = [] if row is None else [(epoch, row)]
        check_number("epoch", epoch)
        encoded = encode("epochs", rows)
        with self._writer(f"the checkpoint of epoch {epoch}") as writing:
            recorded = {file for _, file in self._database.checkpoints()}
            # Never over a file that is recorded: until the transaction it is the one that counts.
            names = (f"epoch-{epoch}{mark}.safetensors" for mark in ("", "-again"))
            name = next(name for name in names if name not in recorded)
            _files.make_folder(self.folder / CHECKPOINTS)
            _arrays.write(self.folder / CHECKPOINTS / name, epoch, arrays, state)
            self._database.write(encoded, (epoch, name, writing.keep))
            self._tidy()
            writing.show("epochs", encoded)

    def _write(self, table: Table, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        if self._is_elsewhere:
            return
        encoded = encode(table, rows)
        what = f"rows of {table}"
        if len(encoded) == 1:
            what = f"the row of {WORDS[table]} {encoded[0][1]}"
        with self._writer(what) as writing:
            self._database.write(encoded)
            writing.show(table, encoded)

    @contextmanager
    def _writer(self, what: str) -> Iterator[Writing]:
        if self._writing is None:
            raise io.UnsupportedOperation(
                f"folder = {str(self.folder)!r}: is open for reading; Run.resume opens for writing"
            )
        if self._closed:
            raise ValueError(f"folder = {str(self.folder)!r}: this run was closed")
        if os.getpid() != self._writing.process:
            raise RuntimeError(
                f"folder = {str(self.folder)!r}: only the process that opened a run writes to it"
            )
        with self._mutex, _files.writing(self.folder, what):
            yield self._writing

    def _tidy(self) -> None:
        """Remove checkpoints that are not recorded, and what a killed process left."""
        recorded = {file for _, file in self._database.checkpoints()}
        for pattern in ("epoch-*.safetensors*", ".tmp*"):  # the latter are of safetensors
            for file in (self.folder / CHECKPOINTS).glob(pattern):
                if file.name not in recorded:
                    file.unlink(missing_ok=True)

    # Read.

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The rows of the epochs in order, each with its number as ``epoch``."""
        return [row for _, row in decode(self._database, "epochs")]

    @property
    def step_rows(self) -> list[dict[str, Any]]:
        """The rows of the steps in order, each with its number as ``step``."""
        return [row for _, row in decode(self._database, "steps")]

    def column(
        self, name: str, of: Literal["epochs", "steps"] = "epochs"
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return a measurement over the epochs (or steps), float64.

        Args:
            name: of the measurement; ``"layers/w/step_size"`` looks into dictionaries.
            of: which rows.

        Returns:
            a number for each row, NaN where the measurement is ``None`` or missing.

        Raises:
            ValueError: if no row has it, or it is no number.
        """
        return column(self.epochs if of == "epochs" else self.step_rows, name)

    def export(
        self, file: str | os.PathLike[str], of: Literal["epochs", "steps"] = "epochs"
    ) -> None:
        """Write the rows as a table, which pandas, R or a spreadsheet read.

        Args:
            file: ``*.csv``, or ``*.parquet`` (with the extra ``parquet``); one that is there is
                replaced. A column is called like the path of what it holds,
                ``layers/fc1.weight/angle``; what a row lacks is empty.
            of: which rows.

        Raises:
            ValueError: for another name of a file.
            ModuleNotFoundError: if ``pyarrow`` is not installed, for Parquet.
        """
        write_table(pathlib.Path(file), self.epochs if of == "epochs" else self.step_rows)

    @property
    def checkpoint_epochs(self) -> list[int]:
        """The epochs of which there are checkpoints, in order."""
        return [epoch for epoch, _ in self._database.checkpoints()]

    def last_checkpoint(self) -> Checkpoint | None:
        """Return the last checkpoint, or ``None``; errors are those of :meth:`read_checkpoint`."""
        epochs = self.checkpoint_epochs
        return self.read_checkpoint(epochs[-1]) if epochs else None

    def read_checkpoint(self, epoch: int) -> Checkpoint:
        """Return the checkpoint of an epoch.

        Args:
            epoch: one of :attr:`checkpoint_epochs`.

        Raises:
            ValueError: if there is none, or its file is not what it should be.
            ImportError: if ``safetensors`` is not installed.
        """
        need_safetensors()
        files = dict(self._database.checkpoints())
        if epoch not in files:
            raise ValueError(f"epoch = {epoch!r}: allowed are those of checkpoints, {list(files)}")
        file = self.folder / CHECKPOINTS / files[epoch]
        try:
            return _arrays.read(file, epoch)
        except ValueError as error:
            others = [other for other in files if other != epoch]
            hint = f"; others are of the epochs {others}" if others else ""
            raise ValueError(f"{error}{hint}") from error


def _existing(folder: str | os.PathLike[str]) -> pathlib.Path:
    folder = pathlib.Path(folder)
    if not (folder / NAME).is_file():
        raise FileNotFoundError(f"folder = {str(folder)!r}: holds no run ({NAME} is missing)")
    return folder
