"""Fixtures, one thread for each worker, and parts of all tests (``SHARD=2/6``)."""

from __future__ import annotations

import gc
import os
import platform
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker for each core: no second thread in each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# What JAX compiles is kept, as kernels are: workers and processes ask for the same programs, and so
# do the next run and another clone. Not beside the kernels: they are in a folder that is checked.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_KEPT = _CACHE / "optstudy-tests" / f"jax-{platform.node()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_KEPT))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


_QUICKLY = pytest.StashKey[bool]()
"""Whether JAX compiles quickly now."""


def _shard() -> tuple[int, int]:
    """Return which part of the tests runs, and of how many: ``$SHARD``, all without it."""
    part, _, parts = (os.environ.get("SHARD") or "1/1").partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise pytest.UsageError(f"SHARD = {part}/{parts}: allowed are 1/6 to 6/6, and the like")
    return int(part), int(parts)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Free nothing while modules are loaded, and never look through what they hold again."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.enable()
    return result


@pytest.hookimpl(trylast=True)  # after `-m` has chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one of several parts: neighbours, which cost alike, go to different ones.

    What differs in its last two parameters stays together, for much of it compiles the same. So
    does what reads the site, which is built first.
    """
    part, parts = _shard()
    families = [_family(x) for x in items]
    places = {family: i % parts for i, family in enumerate(dict.fromkeys(families))}
    pairs = [(x, places[family] == part - 1) for x, family in zip(items, families, strict=True)]
    config.hook.pytest_deselected(items=[x for x, is_here in pairs if not is_here])
    items[:] = sorted((x for x, is_here in pairs if is_here), key=_is_quick, reverse=True)


def _family(item: pytest.Item) -> str:
    names = getattr(item, "fixturenames", ())
    return "site" if "site" in names else item.nodeid.rsplit("-", 2)[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a session say what it ran, and where."""
    parser.addoption("--status", action="store_true", help="add a row to docs/status.json")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Add the row; a worker of several has none of its own."""
    if session.config.getoption("--status") and not hasattr(session.config, "workerinput"):
        import status

        status.record(session.config)


def pytest_report_header() -> str | None:
    """Say which part runs."""
    part, parts = _shard()
    return f"part {part} of {parts} of the tests" if parts > 1 else None


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch, and what computes beside it, have two threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """One thread, the random state as it was, and a folder of its own for what a page writes."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def compiled_quickly() -> None:
    """Let JAX compile quickly, here and in processes: where what its compiler rounds is no subject.

    Tests with this fixture come first, so that they share what was compiled.
    """


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin to compile quickly, if the last test did not."""
    if _is_quick(item):
        _compile(item.config, quickly=True)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Compile as users do again, if the next test is to; it may be a doctest of a package."""
    if _is_quick(item) and not (nextitem and _is_quick(nextitem)):
        _compile(item.config, quickly=False)


def _compile(config: pytest.Config, *, quickly: bool) -> None:
    if quickly != config.stash.get(_QUICKLY, False):
        from quickly import switch

        switch(on=quickly)
        config.stash[_QUICKLY] = quickly


def _is_quick(item: pytest.Item) -> bool:
    return "compiled_quickly" in getattr(item, "fixturenames", ())


@pytest.fixture
def torch_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let optimizers compute with torch's operations on the CPU, as they do on other devices."""
    from meshes import use_torch_operations

    use_torch_operations(monkeypatch)


@pytest.fixture(params=["kernels", "operations"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let optimizers run kernels, where there is a compiler, and then NumPy's operations."""
    from optstudy_torch.engine import dispatch

    if request.param == "operations":
        monkeypatch.setattr(dispatch, "KERNELS", {})


@pytest.fixture(scope="module")
def browser():
    """A Chromium, if there is one."""
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium")
    with sync.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
