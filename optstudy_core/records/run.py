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
    """The folder of a run; made by :meth:`create`, :meth:`resume` and :meth:`read`.

    A run is a context manager, which closes the run at its end.

    If several processes train together (``torch.distributed``), all may call the same methods. Only
    the first process writes. The others touch no file, unless they read something.

    Attributes:
        folder: the path of the folder.
        config: the configuration, with ``versions`` and ``platform``.
    """

    folder: pathlib.Path
    config: dict[str, Any]

    def __init__(
        self,
        folder: pathlib.Path,
        writing: Writing | None,
        elsewhere: dict[str, Any] | None = None,  # the configuration, if another process writes
    ) -> None:
        self.folder = folder = folder.absolute()  # the process may change its directory
        self._is_elsewhere = elsewhere is not None
        self._database = Database(folder)
        self._writing = writing
        self._closed = False
        self._recorder: weakref.ref[Any] | None = None
        self._mutex = threading.RLock()
        self.config = read_config(folder / CONFIG) if elsewhere is None else elsewhere
        # A run that nobody closes is closed with its object or its process.
        self._close = weakref.finalize(self, writing.close) if writing else lambda: None

    # Creating, opening, closing.

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
        """Create a run.

        Args:
            folder: the path of the folder, which is created if it does not exist. Other files in it
                do not change.
            config: JSON values by name. The run adds ``versions`` and ``platform``, so these names
                are refused.
            overwrite: replace an existing run.
            tensorboard: also write event files.
            keep: the number of checkpoints to keep, ≥ 1; ``None``: all.

        Returns:
            the run, open for writing.

        Raises:
            FileExistsError: if the folder has a run and ``overwrite`` is false.
            NotADirectoryError: if the folder, or a folder above it, is a file.
            BlockingIOError: if a running process writes to the existing run.
            WriteError: if the run cannot be written.
            ImportError: if ``tensorboard`` is true and TensorBoard is not installed.
            TypeError, ValueError: for a value that is not allowed.
        """
        folder = pathlib.Path(folder)
        if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep < 1):
            raise ValueError(f"keep = {keep!r}: allowed are None and whole numbers >= 1")
        asked, added = plain(config, "config"), environment()
        for name in added.keys() & asked.keys():
            raise ValueError(f"config[{name!r}]: the run writes this entry; use another name")
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
            cls.check_free(folder, overwrite=overwrite)  # no other process was faster
            with _files.writing(folder, "a run"):
                # The database makes a folder a run: it is removed first and created last.
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
        """Open a run to continue it, with the options that it was created with.

        Rows after the last checkpoint stay until they are written again.

        Args:
            folder: the folder of the run.

        Returns:
            the run, open for writing.

        Raises:
            FileNotFoundError: if there is no run.
            BlockingIOError: if a running process writes to the run.
            WriteError: if the folder cannot be written to.
            ValueError: if a file is damaged.
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
        """Create a run, or open the existing run to continue it.

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
        """Open a run to read it, also while a process writes to it; this writes nothing.

        Args:
            folder: the folder of the run.

        Returns:
            the run, open for reading only.

        Raises:
            FileNotFoundError: if there is no run.
            ValueError: if a file is damaged.
        """
        run = cls(_existing(folder), None)
        run._database.settings()
        return run

    @staticmethod
    def is_run(folder: str | os.PathLike[str]) -> bool:
        """Return whether a folder has a run.

        Args:
            folder: any path.
        """
        return (pathlib.Path(folder) / NAME).is_file()

    @classmethod
    def check_free(cls, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Refuse a folder in which :meth:`create` could not create a run.

        Args:
            folder: any path.
            overwrite: as for :meth:`create`.

        Raises:
            FileExistsError: if the folder has a run and ``overwrite`` is false.
            NotADirectoryError: if the folder, or a folder above it, is a file.
        """
        folder = pathlib.Path(folder)
        for part in (folder, *folder.parents):
            if part.exists() and not part.is_dir():
                raise NotADirectoryError(f"folder = {str(part)!r}: is a file; allowed are folders")
        if not overwrite and (folder / NAME).exists():
            raise FileExistsError(
                f"folder = {str(folder)!r} already has a run: continue it (resume), replace it "
                "(overwrite), or choose another folder"
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
        """Register the recorder that writes rows; rows of two recorders would replace each other.

        Args:
            recorder: a recorder of either adapter.

        Raises:
            ValueError: if another recorder, which is not closed, writes to the run.
        """
        other = None if self._recorder is None else self._recorder()
        if other is not None and other is not recorder:
            raise ValueError(
                f"run = {str(self.folder)!r}: another recorder writes to this run. Close that "
                "recorder first, or use one run for each recorder."
            )
        self._recorder = weakref.ref(recorder)

    def detach(self, recorder: object) -> None:
        """Allow another recorder to write rows.

        Args:
            recorder: the recorder that has written.
        """
        if self._recorder is not None and self._recorder() is recorder:
            self._recorder = None

    def close(self) -> None:
        """Close the run, so that other processes may write; may be called twice."""
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

    # Writing.

    def epoch(self, number: int, row: Mapping[str, Any]) -> None:
        """Write the row of an epoch; when this method returns, the row is on disk.

        Args:
            number: the number of the epoch, ≥ 0; a row with the same number is replaced.
            row: measurements by name: numbers (also NaN and infinities), ``None``, strings, and
                dictionaries of them.

        Raises:
            WriteError: if the row cannot be written; the call can be repeated.
            TypeError, ValueError: for a value that is not allowed.
        """
        self._write("epochs", [(number, row)])

    def steps(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Write rows of steps, all or none; errors as for :meth:`epoch`.

        Args:
            rows: pairs of the number of a step and its row, as for :meth:`epoch`.
        """
        self._write("steps", rows)

    def checkpoint(
        self,
        epoch: int,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        state: Mapping[str, Any],
        row: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a checkpoint, completely or not at all; when this returns, it is on disk.

        Checkpoints of later epochs are removed, because the run now continues from this one.

        Args:
            epoch: the number of the last finished epoch, ≥ 0.
            arrays: NumPy arrays by name, also bfloat16, 0-d and empty arrays.
            state: JSON values by name; see :func:`optstudy_core.records.pack` for trees.
            row: the row of the epoch, as for :meth:`epoch`; written in the same transaction.

        Raises:
            WriteError: if the checkpoint cannot be written; the last checkpoint does not change.
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
            # Never overwrite a recorded file: it is valid until the transaction ends.
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
                f"folder = {str(self.folder)!r} is open for reading only; Run.resume opens it for "
                "writing"
            )
        if self._closed:
            raise ValueError(f"folder = {str(self.folder)!r}: this run is closed")
        if os.getpid() != self._writing.process:
            raise RuntimeError(
                f"folder = {str(self.folder)!r}: only the process that opened a run may write to it"
            )
        with self._mutex, _files.writing(self.folder, what):
            yield self._writing

    def _tidy(self) -> None:
        """Remove checkpoints that are not recorded, and temporary files of killed processes."""
        recorded = {file for _, file in self._database.checkpoints()}
        for pattern in ("epoch-*.safetensors*", ".tmp*"):  # safetensors makes files .tmp*
            for file in (self.folder / CHECKPOINTS).glob(pattern):
                if file.name not in recorded:
                    file.unlink(missing_ok=True)

    # Reading.

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
            name: the name of the measurement, or a path into dictionaries, such as
                ``"layers/w/step_size"``.
            of: ``"epochs"`` or ``"steps"``: the rows to read.

        Returns:
            a number for each row; NaN if the measurement is ``None`` or missing.

        Raises:
            ValueError: if no row has the measurement, or if it is no number.
        """
        return column(self.epochs if of == "epochs" else self.step_rows, name)

    def export(
        self, file: str | os.PathLike[str], of: Literal["epochs", "steps"] = "epochs"
    ) -> None:
        """Write the rows as a table for pandas, R or a spreadsheet.

        Args:
            file: ``*.csv``, or ``*.parquet`` (with the extra ``parquet``). An existing file is
                replaced. The name of a column is the path of the measurement, such as
                ``layers/fc1.weight/angle``. A missing entry of a row is empty.
            of: ``"epochs"`` or ``"steps"``: the rows to write.

        Raises:
            ValueError: if the name of the file does not end in ``.csv`` or ``.parquet``.
            ModuleNotFoundError: if ``pyarrow`` is not installed, for Parquet.
        """
        write_table(pathlib.Path(file), self.epochs if of == "epochs" else self.step_rows)

    @property
    def checkpoint_epochs(self) -> list[int]:
        """The epochs with checkpoints, in order."""
        return [epoch for epoch, _ in self._database.checkpoints()]

    def last_checkpoint(self) -> Checkpoint | None:
        """Return the last checkpoint, or ``None``; errors as for :meth:`read_checkpoint`."""
        epochs = self.checkpoint_epochs
        return self.read_checkpoint(epochs[-1]) if epochs else None

    def read_checkpoint(self, epoch: int) -> Checkpoint:
        """Return the checkpoint of an epoch.

        Args:
            epoch: a number in :attr:`checkpoint_epochs`.

        Raises:
            ValueError: if the epoch has no checkpoint, or the file is damaged.
            ImportError: if ``safetensors`` is not installed.
        """
        need_safetensors()
        files = dict(self._database.checkpoints())
        if epoch not in files:
            raise ValueError(
                f"epoch = {epoch!r}: allowed are epochs with checkpoints, {list(files)}"
            )
        file = self.folder / CHECKPOINTS / files[epoch]
        try:
            return _arrays.read(file, epoch)
        except ValueError as error:
            others = [other for other in files if other != epoch]
            hint = f"; there are other checkpoints, of the epochs {others}" if others else ""
            raise ValueError(f"{error}{hint}") from error


def _existing(folder: str | os.PathLike[str]) -> pathlib.Path:
    folder = pathlib.Path(folder)
    if not (folder / NAME).is_file():
        raise FileNotFoundError(f"folder = {str(folder)!r} holds no run ({NAME} is missing)")
    return folder
