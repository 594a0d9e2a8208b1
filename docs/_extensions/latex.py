"""Convert the Unicode equations of docstrings to LaTeX.

The order of operations and the brackets stay, because they show where a result is rounded. Only
brackets that a fraction, a root or an exponent makes redundant are removed.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

GREEK = {
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "Δ": r"\Delta",
    "ε": r"\varepsilon", "η": r"\eta", "θ": r"\theta", "κ": r"\kappa", "λ": r"\lambda",
    "μ": r"\mu", "ν": r"\nu", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau",
    "φ": r"\varphi", "ψ": r"\psi", "Φ": r"\Phi", "ω": r"\omega",
}  # fmt: skip
SYMBOLS = {
    "=": "=", "<": "<", ">": ">", "≤": r"\le", "≥": r"\ge", "≈": r"\approx", "←": r"\leftarrow",
    "+": "+", "−": "-", "±": r"\pm", ",": ",", ";": ";", ":": r":\;", "…": r"\ldots",
    "∈": r"\in",
}  # fmt: skip
ATOMS = {"∞": r"\infty", "½": r"\tfrac{1}{2}", "¼": r"\tfrac{1}{4}", "⋯": r"\cdots"}
ACCENTS = {"\u0302": r"\hat", "\u0304": r"\bar"}
BRACKETS = {"(": ("(", ")", ")"), "[": ("[", "]", "]"), "⟨": (r"\langle", r"\rangle", "⟩"),
            "{": (r"\{", r"\}", "}"), "‖": (r"\|", r"\|", "‖"), "|": ("|", "|", "|")}  # fmt: skip
ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]"}
# Upright names of functions and quantities; LaTeX has a command for some.
COMMANDS = {"max", "min", "cos", "ln", "log"}
NAMES = COMMANDS | {"argmin", "lr", "sign", "clip", "RMS", "QR"}
_LOWERED = "SUB"
_RAISED = "SUPER"

_TOKEN = re.compile(
    r"(?P<gap> {2,})|(?P<space> )|(?P<code>``[^`]+``)"
    r"|(?P<word>[A-Za-z][A-Za-z]+(?:'s|-[A-Za-z]+)*(?:_[A-Za-z]\w*)?)"
    r"|(?P<number>\d+(?:\.\d+)?)|(?P<other>.)"
)


class EquationError(ValueError):
    """The text holds something that the notation does not know."""


@dataclass(frozen=True)
class _Part:
    """LaTeX, and what is within it if it is one pair of round brackets."""

    latex: str
    within: str | None = None

    @property
    def bare(self) -> str:
        return self.latex if self.within is None else self.within


def script(char: str) -> tuple[str, str] | None:
    """Return where a small letter stands, ``"SUB"`` or ``"SUPER"``, and its plain form.

    >>> script("ₜ"), script("²"), script("x")
    (('SUB', 't'), ('SUPER', '2'), None)
    """
    parts = unicodedata.decomposition(char).split()
    if char == "⁻":
        return _RAISED, "-"
    if char == "₋":
        return _LOWERED, "-"
    if len(parts) == 2 and parts[0] in ("<sub>", "<super>"):
        plain = chr(int(parts[1], 16)).replace("−", "-")
        return parts[0][1:-1].upper(), GREEK.get(plain, plain)
    return None


class _Reader:
    """Reads one segment of a line: products of factors, between operators and words."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    @property
    def char(self) -> str:
        return self.text[self.at : self.at + 1]

    def token(self) -> re.Match[str]:
        found = _TOKEN.match(self.text, self.at)
        assert found
        return found

    def take(self, text: str) -> bool:
        if self.text.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def sequence(self, closing: str = "") -> str:
        """Read to the end, or to a closing bracket, which is read too."""
        parts: list[str] = []
        while self.at < len(self.text):
            if closing and self.take(closing):
                return " ".join(parts)
            token = self.token()
            if token["gap"]:
                self.at = token.end()
                parts.append(r"\quad")
            elif token["space"]:
                self.at = token.end()
            elif token["code"]:
                self.at = token.end()
                parts.append(r"\;\texttt{" + escaped(token["code"].strip("`")) + r"}\;")
            elif self.is_text():
                parts.append(self.words())
            elif self.char in SYMBOLS:
                parts.append(SYMBOLS[self.char])
                self.at += 1
            else:
                parts.append(self.product())
        if closing:
            raise EquationError(f"{closing!r} is missing: {self.text!r}")
        return " ".join(parts)

    def is_text(self) -> bool:
        """Say whether a word of a sentence begins here, not a name within a product."""
        token = self.token()
        if re.match(r"a [a-z]{3,}", self.text[self.at :]):
            return True
        word = token["word"]
        if not word:
            return False
        after = self.text[token.end() : token.end() + 1]
        if word in NAMES:
            # "max of …" is a phrase, max(…) a function.
            return word in ("max", "min") and after != "("
        before = self.text[self.at - 1 : self.at] if self.at else ""
        if after == " " and self.text.startswith("of ", token.end() + 1):
            return True
        return not (before in {"·", "/", "^"} or (after and after in "·/^("))

    def words(self) -> str:
        begin = self.at
        while self.at < len(self.text) and self.is_text():
            token = self.token()
            self.at = token.end() if token["word"] else self.at + 1
            if self.char == " " and self.text[self.at : self.at + 2] != "  ":
                self.at += 1
        words = self.text[begin : self.at].strip()
        left = r"\;" if begin and self.text[begin - 1] == " " else ""
        right = r"\;" if self.text[self.at - 1] == " " else ""
        kind = r"\texttt{" if "_" in words else r"\text{"
        return left + kind + escaped(words) + "}" + right

    def product(self) -> str:
        if self.take("Σ"):
            sign = r"\sum" + self.scripts()
            self.take(" ")
            return sign + " " + self.product()
        done = self.factor()
        while self.at < len(self.text):
            if self.take("·") or self.take(" · "):
                done = _Part(rf"{done.latex} \cdot {self.factor().latex}")
            elif self.take(" / ") or self.take("/"):
                done = _Part(rf"\frac{{{done.bare}}}{{{self.factor().bare}}}")
            elif self.char in {" ", *SYMBOLS, ")", "]", "}", "⟩", "‖", "|"} or self.token()["word"]:
                break
            else:
                done = _Part(f"{done.latex} {self.factor().latex}")
        return done.latex

    def factor(self) -> _Part:
        """Read a factor with its indices, exponents and arguments."""
        char = self.char
        if char == "Σ":
            return _Part(self.product())
        if char in ROOTS:
            self.at += 1
            return _Part(f"{ROOTS[char]}{{{self.radicand().bare}}}")
        if char in BRACKETS:
            return self.bracket()
        token = self.token()
        if token["word"]:
            return self.name(token)
        if token["number"]:
            self.at = token.end()
            return _Part(token["number"] + self.scripts())
        if char in ATOMS:
            self.at += 1
            return _Part(ATOMS[char])
        if char in GREEK or (char.isascii() and char.isalpha()):
            return _Part(self.letter())
        raise EquationError(f"{char!r} in {self.text!r}")

    def radicand(self) -> _Part:
        """Read what a root is of: a bracket, or one factor."""
        return self.bracket(plain=True) if self.char == "(" else self.factor()

    def bracket(self, plain: bool = False) -> _Part:
        left, right, closing = BRACKETS[self.char]
        self.at += 1
        within = self.sequence(closing)
        indices = "" if plain else self.scripts()
        # Only what is high makes round and square brackets grow.
        grows = left not in "([" or r"\frac{" in within or r"\sqrt" in within
        whole = rf"\left{left} {within} \right{right}" if grows else f"{left}{within}{right}"
        whole += indices
        return _Part(whole, within if left == "(" and not indices else None)

    def name(self, token: re.Match[str]) -> _Part:
        """Read an upright name, and its argument."""
        self.at = token.end()
        word = token["word"]
        latex = "\\" + word if word in COMMANDS else r"\mathrm{" + escaped(word) + "}"
        latex += self.scripts()
        if self.char == "(":
            return _Part(latex + self.bracket().latex)
        if word in ("argmin", "cos", "ln", "log") and self.take(" "):
            return _Part(rf"{latex}\, {self.factor().latex}")
        return _Part(latex)

    def letter(self) -> str:
        char = self.char
        self.at += 1
        latex = GREEK.get(char, char)
        if self.char in ACCENTS:
            latex = f"{ACCENTS[self.char]}{{{latex}}}"
            self.at += 1
        lowered = ""
        # A name below: ηmax, ε_root, Q_L, ρ∞.
        if named := re.match(r"_([A-Za-zε]+)|(min\b|max\b|∞)", self.text[self.at :]):
            lowered = named[1] or named[2]
            self.at += named.end()
        if lowered in ATOMS or lowered in GREEK:
            lowered = {**ATOMS, **GREEK}[lowered]
        elif len(lowered) > 1:
            lowered = r"\text{" + lowered + "}"
        latex += self.scripts(lowered)
        if self.char == "(":
            latex += self.bracket().latex
        return latex

    def scripts(self, lowered: str = "") -> str:
        """Read what stands below and above, in either order."""
        below, above, primes = [lowered] if lowered else [], "", ""
        while self.at < len(self.text):
            small = script(self.char)
            if small:
                where, plain = small
                self.at += 1
                plain += " " if plain.startswith("\\") else ""
                if where == _LOWERED:
                    below.append(plain)
                else:
                    above += plain
            elif (
                self.char == ","
                and (after := self.text[self.at + 1 : self.at + 2])
                and (below and (script(after) or ("", ""))[0] == _LOWERED)
            ):
                below.append(",")
                self.at += 1
            elif self.char == "'":
                primes += r"\prime "
                self.at += 1
            elif self.char in {"*", "°"}:
                above += {"*": "*", "°": r"\circ"}[self.char]
                self.at += 1
            elif below and (named := re.match(r"_([a-z]+)", self.text[self.at :])):
                below.append(r"\,\text{" + named[1] + "}")
                self.at += named.end()
            elif self.take("^"):
                above += self.exponent()
            else:
                break
        above = primes + above.replace("T", r"\mathsf{T}")
        return (f"_{{{''.join(below)}}}" if below else "") + (f"^{{{above}}}" if above else "")

    def exponent(self) -> str:
        """Read what stands after ``^``; a quotient stays on its line there."""
        if self.char == "(":
            begin = self.at + 1
            self.at = self.text.index(")", begin)
            inner = self.text[begin : self.at]
            self.at += 1
            return " ".join(
                part if part == "/" else _Reader(part).sequence() for part in re.split("(/)", inner)
            )
        if self.char in ATOMS:
            return self.factor().latex.replace(r"\tfrac{1}{4}", "1/4")
        return self.factor().latex


def escaped(text: str) -> str:
    r"""Return words for LaTeX's text mode.

    >>> escaped("eps_root")
    'eps\\_root'
    """
    return text.replace("_", r"\_")


@dataclass(frozen=True)
class Row:
    """A line of a block of equations, in LaTeX: left side, the rest from the relation on, note."""

    left: str
    right: str
    note: str
    source: str


_RELATION = re.compile(r" +(?==|←|≈|≤)")


def row(line: str) -> Row:
    r"""Return a line in LaTeX.

    >>> row("x = a / b     (b > 0)")
    Row(left='x', right='= \\frac{a}{b}', note='(b > 0)', source='x = a / b     (b > 0)')
    """
    text = line.strip()
    equation, note = _note(text)
    if line.startswith(" " * 12) and not note:
        equation, note = "", text
    found = _RELATION.search(equation)
    left, right = "", equation
    # What is said before an equation keeps it from standing among the others.
    if found and not re.search("[:,]|(?<!\\w)\\($", equation[: found.start()]):
        left, right = equation[: found.start()], equation[found.end() :]
    return Row(latex(left), latex(right), latex(note), text)


def _note(text: str) -> tuple[str, str]:
    """Split off what stands apart to the right, unless it is a further equation of the line."""
    for gap in re.finditer(r" {3,}", text):
        if text[gap.start() - 1] not in ",;":
            return text[: gap.start()], text[gap.end() :]
    return text, ""


def latex(text: str) -> str:
    r"""Return a piece of a line as LaTeX.

    >>> latex("a·m̂ₜ / (√v̂ₜ + ε)")
    '\\frac{a \\cdot \\hat{m}_{t}}{\\sqrt{\\hat{v}_{t}} + \\varepsilon}'
    """
    whole = _Reader(unicodedata.normalize("NFD", text)).sequence()
    return re.sub(r"(\\;) (?:\\; ?)+", r"\1 ", whole).strip().removesuffix(r"\;")


def aligned(rows: list[Row]) -> str:
    """Return rows as one ``aligned`` block, to be copied into a paper."""
    lines = [f"  {r.left} & {r.right}" + (rf" && {r.note}" if r.note else "") for r in rows]
    return "\n".join([r"\begin{aligned}", " \\\\\n".join(lines), r"\end{aligned}"])
