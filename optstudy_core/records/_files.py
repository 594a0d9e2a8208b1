"""Files that are written completely or not at all, and the errors of writing."""

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
    """The folder of a run could not be written to. Earlier data in it has not changed."""


@contextmanager
def writing(folder: pathlib.Path, what: str) -> Iterator[None]:
    """Turn errors into a ``WriteError`` that says what could not be written, and where.

    Raises:
        WriteError: instead of an error of the system or of SQLite.
    """
    try:
        yield
    except (WriteError, BlockingIOError):  # a lock raises BlockingIOError
        raise
    except (OSError, sqlite3.Error) as error:
        message = f"folder = {str(folder)!r}: cannot write {what} ({error})"
        code = getattr(error, "errno", None)
        raise (WriteError(message) if code is None else WriteError(code, message)) from error


def system_error(error: Exception) -> OSError:
    """Return an error of a library in Rust as the error of the system that caused it."""
    code = re.search(r"os error (\d+)", str(error))
    return OSError(int(code[1]), str(error)) if code else OSError(str(error))


def replace(temporary: pathlib.Path, file: pathlib.Path) -> None:
    """Rename a written file; when this function returns, file and name are on disk."""
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    temporary.replace(file)
    sync_folder(file.parent)


def sync_folder(folder: pathlib.Path) -> None:
    """Write the names in a folder to disk (on systems that support this)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: pathlib.Path) -> None:
    """Make a folder and those above it; when this function returns, their names are on disk.

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
    """Write a text file in UTF-8, completely or not at all.

    Args:
        file: the path of the file; an existing file is replaced.
        text: the content of the file.
    """
    temporary = file.with_name(file.name + ".part")
    temporary.unlink(missing_ok=True)
    with temporary.open("xb") as stream:  # a new file, because a link could point elsewhere
        stream.write(text.encode())
    replace(temporary, file)


def write_json(file: pathlib.Path, content: Any) -> None:
    """Write a JSON file with indentation, completely or not at all.

    Args:
        file: the path of the file; an existing file is replaced.
        content: a JSON value.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # names of files may have characters that UTF-8 lacks
        text = json.dumps(content, indent=2)
    write_text(file, text + "\n")


def parse_json(text: str, where: str) -> Any:
    """Read JSON.

    Raises:
        ValueError: if the text is no JSON, or is nested deeper than :data:`DEEPEST`.
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
        ValueError: if the text is no JSON object, or is nested deeper than :data:`DEEPEST`.
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
    raise ValueError(f"{where}: is nested deeper than {DEEPEST}; optstudy writes no such file")
