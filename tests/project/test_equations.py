"""The equations of the docstrings, typeset: nothing is lost, nothing changes its place."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
import unicodedata
import xml.etree.ElementTree as ET

import pytest
from harness import ROOT

import optstudy_core
import optstudy_core.epoch

pytest.importorskip("latex2mathml")
pytest.importorskip("fontTools")
sys.path.insert(0, str(ROOT / "docs"))

from _extensions import equations
from _extensions.latex import EquationError, latex, row


def lines() -> list[str]:
    found = []
    for module in pkgutil.walk_packages(optstudy_core.__path__, "optstudy_core."):
        if module.name.endswith("__main__") or module.name.startswith("optstudy_core.records"):
            continue
        text = equations.with_directives(importlib.import_module(module.name).__doc__ or "")
        for block in re.findall(r"\.\. equations::\n\n((?:    .*\n|\n(?=    ))+)", text + "\n"):
            found += [line for line in block.split("\n") if line.strip()]
    return found


LINES = lines()
# What MathML says by its structure, and what is written with another character.
STRUCTURE = re.compile(r"[\s·⋅/⁄√∛()^_`]")
SAME = str.maketrans(
    {"ˆ": "\u0302", "¯": "\u0304", "-": "−", "′": "'", "∗": "*", "∑": "Σ", "∘": "°"}
    | {"∥": "‖", "∣": "|", "ϵ": "ε", "ϕ": "φ"}
)


def symbols(text: str) -> str:
    """Return what is there of letters, numbers and signs, in order."""
    plain = unicodedata.normalize("NFKD", text.translate(SAME)).translate(SAME)
    return STRUCTURE.sub("", plain)


def drawn(line: str) -> str:
    html = equations.typeset([line])
    texts = []
    for math in re.findall(r"<math.*?</math>", html, re.DOTALL):
        texts += ET.fromstring(math).itertext()
    return "".join(texts)


def test_the_docstrings_have_equations() -> None:
    assert len(LINES) > 200


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_every_symbol_is_there_in_order(line: str) -> None:
    # In MathML the 3 of a cube root follows its radicand.
    assert symbols(drawn(line)) == symbols(line.replace("∛νₖ₊₁", "νₖ₊₁3"))


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_brackets_match(line: str) -> None:
    parts = row(line)
    for part in (parts.left, parts.right, parts.note):
        assert part.count("{") == part.count("}")
        assert len(re.findall(r"\\left(?!arrow)", part)) == part.count(r"\right")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a·b / c", r"\frac{a \cdot b}{c}"),
        ("a·(b / c)", r"a \cdot \left( \frac{b}{c} \right)"),
        ("a / b·c", r"\frac{a}{b} \cdot c"),
        ("a / (b·c)", r"\frac{a}{b \cdot c}"),
        ("(a / b) / c", r"\frac{\frac{a}{b}}{c}"),
        ("a / b / c", r"\frac{\frac{a}{b}}{c}"),
        ("a / (b / c)", r"\frac{a}{\frac{b}{c}}"),
        ("(a + b)·c", r"(a + b) \cdot c"),
        ("√(a + b)·c", r"\sqrt{a + b} \cdot c"),
        ("√a·c", r"\sqrt{a} \cdot c"),
        ("(a + b)²", r"(a + b)^{2}"),
        ("(a + b)² / c", r"\frac{(a + b)^{2}}{c}"),
        ("2⁻⁽ᵂ⁺¹⁾", "2^{-(W+1)}"),
        ("μₜ₋₁,ᵣ(iᵣ)", r"\mu_{t-1,r}(i_{r})"),
        ("β₂_decay", r"\beta_{2\,\text{decay}}"),
        ("max(a, b)", r"\max(a , b)"),
        ("max of aᵢ", r"\text{max of}\; a_{i}"),
        ("‖x‖₁", r"\left\| x \right\|_{1}"),
        ("0 if ``foo_bar``", r"0 \;\text{if}\; \texttt{foo\_bar}"),
    ],
)
def test_what_belongs_together_stays_together(text: str, wanted: str) -> None:
    assert latex(text) == wanted


@pytest.mark.parametrize("text", ["a + (b", "a @ b", "‖x", "a / )"])
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(EquationError):
        latex(text)


def test_left_right_and_note() -> None:
    parts = row("    x = a,    y = b          (b > 0)")
    assert (parts.left, parts.right, parts.note) == ("x", r"= a , \quad y = b", "(b > 0)")
    assert row("for (a, b): x = a").left == ""


def test_one_can_copy_latex_and_read_the_source_aloud() -> None:
    html = equations.typeset(["x = a / b"])
    assert r"\begin{aligned}" in html
    assert r"x &amp; = \frac{a}{b}" in html
    assert 'alttext="x = a / b"' in html
