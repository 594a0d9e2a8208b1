"""Where compiled libraries are kept: a folder of the user alone, of which whole files are loaded.

To load a library is to run it. So the folder has to belong to the user, nobody else may write to
it or put another in its place, and a file is read and compared with the digest in its name before
it is loaded. What fails that is not loaded; the library is made again.
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
"""The owner that Linux shows, in a container of a user, of what is root's outside."""


_MOST = 2048
"""Libraries that are kept, of some 20 kB each."""


class _UnsafeError(Exception):
    """A folder to which others may write; the message says which, and how."""


def folder() -> Path:
    """Return the folder where libraries are kept: it exists and belongs to the user alone.

    Raises:
        OSError: if there is none, or it cannot be made.
    """
    home, cache = (Path(os.environ.get(name) or "") for name in ("HOME", "XDG_CACHE_HOME"))
    # The standard of $XDG_CACHE_HOME has a relative path ignored.
    if not (cache.is_absolute() or home.is_absolute()):
        raise FileNotFoundError("no $XDG_CACHE_HOME and no $HOME")
    try:
        return _checked(cache if cache.is_absolute() else home / ".cache")
    except _UnsafeError as error:
        _warn(str(error))
        raise PermissionError(str(error)) from error


def own_folder() -> Path:
    """Return a folder of this process, for libraries that cannot be kept.

    Raises:
        OSError: if there is no folder for temporary files.
    """
    return _own_folder(os.getpid())


def whole(place: Path, name: str) -> Iterator[Path]:
    """Yield the libraries of a name that are whole; remove the others.

    Args:
        place: the folder.
        name: without a suffix.
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
    """Write a library, whole or not at all; return its file.

    Args:
        place: the folder.
        name: without a suffix; the digest of the content is added.
        content: of the file.

    Raises:
        OSError: if it cannot be written.
    """
    file = place / f"{name}-{_digest(content)}.so"
    descriptor, part = tempfile.mkstemp(dir=place, suffix=".part")  # the user's alone
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        Path(part).replace(file)  # at once: another process may look for it
    except BaseException:
        with suppress(OSError):
            Path(part).unlink()
        raise
    _forget_old(place)
    return file


def _forget_old(place: Path) -> None:
    """Remove the libraries whose last use is longest ago, where there are more than are kept."""
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
    """Return whether a file is the user's, and what its name says."""
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
    """Return who else may write to a file or folder, if anybody may."""
    if not hasattr(os, "geteuid"):  # Windows, where a home belongs to its user
        return None
    if found.st_uid != os.geteuid():
        return f"it belongs to another user, number {found.st_uid}"
    return "others may write to it" if found.st_mode & 0o022 else None


def _checked(above: Path) -> Path:
    """Return the folder in another one, made and checked.

    Raises:
        _UnsafeError: if others may write to it, or put another in its place.
        OSError: if it cannot be made.
    """
    above = Path(os.path.realpath(above))
    for part in (above, *above.parents):
        _check_above(part)
    for part in reversed((above, *above.parents)):
        if not part.exists():
            part.mkdir(0o700, exist_ok=True)  # as the standard of $XDG_CACHE_HOME has it
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
        # Of an older version. Others may have written what is in it, so that is not used.
        old = Path(tempfile.mkdtemp(dir=above, prefix="optstudy-old-"))
        place.replace(old)
        place.mkdir(0o700, exist_ok=True)
        shutil.rmtree(old, ignore_errors=True)
    elif found.st_uid == os.geteuid():
        with suppress(OSError):  # others may look, which is no harm
            place.chmod(0o700)
    who = _others(place.lstat())
    if who:
        raise _UnsafeError(f"{place}: {who}")
    return place


def _check_above(part: Path) -> None:
    """Refuse a folder whose entries others may rename.

    Raises:
        _UnsafeError: if they may.
    """
    if not hasattr(os, "geteuid"):
        return
    try:
        found = part.stat()
    except FileNotFoundError:
        return  # to be made
    if found.st_uid not in {0, os.geteuid(), _UNMAPPED}:
        raise _UnsafeError(f"{part} belongs to another user, number {found.st_uid}")
    if found.st_mode & stat.S_ISVTX:
        return  # entries are renamed by those to whom they belong
    group = found.st_mode & stat.S_IWGRP and not _is_alone(found.st_gid)
    if group or found.st_mode & stat.S_IWOTH:
        raise _UnsafeError(f"{part}: others may write to it")


def _is_alone(group: int) -> bool:
    """Return whether a group is root's, or has no other member than the user."""
    import grp
    import pwd

    try:
        own, user = grp.getgrgid(group), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return group == 0
    return group == 0 or (own.gr_name == user and {*own.gr_mem} <= {user})


@functools.cache
def _warn(fault: str) -> None:
    """Say it once."""
    warnings.warn(
        f"{fault}; so compiled kernels are not kept there, and each process compiles its own. Let "
        "the folder belong to you alone, or set $XDG_CACHE_HOME to a folder to which nobody else "
        "may write",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.cache
def _own_folder(process: int) -> Path:
    made = tempfile.mkdtemp(prefix="optstudy")
    atexit.register(_remove, made, process)
    return Path(made)


def _remove(made: str, process: int) -> None:
    if os.getpid() == process:  # not of a forked one, which ends earlier
        shutil.rmtree(made, ignore_errors=True)
