"""The rows of a run in SQLite.

Every call opens the file, makes one transaction and closes the file. So a failure leaves nothing
behind in the process, and a run that is only read keeps no file open.
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

# Files of other applications are not read.
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
        folder: the folder of the run.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.file = folder / NAME

    def create(self, *, keep: int | None, tensorboard: bool) -> None:
        """Make an empty database, completely or not at all."""
        temporary = self.file.with_name(NAME + ".part")
        for name in (temporary.name, temporary.name + "-journal"):
            temporary.with_name(name).unlink(missing_ok=True)
        with _transaction(temporary) as connection:
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("INSERT INTO settings VALUES (?, ?)", (keep, tensorboard))
        # SQLite has written the file to disk; only the name is missing.
        temporary.replace(self.file)

    def repair(self) -> None:
        """Undo the transaction of a killed process, and check that the file can be written to."""
        with self._damage(), _transaction(self.file) as connection:
            connection.execute(f"PRAGMA user_version = {_VERSION}")

    def write(
        self,
        rows: Iterable[tuple[Table, int, str]],
        checkpoint: tuple[int, str, int | None] | None = None,
    ) -> None:
        """Write rows and a checkpoint in one transaction.

        Args:
            rows: table, number and text of each; rows with the same number are replaced.
            checkpoint: epoch, file, and the number of checkpoints to keep (``None``: all).

        Raises:
            sqlite3.Error: if the file cannot be written; nothing has changed then.
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
                # Later checkpoints do not belong to the continued run.
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
        """Return the first number of the rows in the last transaction."""
        result: int | None = self._read(
            f"SELECT MIN(number) FROM {table} WHERE batch = (SELECT MAX(batch) FROM {table})"
        )[0][0]
        return result

    def _batch(self, table: Table, last: Any) -> int:
        """Return the number of the last batch of a table."""
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
        # For a missing or unreadable file, the system raises the error.
        with self.file.open("rb"):
            pass
        with self._damage():
            try:
                return _select(self.file, query, values)
            except sqlite3.OperationalError as error:
                if _code(error) not in _UNDO or not self.file.with_name(JOURNAL).exists():
                    raise
                # A process was killed during a transaction. Undoing the transaction would write to
                # the run, so it is undone in a copy.
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
            # A full disk, or a lock of another process, is no damage.
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
# The end of a journal with the name of another journal before it.
_NAMES_ANOTHER: Final = bytes.fromhex("d9d505f920a163d7")
_UNDO: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})


def _is_name(file: str) -> bool:
    """Return whether this is the name of a file in a folder, and not a path to elsewhere."""
    return file not in {"", ".", ".."} and not set(file) & set("/\\:\0")


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _check_journal(file: pathlib.Path) -> None:
    """Refuse a journal that names another file, because SQLite would remove that file.

    Raises:
        sqlite3.DatabaseError: if the journal names a file (from a transaction on several files).
    """
    journal = file.with_name(file.name + "-journal")
    if not journal.is_file():
        return
    with journal.open("rb") as stream:
        stream.seek(max(0, journal.stat().st_size - len(_NAMES_ANOTHER)))
        if stream.read() == _NAMES_ANOTHER:
            raise sqlite3.DatabaseError("the journal names another file; expected is no name")


@contextmanager
def _transaction(file: pathlib.Path) -> Iterator[sqlite3.Connection]:
    """Open a file for one transaction, which is on disk at the end."""
    _check_journal(file)
    with closing(sqlite3.connect(file, timeout=_PATIENCE, isolation_level=None)) as connection:
        # A rollback journal, not a write-ahead log: between transactions the run is one file, which
        # can be copied, read from a read-only folder and kept on a network. A killed process leaves
        # the journal, and the next process that writes undoes the transaction. FULL waits for the
        # disk, so that a loss of power has the same effect. EXTRA also waits for the removal of the
        # journal; otherwise a finished transaction could be undone.
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
                f"it has application {application:#x}, version {version}; "
                f"expected is {_APPLICATION:#x}, version {_VERSION}"
            )
        connection.execute("BEGIN")
        rows = connection.execute(query, values).fetchall()
        # SQLite reads zeros from a truncated file. Nobody writes during the transaction.
        size = _one(connection, "PRAGMA page_count") * _one(connection, "PRAGMA page_size")
        if file.stat().st_size < size:
            raise sqlite3.DatabaseError(f"{file.stat().st_size} bytes; expected are {size}")
        return rows


def _one(connection: sqlite3.Connection, query: str) -> Any:
    return connection.execute(query).fetchone()[0]


class Lock:
    """A lock that keeps other processes from writing, until its release or the end of the process.

    On POSIX the lock belongs to the open file (``flock``). A lock of SQLite would belong to the
    process, which loses it by closing any other handle of the file, as in copying the folder. On
    other systems SQLite locks a separate empty file.

    Args:
        folder: the folder of the run.

    Raises:
        BlockingIOError: if a running process holds the lock.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        lock = _locked_by_sqlite if fcntl is None else _locked_by_flock
        try:
            self.release = lock(folder / "lock")
        except BlockingIOError as error:
            raise BlockingIOError(
                f"folder = {str(folder)!r}: a running process writes to this run. If several "
                "processes train together, only one may open the run, or each passes the folder "
                "to its Recorder."
            ) from error


def _locked_by_flock(file: pathlib.Path) -> Callable[[], None]:
    """Lock a file; return the function that releases the lock."""
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
    """Close the files in a forked process, so that only the original process holds the lock."""
    for stream in _held:
        stream.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _locked_by_sqlite(file: pathlib.Path) -> Callable[[], None]:
    """Lock a file; return the function that releases the lock."""
    connection = sqlite3.connect(file, timeout=0.0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        connection.close()
        if _code(error) != sqlite3.SQLITE_BUSY:
            raise
        raise BlockingIOError(str(error)) from error
    return connection.close
