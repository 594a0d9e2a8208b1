"""The folder of compiled libraries, which belongs to the user alone.

Loading a library runs its code. So the folder must belong to the user, and nobody else may write to
or replace the folder. A file is read and compared with the digest in its name before it is loaded.
A file that fails this check is not loaded, and the library is compiled again.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_UNMAPPED = 65534
"""The owner that Linux shows inside a user's container for files of root outside."""


_MOST = 2048
"""The largest number of stored libraries, of some 20 kB each."""


class _UnsafeError(Exception):
    """A folder that others can write; the message names the folder and the cause."""


def folder() -> Path:
    """Return the folder of libraries, which exists and belongs to the user alone.

    Raises:
        OSError: if there is no such folder and it cannot be created.
    """
    home, cache = (Path(os.environ.get(name) or "") for name in ("HOME", "XDG_CACHE_HOME"))
    # The standard says to ignore a relative path in $XDG_CACHE_HOME.
    if not (cache.is_absolute() or home.is_absolute()):
        raise FileNotFoundError("no $XDG_CACHE_HOME and no $HOME")
    try:
        return _checked(cache if cache.is_absolute() else home / ".cache")
    except _UnsafeError as error:
        _warn(str(error))
        raise PermissionError(str(error)) from error


def own_folder() -> Path:
    """Return a folder of this process, for libraries that cannot be stored.

    Raises:
        OSError: if there is no folder for temporary files.
    """
    return _own_folder(os.getpid())


def whole(place: Path, name: str) -> Iterator[Path]:
    """Yield the intact libraries with a name; remove damaged ones.

    Args:
        place: the folder.
        name: the name without suffix.
    """
    for file in sorted(place.glob(f"{name}-*.so")):
        if _is_whole(file):
            with suppress(OSError):
                os.utime(file)  # it is in use
            yield file
        else:
            with suppress(OSError):
                file.unlink()


def keep(place: Path, name: str, content: bytes) -> Path:
    """Write a library atomically; return the file.

    Args:
        place: the folder.
        name: the name without suffix; the digest of the content is added.
        content: the content of the file.

    Raises:
        OSError: if the file cannot be written.
    """
    file = place / f"{name}-{_digest(content)}.so"
    descriptor, part = tempfile.mkstemp(dir=place, suffix=".part")  # readable by the user alone
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        Path(part).replace(file)  # atomic: another process may look for the file
    except BaseException:
        with suppress(OSError):
            Path(part).unlink()
        raise
    _forget_old(place)
    return file


def _forget_old(place: Path) -> None:
    """Remove the least recently used libraries above the limit."""
    found = []
    for file in place.glob("*.so"):
        with suppress(OSError):  # another process may have removed it
            found.append((file.stat().st_mtime_ns, file))
    for _, file in sorted(found)[:-_MOST]:
        with suppress(OSError):
            file.unlink()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _is_whole(file: Path) -> bool:
    """Return whether a file belongs to the user and matches the digest in its name."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with os.fdopen(os.open(file, flags | getattr(os, "O_BINARY", 0)), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode) or _others(found):
                return False
            return file.stem.rpartition("-")[2] == _digest(stream.read())
    except OSError:
        return False


def _others(found: os.stat_result) -> str | None:
    """Return a text that says who else can write to a file or folder, or ``None``."""
    if not hasattr(os, "geteuid"):  # Windows, where a home folder belongs to its user
        return None
    if found.st_uid != os.geteuid():
        return f"it belongs to another user, number {found.st_uid}"
    return "others may write to it" if found.st_mode & 0o022 else None


def _checked(above: Path) -> Path:
    """Create and check the folder inside another folder; return it.

    Raises:
        _UnsafeError: if others can write to the folder or replace it.
        OSError: if the folder cannot be created.
    """
    above = Path(os.path.realpath(above))
    for part in (above, *above.parents):
        _check_above(part)
    for part in reversed((above, *above.parents)):
        if not part.exists():
            part.mkdir(0o700, exist_ok=True)  # as in the standard of $XDG_CACHE_HOME
    place = above / "optstudy"
    if not os.path.lexists(place):
        place.mkdir(0o700, exist_ok=True)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode):
        link = stat.S_ISLNK(found.st_mode)
        raise _UnsafeError(f"{place} is {'a symbolic link' if link else 'no folder'}")
    if not hasattr(os, "geteuid") or not found.st_mode & 0o077:
        pass
    elif found.st_uid == os.geteuid() and found.st_mode & 0o022:
        # A folder of an older version. Others may have written its files, so do not use them.
        old = Path(tempfile.mkdtemp(dir=above, prefix="optstudy-old-"))
        place.replace(old)
        place.mkdir(0o700, exist_ok=True)
        shutil.rmtree(old, ignore_errors=True)
    elif found.st_uid == os.geteuid():
        with suppress(OSError):  # others may read, which is harmless
            place.chmod(0o700)
    who = _others(place.lstat())
    if who:
        raise _UnsafeError(f"{place}: {who}")
    return place


def _check_above(part: Path) -> None:
    """Refuse a folder with entries that others can rename.

    Raises:
        _UnsafeError: if others can rename them.
    """
    if not hasattr(os, "geteuid"):
        return
    try:
        found = part.stat()
    except FileNotFoundError:
        return  # not created yet
    if found.st_uid not in {0, os.geteuid(), _UNMAPPED}:
        raise _UnsafeError(f"{part} belongs to another user, number {found.st_uid}")
    if found.st_mode & stat.S_ISVTX:
        return  # only owners can rename their entries
    group = found.st_mode & stat.S_IWGRP and not _is_alone(found.st_gid)
    if group or found.st_mode & stat.S_IWOTH:
        raise _UnsafeError(f"{part}: others may write to it")


def _is_alone(group: int) -> bool:
    """Return whether a group is that of root, or has no member besides the user."""
    import grp
    import pwd

    try:
        own, user = grp.getgrgid(group), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return group == 0
    return group == 0 or (own.gr_name == user and {*own.gr_mem} <= {user})


@functools.cache
def _warn(fault: str) -> None:
    """Warn once."""
    warnings.warn(
        f"{fault}; so compiled kernels are not stored there, and each process compiles its own. "
        "Make yourself the only owner of the folder, or set $XDG_CACHE_HOME to a folder that "
        "nobody else can write",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.cache
def _own_folder(process: int) -> Path:
    made = tempfile.mkdtemp(prefix="optstudy")
    atexit.register(_remove, made, process)
    return Path(made)


def _remove(made: str, process: int) -> None:
    if os.getpid() == process:  # not in a forked process, which ends earlier
        shutil.rmtree(made, ignore_errors=True)
