"""The resources of a run that is open for writing."""

from __future__ import annotations

import json
import pathlib
from typing import Final, NamedTuple

from ._database import Database, Lock, Table
from ._extra import need_tensorboard
from ._rows import WORDS, decode
from ._tensorboard import Mirror

TENSORBOARD: Final = "tensorboard"


class Writing(NamedTuple):
    """The resources of a run that is open for writing.

    Attributes:
        lock: the lock that keeps other processes from writing.
        mirrors: the mirrors of tables for TensorBoard; empty before :meth:`open_mirrors`.
        keep: the number of checkpoints to keep; ``None``: all.
        process: the number of the process that opened the run.
    """

    lock: Lock
    mirrors: dict[Table, Mirror]
    keep: int | None
    process: int

    def open_mirrors(self, folder: pathlib.Path, database: Database) -> None:
        """Mirror the rows of a run from now on.

        Raises:
            ImportError: if TensorBoard is not installed.
        """
        need_tensorboard()
        places = {"epochs": folder / TENSORBOARD, "steps": folder / TENSORBOARD / "steps"}
        tables: tuple[Table, ...] = ("epochs", "steps")
        for table in tables:
            self.mirrors[table] = Mirror(
                places[table],
                WORDS[table],
                lambda start, table=table: decode(database, table, start),  # type: ignore[misc]
                database.last_batch(table),
            )

    def show(self, table: Table, rows: list[tuple[Table, int, str]]) -> None:
        """Add rows to the mirror of their table, if there is one."""
        if table in self.mirrors and rows:
            self.mirrors[table].add([(number, json.loads(text)) for _, number, text in rows])

    def close(self) -> None:
        """Let other processes write."""
        for mirror in self.mirrors.values():
            mirror.close()
        self.lock.release()
