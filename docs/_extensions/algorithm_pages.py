"""Write a page for each algorithm, before Sphinx reads the pages."""

from __future__ import annotations

import ast
import inspect
import pathlib
import re
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

import optstudy_core
from optstudy_core import ALGORITHMS, Algorithm
from optstudy_core.__main__ import described, state_size
from optstudy_core.arrays.numbers import ANY, is_number
from optstudy_core.catalogue import digests
from optstudy_core.catalogue.citation import field
from optstudy_core.catalogue.hyperparameters import RANGES

from . import docstrings, equations, paths, usage

_FOLDER = pathlib.Path(__file__).parents[1]
GENERATED = _FOLDER / "_generated" / "algorithms"


def write() -> None:
    """Write all pages and the table of pages."""
    GENERATED.mkdir(parents=True, exist_ok=True)
    conformance = _conformance()
    for name, algorithm in sorted(ALGORITHMS.items()):
        _write(GENERATED / f"{name}.md", page(algorithm, conformance.get(name, [])))
    paths.draw_all(GENERATED)
    _write(GENERATED / "table.md", table())
    _write(GENERATED / "digests.md", digest_table())


def table() -> str:
    """Return the table of all algorithms."""
    rows = [
        "| " + " | ".join(cells) + " |"
        for cells in (
            ("algorithm", "year", "source", "state", "dialects"),
            ("---", "---", "---", "---:", "---"),
            *(
                (
                    f"[{algorithm.title}](_generated/algorithms/{name}.md)",
                    field(algorithm.bibtex[0], "year"),
                    field(algorithm.bibtex[0], "title"),
                    str(state_size(algorithm)),
                    ", ".join(algorithm.dialects),
                )
                for name, algorithm in sorted(ALGORITHMS.items())
            ),
        )
    ]
    names = "\n".join(f"_generated/algorithms/{name}" for name in sorted(ALGORITHMS))
    return "\n".join([*rows, "", "```{toctree}", ":hidden:", "", names, "```", ""])


def digest_table() -> str:
    """Return the recorded digests of every algorithm and dialect; wrappers go around Adam."""
    rows = [
        "| " + " | ".join(f"`{cell}`" for cell in (*key.split(" "), value)) + " |"
        for key, value in sorted(digests.recorded().items())
    ]
    return "\n".join(["| algorithm | dialect | digest |", "| --- | --- | --- |", *rows, ""])


def page(algorithm: Algorithm, conformance: list[str]) -> str:
    """Return the page of an algorithm, in Markdown."""
    module: Any = inspect.getmodule(algorithm.update)
    first, _, rest = inspect.cleandoc(module.__doc__).partition("\n")
    own = f"optstudy-{algorithm.name}-{optstudy_core.__version__}"
    parts = [
        f"# {algorithm.title}",
        _sentence(first.partition(": ")[2] or first),
        f"{{py:class}}`optstudy_torch.{algorithm.title}`, "
        f"{{py:func}}`optstudy_jax.{algorithm.name}`, "
        f"[`optstudy_core.{algorithm.name}`](#source)",
        "## Usage",
        usage.shown(algorithm),
        "## Equations",
        _rst(equations.with_directives(rest)),
        "## Paths on test functions",
        f"![Paths on three functions of two variables]({algorithm.name}.svg)",
        paths.caption(algorithm),
        "## State",
        _state(algorithm),
        *_elsewhere(algorithm),
        "## Hyperparameters and dialects",
        _hyperparameters(algorithm),
        "## Conformance",
        _measured(algorithm, conformance),
        "## Source",
        f"`optstudy_core/algorithms/{algorithm.name}.py`, version {optstudy_core.__version__}. "
        "Click a line number for a link to the line. Links to functions and classes use names and "
        "stay valid when lines move:",
        _source(pathlib.Path(module.__file__)),
        "## Signatures",
        usage.signatures(algorithm),
        "## How to cite",
        "Cite the sources and the version of this implementation. "
        f"`python -m optstudy_core cite {algorithm.name} >> references.bib` adds them to a "
        "BibTeX file; then use "
        + " and ".join(f"`\\cite{{{key}}}`" for key in (*algorithm.bibtex, own))
        + ". The entry has the version and the digest of the file, which identify the code that "
        "ran. A link to the function is the address of this site with "
        f"`_generated/algorithms/{algorithm.name}.html#update`.",
        "```bibtex\n" + optstudy_core.citation(algorithm, implementation=True) + "\n```",
        "References: " + ", ".join(f"{{cite:t}}`{key}`" for key in algorithm.bibtex) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _rst(text: str) -> str:
    return f"````{{eval-rst}}\n{docstrings.linked(text.strip())}\n````"


def _state(algorithm: Algorithm) -> str:
    # A state class may inherit the fields of another algorithm.
    texts = (inspect.cleandoc(kind.__doc__ or "") for kind in algorithm.state_type.__mro__)
    text = next((t.partition("Attributes:")[2] for t in texts if "Attributes:" in t), "")
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", text, re.MULTILINE | re.DOTALL)
    if not entries:
        return "The state is empty."
    rows = [f"| `{name}` | {_cell(meaning)} |" for name, meaning in entries]
    size = state_size(algorithm)
    elements = f"{size} element{'s' * (size != 1)}" if size else "Less than one element"
    return "\n".join(
        [
            f"{elements} for each element of a square matrix (by default).",
            "",
            "| field | meaning, shape and initial value |",
            "| --- | --- |",
            *rows,
        ]
    )


def _elsewhere(algorithm: Algorithm) -> list[str]:
    """Return the names of the fields in other libraries, if known."""
    if not algorithm.elsewhere:
        return []
    rows = [
        f"| `{kind}` | " + ", ".join(f"`{ours}` is `{name}`" for ours, name in names.items()) + " |"
        for kind, names in algorithm.elsewhere.items()
    ]
    return ["\n".join(["| library | field |", "| --- | --- |", *rows])]


def _cell(text: str) -> str:
    """Return a text of a docstring for a cell of a table in Markdown."""
    plain = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    return " ".join(plain.split()).replace("``", "`").replace("|", "\\|")


def _hyperparameters(algorithm: Algorithm) -> str:
    """Return two narrow tables: the arguments, and the differences of the other dialects."""
    text = inspect.cleandoc(algorithm.update.__doc__ or "")
    rows = []
    for name, default in algorithm.defaults(algorithm.default_dialect).items():
        meaning = _cell(described(text, name).removeprefix(": ")).removesuffix(".")
        if is_number(default) and not re.search(r"[≥>≤<]| in \[", meaning):
            meaning += f"; {RANGES.get(name, ANY)}"
        rows.append(f"| `{name}` | `{default}` | {meaning} |")
    head = ["| argument | default | meaning and range |", "| --- | --- | --- |"]
    return "\n".join([*head, *rows, "", *_dialects(algorithm)])


def _dialects(algorithm: Algorithm) -> list[str]:
    """Return the table of the arguments that the dialects set differently."""
    names = sorted(algorithm.dialects, key=lambda name: name != algorithm.default_dialect)
    values = [algorithm.defaults(name) for name in names]
    rows = [
        f"| `{argument}` | " + " | ".join(f"`{own[argument]}`" for own in values) + " |"
        for argument in values[0]
        if len({repr(own[argument]) for own in values}) > 1
    ]
    if not rows:
        return []
    heads = ["", *(f'`"{name}"`' for name in names)]
    return [
        "`dialect` selects which library's formula and defaults to use. The first is the default.",
        "",
        "| " + " | ".join(heads) + " |",
        "| --- " * len(heads) + "|",
        *rows,
    ]


def _conformance() -> dict[str, list[str]]:
    """Return the rows of the measured table, by algorithm."""
    rows: dict[str, list[str]] = {}
    for line in (_FOLDER / "conformance.md").read_text(encoding="utf-8").splitlines():
        cells = line.strip("|").split(" | ")
        if len(cells) > 5 and cells[0].strip() in ALGORITHMS:
            rows.setdefault(cells[0].strip(), []).append("| " + " | ".join(cells[1:]) + " |")
    return rows


def _measured(algorithm: Algorithm, rows: list[str]) -> str:
    proof = (
        f"`python -m parity --algorithms {algorithm.name}` compares every backend with the NumPy "
        "function, bit by bit, on your machine."
    )
    if not rows:
        return f"No distance has been recorded yet. {proof}"
    return "\n".join(
        [
            "Distances from the libraries and from loops written from the papers "
            "([explanation](../../conformance.md)).",
            "",
            "| dialect | peer | settings | float64 | float32 | verdict |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            proof,
        ]
    )


def _source(file: pathlib.Path) -> str:
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True)
    text = file.read_text(encoding="utf-8")
    html = highlight(text, PythonLexer(), formatter)
    kinds = (ast.FunctionDef, ast.ClassDef)
    lines = {node.name: node.lineno for node in ast.parse(text).body if isinstance(node, kinds)}
    for name, line in lines.items():
        html = html.replace(f'<a id="L-{line}"', f'<a id="{name}"></a><a id="L-{line}"')
    links = ", ".join(f'<a href="#{name}"><code>{name}</code></a>' for name in lines)
    return f'```{{raw}} html\n<p>{links}</p>\n<div class="source">{html}</div>\n```'


def _write(file: pathlib.Path, text: str) -> None:
    """Write a file only if it changes, because Sphinx reads newer files again."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")
