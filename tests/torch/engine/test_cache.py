"""The cache of kernels is its user's alone, and what is loaded of it is whole."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from optstudy_torch.engine import c_compiler
from optstudy_torch.engine import cache as kernel_cache

pytestmark = [
    pytest.mark.skipif(c_compiler.compiler() is None, reason="not run: no compiler"),
    pytest.mark.skipif(not hasattr(os, "geteuid"), reason="not run: no owners of files"),
]

TEXT = "int seven(void) { return 7; }\n"
OTHER = 12345
"""The number of another user."""
CONSTRUCTOR = """
#include <stdio.h>
__attribute__((constructor)) static void begin(void) {{ fclose(fopen("{}", "w")); }}
int seven(void) {{ return 8; }}
"""
"""A library that leaves a mark when it is loaded."""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test is a process of its own: nothing was said, nothing is kernel_cache."""
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    kernel_cache._warn.cache_clear()
    kernel_cache._own_folder.cache_clear()
    yield
    kernel_cache._own_folder.cache_clear()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was compiled since the test began."""
    made: list[str] = []
    compile_ = c_compiler._compiled
    monkeypatch.setattr(
        c_compiler, "_compiled", lambda text, *rest: made.append(text) or compile_(text, *rest)
    )
    return made


def seven(text: str = TEXT) -> int:
    return c_compiler.library_of(text).seven()


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.so"))


@functools.cache
def planted(mark: str) -> bytes:
    """Return a library that leaves a mark when it is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "x.c"), Path(folder, "x.so")
        source.write_text(CONSTRUCTOR.format(mark))
        command = f"{c_compiler.compiler()} -shared -fPIC {source} -o {library}"
        subprocess.run(command, shell=True, check=True)
        return library.read_bytes()


def as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what there is belong to another user."""
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)


def test_what_is_kept_is_the_users_alone(tmp_path: Path, compiled: list[str]) -> None:
    mask = os.umask(0)
    try:
        assert seven() == seven() == 7
    finally:
        os.umask(mask)
    assert len(compiled) == 1
    (file,) = kept(tmp_path)
    modes = {x.name: x.stat().st_mode & 0o777 for x in (*file.parents[:2], file)}
    assert modes == {"cache": 0o700, "optstudy": 0o700, file.name: 0o600}
    assert list(file.parent.iterdir()) == [file]  # nothing else is left


# Others.


def swappable(folder: Path) -> None:
    folder.parent.chmod(0o777)


def of_a_group(folder: Path) -> None:
    os.chown(folder.parent, -1, OTHER)
    folder.parent.chmod(0o770)


def not_ours(folder: Path) -> None:
    os.chown(folder, OTHER, -1)


def below_not_ours(folder: Path) -> None:
    os.chown(folder.parent, OTHER, -1)


def a_link(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def a_file(folder: Path) -> None:
    folder.rmdir()
    folder.touch()


as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="not run: files can not be given away"
)


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (swappable, "cache: others may write to it"),
        pytest.param(of_a_group, "cache: others may write to it", marks=as_root),
        pytest.param(not_ours, "optstudy: it belongs to another user, number 12345", marks=as_root),
        pytest.param(below_not_ours, "cache belongs to another user, number 12345", marks=as_root),
        (a_link, "optstudy is a symbolic link"),
        (a_file, "optstudy is no folder"),
    ],
)
def test_a_folder_of_others_is_not_used(
    tmp_path: Path, made: Callable[[Path], None], fault: str
) -> None:
    folder = tmp_path / "cache" / "optstudy"
    folder.mkdir(0o700, parents=True)
    made(folder)
    with pytest.warns(RuntimeWarning, match=f"{fault}; so compiled kernels are not stored") as said:
        assert seven() == seven(TEXT + " ") == 7
    assert len(said) == 1  # once
    assert "set $XDG_CACHE_HOME to a folder" in str(said[0].message)
    assert not kept(tmp_path)


def test_a_folder_of_another_user_is_neither_made_nor_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(kernel_cache.os, "geteuid", lambda: OTHER)
    monkeypatch.setattr(kernel_cache, "_UNMAPPED", -1)
    if os.getuid() == 0:  # root's folders are trusted
        os.chown(tmp_path / "cache", 54321, -1)
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        assert seven() == 7
    assert not list((tmp_path / "cache").iterdir())


def writable(file: Path) -> None:
    file.chmod(0o622)


def linked(file: Path) -> None:
    outside = file.rename(file.parents[2] / file.name)
    file.symlink_to(outside)


def given_away(file: Path) -> None:
    os.chown(file, OTHER, -1)


def in_an_open_folder(mode: int, file: Path) -> None:
    file.parent.chmod(mode)


@pytest.mark.parametrize(
    "way",
    [
        writable,
        linked,
        pytest.param(given_away, marks=as_root),
        *(functools.partial(in_an_open_folder, mode) for mode in (0o777, 0o770, 0o720, 0o702)),
    ],
)
def test_a_planted_library_is_not_loaded(tmp_path: Path, way: Callable[[Path], None]) -> None:
    seven()
    (file,) = kept(tmp_path)
    file.unlink()
    mark = tmp_path / "ran"
    made = kernel_cache.keep(file.parent, file.name.partition("-")[0], planted(str(mark)))
    way(made)
    assert seven() == 7
    assert not mark.exists()
    assert kept(tmp_path) == [file]
    assert list(file.parents[1].iterdir()) == [file.parent]  # nothing of an open folder is left
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    seven()
    (file,) = kept(tmp_path)
    file.unlink()
    os.mkfifo(file)
    assert seven() == 7
    assert file.is_file()


def test_the_mark_of_a_planted_library_is_one(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    ctypes.CDLL(str(kernel_cache.keep(kernel_cache.folder(), "name", planted(str(mark)))))
    assert mark.exists()


def test_a_folder_of_an_older_version_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "optstudy"
    folder.mkdir(0o755, parents=True)
    seven()
    assert folder.stat().st_mode & 0o777 == 0o700
    (file,) = kept(tmp_path)
    folder.chmod(0o755)  # nobody else could write
    seven()
    assert kept(tmp_path) == [file]


@pytest.mark.parametrize("mode", [0o1777, 0o755, 0o711])
def test_folders_above_that_are_safe(tmp_path: Path, mode: int) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    seven()
    assert len(kept(tmp_path)) == 1


def test_a_link_to_a_safe_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir(0o700)
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    seven()
    assert len(list((tmp_path / "disk" / "optstudy").iterdir())) == 1
    (tmp_path / "disk").chmod(0o777)
    with pytest.warns(RuntimeWarning, match="disk: others may write to it"):
        seven()


# Damage.


@pytest.mark.parametrize("length", [0, 1, 999, 1000, 9000, -64, -1])
def test_a_library_that_is_cut_is_made_again(
    tmp_path: Path, compiled: list[str], length: int
) -> None:
    seven()
    (file,) = kept(tmp_path)
    content = file.read_bytes()
    file.unlink()  # this process has it in use
    file.write_bytes(content[:length])
    file.chmod(0o600)
    with warnings.catch_warnings(action="error"):
        assert seven() == 7
    assert len(compiled) == 2
    assert [x.read_bytes() for x in kept(tmp_path)] == [content]


@pytest.mark.parametrize("at", [0, 64, 5000, -1])
def test_a_library_with_another_byte_is_made_again(
    tmp_path: Path, compiled: list[str], at: int
) -> None:
    seven()
    (file,) = kept(tmp_path)
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.unlink()  # this process has it in use
    file.write_bytes(content)
    file.chmod(0o600)
    assert seven() == 7
    assert len(compiled) == 2


def test_a_library_of_an_older_version_is_not_loaded(tmp_path: Path, compiled: list[str]) -> None:
    seven()
    (file,) = kept(tmp_path)
    file.rename(file.with_name(file.name.partition("-")[0] + ".so"))
    assert seven() == 7
    assert len(compiled) == 2


# What may be missing, and what may happen.


@pytest.mark.parametrize("where", ["cache", "own"])
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, compiled: list[str]
) -> None:
    """No file can be made in one of the two folders."""
    refuse(monkeypatch, tempfile, "mkstemp", tmp_path / where, errno.ENOSPC)
    refuse(monkeypatch, Path, "write_text", tmp_path / where, errno.ENOSPC)
    assert seven() == 7
    assert len(kept(tmp_path)) == (where == "own")
    assert not list(tmp_path.rglob("*.part"))


def test_a_disk_that_gets_full_while_a_library_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is written nothing is left; a limit of the system ends the writing."""
    resource = pytest.importorskip("resource")
    content = planted(str(tmp_path / "mark"))
    place = kernel_cache.folder()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            kernel_cache.keep(place, "name", content)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("cache", "home", "where"),
    [
        ("{}/a", "{}/b", "a/optstudy"),
        ("", "{}/b", "b/.cache/optstudy"),
        ("a", "{}/b", "b/.cache/optstudy"),  # relative: the standard has it ignored
        (None, "{}/b", "b/.cache/optstudy"),
        (None, None, None),
        (None, "", None),
        ("a", "b", None),
    ],
)
def test_where_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: str | None,
    home: str | None,
    where: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("XDG_CACHE_HOME", cache), ("HOME", home)):
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value.format(tmp_path))
    if where is None:
        with pytest.raises(OSError, match=r"no \$XDG_CACHE_HOME and no \$HOME"):
            kernel_cache.folder()
        assert seven() == 7
    else:
        assert kernel_cache.folder() == tmp_path / where
    assert {x.name for x in tmp_path.iterdir()} <= {"own", (where or "own").partition("/")[0]}


def refuse(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, below: Path, code: int) -> None:
    """Let a function fail for paths below a folder: its first argument, or ``dir``."""
    function = getattr(owner, name)

    def refused(*args: Any, **given: Any) -> Any:
        if Path(given.get("dir") or args[0]).is_relative_to(below):
            raise OSError(code, os.strerror(code))
        return function(*args, **given)

    monkeypatch.setattr(owner, name, refused)


def test_a_home_that_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str]
) -> None:
    """It is read, and nothing is said of what cannot be written."""
    seven()
    (tmp_path / "cache" / "optstudy").chmod(0o755)
    for name in "mkdir", "chmod", "replace", "unlink":
        refuse(monkeypatch, Path, name, tmp_path / "cache", errno.EROFS)
    refuse(monkeypatch, tempfile, "mkstemp", tmp_path / "cache", errno.EROFS)
    assert seven() == 7
    assert len(compiled) == 1
    assert seven(TEXT + " ") == 7
    refuse(monkeypatch, Path, "mkdir", tmp_path / "none", errno.EROFS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert seven(TEXT + "  ") == 7


def test_no_folder_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(c_compiler.NoKernelsError):
        seven()


@pytest.mark.parametrize("folder", ["with spaces", "it's", "a;b$HOME"])
def test_a_command_with_spaces_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    command = shlex.split(c_compiler.compiler() or "")[0]
    script = tmp_path / folder / "cc"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/given"\nexec {command} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", f"{shlex.quote(str(script))} -DA='1 2' -Wall")
    assert seven() == 7
    assert (tmp_path / "given").read_text().startswith("-DA=1 2 -Wall -O3")


KEEPING = """
import importlib.util, pathlib, sys
file, place = map(pathlib.Path, sys.argv[1:])
spec = importlib.util.spec_from_file_location("cache", file)
cache = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cache)
print(flush=True)
for i in range(100):
    content = bytes([i % 3]) * 100_000
    cache.keep(place, "name", content)
    assert all(len(x.read_bytes()) == 100_000 for x in cache.whole(place, "name"))
"""


def test_several_processes_one_of_them_killed() -> None:
    place = kernel_cache.folder()
    command = [sys.executable, "-W", "error", "-c", KEEPING, kernel_cache.__file__, place]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    for one in started:
        assert one.stdout is not None
        one.stdout.readline()
    started[0].kill()
    for one in started:
        one.communicate(timeout=60)
    assert [one.returncode for one in started] == [-signal.SIGKILL, 0, 0]
    whole = [*kernel_cache.whole(place, "name")]
    assert len(whole) == len([*place.glob("*.so")]) == 3


def test_a_process_that_is_killed_while_it_compiles(tmp_path: Path) -> None:
    script = tmp_path / "cc"
    script.write_text(f'#!/bin/sh\ntouch "{tmp_path}/begun"\nsleep 60\n')
    script.chmod(0o755)
    one = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from optstudy_torch.engine import c_compiler; c_compiler.library_of({TEXT!r})",
        ],
        env=os.environ | {"TMPDIR": str(tmp_path / "own"), "CC": str(script)},
        start_new_session=True,
    )
    while not (tmp_path / "begun").exists():
        assert one.poll() is None
    os.killpg(one.pid, signal.SIGKILL)
    one.wait()
    assert not list((tmp_path / "cache" / "optstudy").iterdir())  # nothing half done
    assert seven() == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="not run: no fork")
def test_a_forked_process_leaves_the_folder(tmp_path: Path) -> None:
    place = kernel_cache.own_folder()
    kernel_cache._remove(str(place), os.getpid() + 1)
    assert place.is_dir()
    kernel_cache._remove(str(place), os.getpid())
    assert not place.exists()
