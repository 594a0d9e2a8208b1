"""Typeset the equations of docstrings as MathML, which browsers draw without scripts."""

from __future__ import annotations

import html
import importlib.metadata
import pathlib
import textwrap
from typing import Any, ClassVar

import docutils.nodes
from docutils.parsers.rst import Directive
from fontTools import subset
from latex2mathml.converter import convert

from .latex import aligned, row

FONT = pathlib.Path(__file__).parents[1] / "_generated" / "static" / "STIXTwoMath.woff"
# Letters, accents, punctuation, operators, brackets, mathematical italics and sans-serif capitals.
_CHARACTERS = (
    (0x20, 0x7E), (0xA0, 0xFF), (0x300, 0x36F), (0x391, 0x3D6), (0x3F0, 0x3F6), (0x2000, 0x206F),
    (0x20D0, 0x20DC), (0x2100, 0x214F), (0x2190, 0x21FF), (0x2200, 0x22FF), (0x2308, 0x230B),
    (0x239B, 0x23B4), (0x27E6, 0x27EB), (0x1D434, 0x1D467), (0x1D5A0, 0x1D5D3), (0x1D6E2, 0x1D71B),
)  # fmt: skip

# Replacements that browsers draw better than the output of latex2mathml: the accent of a letter
# instead of a circumflex, and names of functions without the spaces of an operator.
_BETTER = {"<mo>&#x0005E;</mo>": "<mo>&#x002C6;</mo>"} | {
    f"<mo>{name}</mo>": f"<mi>{name}</mi>" for name in ("max", "min", "cos", "ln", "log")
}


def with_directives(text: str) -> str:
    """Return a docstring with a directive before each indented block, to typeset the block."""
    lines = text.split("\n")
    for i in range(len(lines) - 1, 0, -1):
        begins = lines[i].startswith("    ") and not lines[i - 1].strip()
        above = next((line for line in reversed(lines[:i]) if line.strip()), "")
        if begins and not above.startswith("    ") and not above.rstrip().endswith("::"):
            lines[i:i] = [".. equations::", ""]
    return "\n".join(lines)


def typeset(lines: list[str]) -> str:
    """Return lines of equations as HTML: a grid of MathML, and the LaTeX to copy."""
    rows = [row(line) for line in textwrap.dedent("\n".join(lines)).split("\n") if line.strip()]
    cells = []
    for r in rows:
        if r.left:
            cells.append(_cell("left", r.left))
        if r.right:
            cells.append(_cell("right" if r.left else "whole", r.right, r.source))
        if r.note:
            cells.append(_cell("note", r.note))
    return (
        '<div class="equations"><div class="lines" tabindex="0">' + "\n".join(cells) + "</div>"
        f"<details><summary>LaTeX</summary><pre>{html.escape(aligned(rows))}</pre></details></div>"
    )


def _cell(kind: str, latex: str, source: str = "") -> str:
    mathml = convert(latex).replace(r"\_", "_")
    for found, better in _BETTER.items():
        mathml = mathml.replace(found, better)
    if source:
        mathml = mathml.replace("<math ", f'<math alttext="{html.escape(source)}" ', 1)
    return f'<span class="{kind}">{mathml}</span>'


class Equations(Directive):
    """``.. equations::``, with lines in the notation of the docstrings."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[docutils.nodes.Node]:
        lines = [str(line) for line in self.content]
        return [docutils.nodes.raw("", typeset(lines), format="html")]


def write_font() -> None:
    """Write the part of a mathematical font that the site uses; some systems have no such font."""
    fonts = importlib.metadata.distribution("ziamath").locate_file("ziamath/fonts")
    if FONT.is_file() and FONT.stat().st_mtime > pathlib.Path(__file__).stat().st_mtime:
        return
    FONT.parent.mkdir(parents=True, exist_ok=True)
    options = subset.Options(flavor="woff", layout_features=["*"], name_IDs=["*"])
    font = subset.load_font(str(fonts / "STIXTwoMath-Regular.ttf"), options)
    part = subset.Subsetter(options)
    part.populate(unicodes=[code for a, b in _CHARACTERS for code in range(a, b + 1)])
    part.subset(font)
    subset.save_font(font, str(FONT), options)
