"""What was run where: a file that test runs write, and the table of it in the documentation.

    make test STATUS=1

adds a row to ``docs/status.json`` when the tests have ended, and writes ``docs/status.md`` from it.
A row of the same tests in the same surroundings takes the place of the old one.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "status.json"
PACKAGES = ("numpy", "torch", "jax")
SURROUNDINGS = ("os", "cpu", "gpu", "python", *PACKAGES)
HEADINGS = ("tests", *SURROUNDINGS, "passed", "failed", "skipped", "commit", "date")

Row = dict[str, Any]


def surroundings() -> Row:
    """Return where this runs: the system, the processor, the card, and the versions."""
    return {
        "os": f"{platform.system()} {platform.machine()}",
        "cpu": _processor(),
        "gpu": _card(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _processor(file: Path = Path("/proc/cpuinfo")) -> str:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _card() -> str:
    try:
        import torch
    except ImportError:
        return "none"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


def commit(folder: Path = ROOT) -> str:
    """Return the commit of a folder, and whether it is changed; ``"unknown"`` outside of git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/status.*")
        return git("rev-parse", "--short=10", "HEAD") + (" and changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def what(markers: str, paths: Sequence[str], shard: str = "") -> str:
    """Return which tests ran, in words.

    >>> what("not slow", ["tests"]), what("slow or not slow", ["tests/core"], "2/6")
    ('quick', 'all of tests/core, part 2/6')
    """
    kind = {"not slow": "quick", "slow or not slow": "all"}.get(markers, f"-m '{markers}'")
    named = [str(path) for path in paths if path not in ("", ".", "tests", str(ROOT))]
    return kind + (f" of {', '.join(named)}" if named else "") + (f", part {shard}" * bool(shard))


def row(tests: str, counts: Mapping[str, int]) -> Row:
    """Return the row of a run that has ended just now."""
    own = {name: counts.get(name, 0) for name in ("passed", "failed", "skipped")}
    date = datetime.now(UTC).date().isoformat()
    return {"tests": tests, **surroundings(), **own, "commit": commit(), "date": date}


def add(new: Row, file: Path = FILE) -> None:
    """Write a row into the file, in the place of that of the same tests and surroundings."""
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []

    def key(x: Row) -> tuple[str, ...]:
        return tuple(str(x[name]) for name in ("tests", *SURROUNDINGS))

    rows = sorted([x for x in rows if key(x) != key(new)] + [new], key=key)
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(table(rows), encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """Return rows as a table in Markdown."""
    cells = [HEADINGS, ["---"] * len(HEADINGS), *([str(x[k]) for k in HEADINGS] for x in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def record(config: Any) -> None:
    """Add the row of a session of pytest."""
    stats = config.pluginmanager.get_plugin("terminalreporter").stats
    counts = {name: len(stats.get(name, [])) for name in ("passed", "failed", "skipped")}
    counts["failed"] += len(stats.get("error", []))
    tests = what(config.option.markexpr, config.args, os.environ.get("SHARD", ""))
    add(row(tests, counts))
