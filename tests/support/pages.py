"""Blocks of code in pages of Markdown, and how they are run."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from harness import ROOT

_BLOCK = re.compile(
    r"^(?:<!-- (slow|needs|alone) ?(\S*) -->\n)?```(\w+)\n(.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of code in a page, with what a comment before it says.

    ``<!-- slow -->``; ``<!-- needs PACKAGE -->``: one that the project does not need itself;
    ``<!-- alone NAME=VALUE -->``: in a process of its own, with this in its environment.
    """

    page: str
    line: int
    how: str
    of_what: str
    language: str
    code: str

    def run(self, namespace: dict[str, Any]) -> None:
        """Run Python with the page's own line numbers in error messages."""
        exec(compile("\n" * self.line + self.code, self.page, "exec"), namespace)


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(str(page), text[: m.start(4)].count("\n"), m[1] or "", m[2], m[3], m[4])
        for m in _BLOCK.finditer(text)
    ]


def commands(found: list[Block]) -> list[str]:
    """Return the command lines of the blocks in shell."""
    lines = [line for b in found if b.language == "sh" for line in b.code.splitlines()]
    return [command for line in lines if (command := line.partition("#")[0].strip())]


def check_command(command: str) -> None:
    """Refuse a command that does not exist; what they do is tested with each command."""
    words = shlex.split(command)
    words = words[[("=" in word) for word in words].index(False) :]  # without its environment
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert words[1] in targets
    elif words[0] == ".":
        assert words[1] == ".venv/bin/activate"
    else:
        assert words[:2] == ["python", "-m"]
        assert words[2] in {"parity", "studies"}
        if words[2:4] == ["parity", "digest"]:
            import_module("parity.digest")._parser().parse_args(words[4:])
        else:
            import_module(f"{words[2]}.__main__")._parser().parse_args(words[3:])
