"""Files that are there whole or not at all, and what is said when one cannot be written."""

from __future__ import annotations

import json
import os
import pathlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._tree import DEEPEST


class WriteError(OSError):
    """A run's folder could not be written to. What had been written before is still there."""


@contextmanager
def writing(folder: pathlib.Path, what: str) -> Iterator[None]:
    """Say of an error what could not be written, and where.

    Raises:
        WriteError: in the place of an error of the system or of SQLite.
    """
    try:
        yield
    except (WriteError, BlockingIOError):  # the latter is a lock's
        raise
    except (OSError, sqlite3.Error) as error:
        message = f"folder = {str(folder)!r}: cannot write {what} ({error})"
        code = getattr(error, "errno", None)
        raise (WriteError(message) if code is None else WriteError(code, message)) from error


def system_error(error: Exception) -> OSError:
    """Return an error of a library written in Rust as the system's error that it stands for."""
    code = re.search(r"os error (\d+)", str(error))
    return OSError(int(code[1]), str(error)) if code else OSError(str(error))


def replace(temporary: pathlib.Path, file: pathlib.Path) -> None:
    """Give a file that was written its name; when this returns, both are on the disk."""
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    temporary.replace(file)
    sync_folder(file.parent)


def sync_folder(folder: pathlib.Path) -> None:
    """Put the names in a folder on the disk (on systems that know this)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: pathlib.Path) -> None:
    """Make a folder and those above it; when this returns, their names are on the disk.

    Raises:
        NotADirectoryError: if one of them is a file.
    """
    missing = []
    for part in (folder, *folder.parents):
        if part.is_dir():
            break
        if part.exists():
            raise NotADirectoryError(f"folder = {str(part)!r}: is a file; allowed are folders")
        missing.append(part)
    for part in reversed(missing):
        part.mkdir(exist_ok=True)
        sync_folder(part.parent)


def write_text(file: pathlib.Path, text: str) -> None:
    """Write a text file, in UTF-8, whole or not at all.

    Args:
        file: its path; a file that is there is replaced.
        text: what goes into it.
    """
    temporary = file.with_name(file.name + ".part")
    temporary.unlink(missing_ok=True)
    with temporary.open("xb") as stream:  # a new file: a link would lead elsewhere
        stream.write(text.encode())
    replace(temporary, file)


def write_json(file: pathlib.Path, content: Any) -> None:
    """Write a JSON file for people to read, whole or not at all.

    Args:
        file: its path; a file that is there is replaced.
        content: a JSON value.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # names of files may hold what UTF-8 does not
        text = json.dumps(content, indent=2)
    write_text(file, text + "\n")


def parse_json(text: str, where: str) -> Any:
    """Read JSON.

    Raises:
        ValueError: if it is none, or nested deeper than :data:`DEEPEST`.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is not JSON ({error})") from error
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(value, where)
    return value


def parse_object(text: Any, where: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: if it is something else, or nested deeper than :data:`DEEPEST`.
    """
    content = parse_json(text, where) if isinstance(text, str) else text
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected is a JSON object")
    return content


def _check_depth(value: Any, where: str) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST + 1):
        if not level:
            return
        entries = (x.values() if isinstance(x, dict) else x for x in level)
        level = [y for x in entries for y in x if isinstance(y, dict | list)]
    raise ValueError(f"{where}: is nested deeper than {DEEPEST}, more than is ever written")
