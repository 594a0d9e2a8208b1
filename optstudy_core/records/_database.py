"""The rows of a run in SQLite.

Every call opens the file, makes one transaction and closes it again, so that no failure leaves
anything behind in the process, and a run that is only read holds nothing open.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import IO, Any, Final, Literal

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]

Table = Literal["epochs", "steps"]

NAME: Final = "records.sqlite"
JOURNAL: Final = NAME + "-journal"
LARGEST: Final = 2**63 - 1  # of SQLite's whole numbers

# A file that says it is another program's is not read.
_APPLICATION: Final = 0x6F707473
_VERSION: Final = 1
_SCHEMA: Final = (
    "CREATE TABLE settings (keep INTEGER, tensorboard INTEGER NOT NULL)",
    # `batch` numbers the transactions: the last one may not have reached TensorBoard.
    "CREATE TABLE epochs (number INTEGER PRIMARY KEY, batch INTEGER NOT NULL, row TEXT NOT NULL)",
    "CREATE TABLE steps (number INTEGER PRIMARY KEY, batch INTEGER NOT NULL, row TEXT NOT NULL)",
    "CREATE TABLE checkpoints (epoch INTEGER PRIMARY KEY, file TEXT NOT NULL)",
)
# Long enough for a reader to finish; readers hold the file for milliseconds.
_PATIENCE: Final = 30.0


class Database:
    """The file of rows in a folder.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.file = folder / NAME

    def create(self, *, keep: int | None, tensorboard: bool) -> None:
        """Make an empty file; it is there whole or not at all."""
        temporary = self.file.with_name(NAME + ".part")
        for name in (temporary.name, temporary.name + "-journal"):
            temporary.with_name(name).unlink(missing_ok=True)
        with _transaction(temporary) as connection:
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("INSERT INTO settings VALUES (?, ?)", (keep, tensorboard))
        # SQLite has put it on the disk; what is left is its name.
        temporary.replace(self.file)

    def repair(self) -> None:
        """Undo what a killed process left half done, and see that the file can be written to."""
        with self._damage(), _transaction(self.file) as connection:
            connection.execute(f"PRAGMA user_version = {_VERSION}")

    def write(
        self,
        rows: Iterable[tuple[Table, int, str]],
        checkpoint: tuple[int, str, int | None] | None = None,
    ) -> None:
        """Write rows and a checkpoint in one transaction.

        Args:
            rows: table, number and text of each; one with the same number is replaced.
            checkpoint: epoch, file, and how many checkpoints stay recorded (``None``: all).

        Raises:
            sqlite3.Error: if it cannot be written; nothing has changed then.
            ValueError: if the file is damaged.
        """
        with self._damage(), _transaction(self.file) as connection:
            tables: tuple[Table, ...] = ("epochs", "steps")
            batches = {
                table: 1 + self._batch(table, _one(connection, f"SELECT MAX(batch) FROM {table}"))
                for table in tables
            }
            for table, number, text in rows:
                connection.execute(
                    f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)",
                    (number, batches[table], text),
                )
            if checkpoint is not None:
                epoch, file, keep = checkpoint
                connection.execute(
                    "INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", (epoch, file)
                )
                # Later ones are of a course that the run has left.
                connection.execute("DELETE FROM checkpoints WHERE epoch > ?", (epoch,))
                connection.execute(
                    "DELETE FROM checkpoints WHERE epoch NOT IN "
                    "(SELECT epoch FROM checkpoints ORDER BY epoch DESC LIMIT ?)",
                    (-1 if keep is None else keep,),
                )

    def rows(self, table: Table, start: int = 0) -> list[tuple[int, str]]:
        """Return number and text of the rows from ``start`` on, in order."""
        return self._read(
            f"SELECT number, row FROM {table} WHERE number >= ? ORDER BY number", (start,)
        )

    def last_batch(self, table: Table) -> int | None:
        """Return the first number of the rows that were written last."""
        result: int | None = self._read(
            f"SELECT MIN(number) FROM {table} WHERE batch = (SELECT MAX(batch) FROM {table})"
        )[0][0]
        return result

    def _batch(self, table: Table, last: Any) -> int:
        """Return the last batch of a table; there is room for another one."""
        if last is None:
            return 0
        if not isinstance(last, int) or not 0 <= last < LARGEST:
            raise self._damaged(f"{table} with batch {last!r}; expected are whole numbers")
        return last

    def checkpoints(self) -> list[tuple[int, str]]:
        """Return epoch and file of the checkpoints, in order."""
        found = self._read("SELECT epoch, file FROM checkpoints ORDER BY epoch")
        for epoch, file in found:
            if not (isinstance(epoch, int) and isinstance(file, str) and _is_name(file)):
                raise self._damaged(f"checkpoint {epoch!r} in {file!r}")
        return found

    def settings(self) -> tuple[int | None, bool]:
        """Return ``keep`` and ``tensorboard``.

        Raises:
            ValueError: if this is not the database of a run.
        """
        found = self._read("SELECT keep, tensorboard FROM settings")
        if len(found) != 1 or not isinstance(found[0][0], int | None):
            raise self._damaged(f"settings {found!r}")
        return found[0][0], bool(found[0][1])

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        # A missing or unreadable file is the system's to say.
        with self.file.open("rb"):
            pass
        with self._damage():
            try:
                return _select(self.file, query, values)
            except sqlite3.OperationalError as error:
                if _code(error) not in _UNDO or not self.file.with_name(JOURNAL).exists():
                    raise
                # A process was killed within a transaction. Undoing it writes, which reading a
                # run does not: it is undone in a copy.
                with tempfile.TemporaryDirectory() as folder:
                    for name in (NAME, JOURNAL):
                        shutil.copyfile(self.file.with_name(name), pathlib.Path(folder, name))
                    with _transaction(pathlib.Path(folder, NAME)):
                        pass
                    return _select(pathlib.Path(folder, NAME), query, values)

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            # A disk that is full, or a process in the way, is not damage.
            if _code(error) not in _DAMAGED:
                raise
            raise self._damaged(error) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: object) -> ValueError:
        return ValueError(
            f"{self.file}: is truncated, damaged or not the database of a run ({error})"
        )


_DAMAGED: Final = frozenset(
    {
        0,  # text that is not UTF-8
        sqlite3.SQLITE_ERROR,  # a table is missing
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
    }
)
# The end of a journal that has the name of another one before it.
_NAMES_ANOTHER: Final = bytes.fromhex("d9d505f920a163d7")
_UNDO: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})


def _is_name(file: str) -> bool:
    """Tell whether this is the name of a file in a folder, and leads nowhere else."""
    return file not in {"", ".", ".."} and not set(file) & set("/\\:\0")


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _check_journal(file: pathlib.Path) -> None:
    """Refuse a journal that names another file: SQLite would remove that one.

    Raises:
        sqlite3.DatabaseError: if it does; transactions on several files alone write so.
    """
    journal = file.with_name(file.name + "-journal")
    if not journal.is_file():
        return
    with journal.open("rb") as stream:
        stream.seek(max(0, journal.stat().st_size - len(_NAMES_ANOTHER)))
        if stream.read() == _NAMES_ANOTHER:
            raise sqlite3.DatabaseError("its journal names another file; expected is none")


@contextmanager
def _transaction(file: pathlib.Path) -> Iterator[sqlite3.Connection]:
    """Open a file for one transaction, which is on the disk when this ends."""
    _check_journal(file)
    with closing(sqlite3.connect(file, timeout=_PATIENCE, isolation_level=None)) as connection:
        # A rollback journal, not a write-ahead log: the run is one file between transactions,
        # which can be copied, read from a read-only folder and kept on a network. A killed
        # process leaves the journal, and the next one to write undoes what was half done. FULL
        # waits for the disk, so a loss of power does the same; EXTRA waits for the removal of the
        # journal too, without which a transaction that had returned could be undone.
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")


def _select(file: pathlib.Path, query: str, values: Sequence[Any]) -> list[Any]:
    uri = file.absolute().as_uri() + "?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE)) as connection:
        application = _one(connection, "PRAGMA application_id")
        version = _one(connection, "PRAGMA user_version")
        if (application, version) != (_APPLICATION, _VERSION):
            raise sqlite3.DatabaseError(
                f"it is of application {application:#x}, version {version}; "
                f"expected is {_APPLICATION:#x}, version {_VERSION}"
            )
        connection.execute("BEGIN")
        rows = connection.execute(query, values).fetchall()
        # Of a file that was cut off SQLite reads zeros. Within the transaction nobody writes.
        size = _one(connection, "PRAGMA page_count") * _one(connection, "PRAGMA page_size")
        if file.stat().st_size < size:
            raise sqlite3.DatabaseError(f"{file.stat().st_size} bytes; expected are {size}")
        return rows


def _one(connection: sqlite3.Connection, query: str) -> Any:
    return connection.execute(query).fetchone()[0]


class Lock:
    """Keeps other processes from writing to a folder, until it is released or the process ends.

    On POSIX the lock belongs to the open file (``flock``): the locks of SQLite belong to the
    process, which loses them when it closes any other handle of the file, as a copy of the folder
    does. Elsewhere SQLite locks a file that holds nothing else.

    Args:
        folder: of the run.

    Raises:
        BlockingIOError: if a living process holds it.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        lock = _locked_by_sqlite if fcntl is None else _locked_by_flock
        try:
            self.release = lock(folder / "lock")
        except BlockingIOError as error:
            raise BlockingIOError(
                f"folder = {str(folder)!r}: a living process writes to this run; of several "
                "processes of a training one opens it, or each gives the Recorder this folder"
            ) from error


def _locked_by_flock(file: pathlib.Path) -> Callable[[], None]:
    """Lock a file; return what lets others have it."""
    stream = file.open("ab")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        stream.close()
        raise
    _held.add(stream)
    return stream.close


_held: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def _let_go() -> None:
    """Close the files of a process that was copied: the lock stays with the original alone."""
    for stream in _held:
        stream.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _locked_by_sqlite(file: pathlib.Path) -> Callable[[], None]:
    """Lock a file; return what lets others have it."""
    connection = sqlite3.connect(file, timeout=0.0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        connection.close()
        if _code(error) != sqlite3.SQLITE_BUSY:
            raise
        raise BlockingIOError(str(error)) from error
    return connection.close
