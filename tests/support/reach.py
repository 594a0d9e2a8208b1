"""What a result depends on: the text of modules, or of what a function of a file uses, as a digest.

Comments and docstrings do not count, nor does the layout between lines.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from pathlib import Path


def digest(texts: Iterable[str]) -> str:
    """Return a short digest of texts, in their order.

    >>> digest(["a", "b"]) == digest(["ab"])
    False
    """
    found = sha256()
    for text in texts:
        found.update(sha256(text.encode()).digest())
    return found.hexdigest()[:12]


@cache
def text_of(path: Path) -> str:
    """Return the text of a module without comments, docstrings and empty lines."""
    lines = _lines(path)
    return "\n".join(lines[i] for i in sorted(lines))


@cache
def used_by(path: Path, name: str) -> str:
    """Return the text of a definition of a module, and of the module's others that it uses."""
    places, found, left = _definitions(path), dict[str, ast.stmt](), [name]
    while left:
        here = left.pop()
        if here in places and here not in found:
            found[here] = places[here]
            left += [x.id for x in ast.walk(places[here]) if isinstance(x, ast.Name)]
    lines = _lines(path)
    own = {i for node in found.values() for i in range(_begin(node), (node.end_lineno or 0) + 1)}
    return "\n".join(lines[i] for i in sorted(own & lines.keys()))


def _begin(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(x.lineno for x in decorators)])


@cache
def _definitions(path: Path) -> dict[str, ast.stmt]:
    """Return what a module defines, by name."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for x in (x for target in targets for x in ast.walk(target)):
                if isinstance(x, ast.Name):
                    found[x.id] = node
    return found


@cache
def _lines(path: Path) -> dict[int, str]:
    """Return the lines of a module by number, without what does not count."""
    text = path.read_text(encoding="utf-8")
    lines = dict(enumerate(text.splitlines(), 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row] = lines[row][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            for row in range(node.lineno, (node.end_lineno or 0) + 1):
                lines[row] = ""
    return {row: line.rstrip() for row, line in lines.items() if line.strip()}
