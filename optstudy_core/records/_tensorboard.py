"""The rows of a run for TensorBoard: a copy of the database; its errors never stop a run."""

from __future__ import annotations

import logging
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ._rows import scalars_of

_log = logging.getLogger(__name__)

Rows = Iterable[tuple[int, Mapping[str, Any]]]


class Mirror:
    """Event files of the rows of one table.

    An error of the file system is logged and never raised. The next rows then go to a new file,
    together with all missing rows.

    Args:
        folder: the folder for the event files.
        kind: the first part of the names of the scalars.
        rows_from: a function that returns the rows from a number on.
        start: the first row that may be missing in existing files; ``None``: no row is missing.

    Raises:
        ImportError: if ``tensorboard`` is not installed.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        kind: str,
        rows_from: Callable[[int], Rows],
        start: int | None,
    ) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder, self._kind, self._rows_from = folder, kind, rows_from
        self._event: Any = event_pb2.Event
        self._start_log: Any = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._summary: Any = summary_pb2.Summary
        # EventFileWriter is not used: it has a queue, so that a killed process loses rows, and it
        # reports a full disk from another thread.
        self._record_writer = RecordWriter
        self._writer: Any = None
        self._last = -1
        self._missing = start
        self._broken = False
        if start is not None:
            self.add([])

    def add(self, rows: Rows) -> None:
        """Add rows; they replace rows with the same or a later number."""
        rows = list(rows)
        if self._broken:
            return
        try:
            if self._missing is not None:
                first = min([self._missing, *(number for number, _ in rows)])
                self._open(first)
                rows = list(self._rows_from(first))
            elif self._writer is None and rows:
                self._open(None)
            self._add(rows)
            self._missing = None
        except OSError as error:
            if rows:
                first = min(number for number, _ in rows)
                self._missing = first if self._missing is None else min(first, self._missing)
            _log.warning("folder = %r: TensorBoard lacks rows (%s)", str(self._folder), error)
            self.close()
        except Exception as error:  # a measurement must not stop the training
            self._broken = True
            _log.warning("folder = %r: no more rows for TensorBoard (%r)", str(self._folder), error)
            self.close()

    def close(self) -> None:
        """Close the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                _log.warning("folder = %r: TensorBoard lacks rows (%s)", str(self._folder), error)

    def _open(self, first: int | None) -> None:
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names, and clocks may be set back.
        numbers = [int(f.name.rpartition(".")[2]) for f in self._folder.glob("events.out.tf*.*")]
        file = self._folder / f"events.out.tfevents.{1 + max(numbers, default=0):010d}"
        self._writer = self._record_writer(file.open("xb"))
        self._write(file_version="brain.Event:2")
        self._last = -1
        if first is not None:
            self._write(session_log=self._start_log, step=first)

    def _add(self, rows: Rows) -> None:
        if self._writer is None:
            return
        for number, row in rows:
            if number <= self._last:
                self._write(session_log=self._start_log, step=number)
            self._last = number
            scalars = [
                self._summary.Value(tag=name, simple_value=value)
                for name, value in scalars_of(row, self._kind).items()
            ]
            self._write(summary=self._summary(value=scalars), step=number)
        self._writer.flush()

    def _write(self, **content: Any) -> None:
        event = self._event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())
