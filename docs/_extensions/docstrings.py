"""Check docstrings of public names; missing parts are warnings.

The docstring of a function, a class or a method describes the object, each argument (for an array
also its shape), the result, and each error that the code raises. A module with an algorithm names
its source, and every source is in ``references.bib``. If two functions have the same arguments, the
second docstring may have ``Args and errors as for :func:`first```.

A name is public if the ``__all__`` of a module below has the name, or if a page documents it.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

from optstudy_core import ALGORITHMS
from optstudy_core.catalogue.citation import entries

MODULES = (
    *("optstudy_core", "optstudy_core.epoch", "optstudy_core.records"),
    *("optstudy_torch", "optstudy_torch.checkpoint", "optstudy_torch.epoch"),
    *("optstudy_torch.lr_scheduler", "optstudy_torch.recorder"),
    *("optstudy_jax", "optstudy_jax.checkpoint", "optstudy_jax.epoch", "optstudy_jax.recorder"),
    *("parity", "studies"),
)
"""Modules with public names in ``__all__``."""

_DIRECTIVES = re.compile(r"\.\. auto(?:module|function|class):: ([\w.]+)\n((?:   :.*\n)*)")
_ARRAYS = re.compile(r"\b(Any|Array|ArrayLike|Tensor|ndarray)\b")
# Words that describe the shape of an array, or show that the argument is a number.
_SHAPES = re.compile(
    r"shape|\btrees?\b|\blike\b|matri|vector|scalar|number|\barrays?\b|tensor|lea[fv]\b|leaves"
    r"|parameters|gradient|\bstate|model|optimizer|mapping|dictionar|JSON|function|module|generator"
    r"|objects|≥|>| in \[|truth|`|:(?:func|meth|class):",
    re.IGNORECASE,
)
_KEY = r"(?<!`)`([a-z]+\d{4}[a-z]+)`(?!`)"
_SECTION = r"^ *{}:\n(.*?)(?=^ *(?:Args|Returns|Raises|Yields|Attributes|>>>)|\Z)"


def public(pages: Iterable[str]) -> dict[str, Any]:
    """Return the public modules, functions, classes and methods, by name.

    Args:
        pages: the text of the pages that document public names.
    """
    found: dict[str, Any] = {}
    for module in map(import_module, MODULES):
        for name in module.__all__:
            found[f"{module.__name__}.{name}"] = getattr(module, name)
    for page in pages:
        for place, options in _DIRECTIVES.findall(page):
            thing = found[place] = _named(place)
            members = re.search(r":members: (.+)", options)
            for name in members[1].split(", ") if members and inspect.ismodule(thing) else ():
                found[f"{place}.{name}"] = getattr(thing, name)
    for place, thing in list(found.items()):
        if inspect.isclass(thing) and not issubclass(thing, BaseException):
            methods = {name: getattr(thing, name) for name in vars(thing) if name[0] != "_"}
            methods = {n: m for n, m in methods.items() if inspect.isroutine(m)}
            found |= {
                f"{place}.{n}": m for n, m in methods.items() if getattr(m, "__name__", "") == n
            }
    return {place: thing for place, thing in found.items() if _is_ours(thing)}


def _named(place: str) -> Any:
    try:
        return import_module(place)
    except ImportError:
        owner, _, name = place.rpartition(".")
        return getattr(import_module(owner), name)


def _is_ours(thing: Any) -> bool:
    owner = thing.__name__ if inspect.ismodule(thing) else getattr(thing, "__module__", None) or ""
    return owner.partition(".")[0] in {module.partition(".")[0] for module in MODULES}


def faults(name: str, thing: Any) -> list[str]:
    """Return the missing parts of the docstring of a public name.

    Args:
        name: the name in the message.
        thing: a module, a class or a function; other objects are not checked.
    """
    text = inspect.getdoc(thing) or ""
    if not (inspect.ismodule(thing) or inspect.isclass(thing) or inspect.isroutine(thing)):
        return []
    if not text:
        return [f"{name}: no docstring"]
    if inspect.ismodule(thing):
        return [f"{name}: {fault}" for fault in _module(thing, text)]
    made_elsewhere = inspect.isclass(thing) and "ade by :" in text
    found = (
        []
        if made_elsewhere or re.search("rgs (and errors )?as for", text)
        else [*_arguments(thing, text)]
    )
    found += [f"has {bars} outside a literal" for bars in _substitutions(text)]
    if inspect.isroutine(thing) and not _says_what_returns(thing, text):
        found.append("does not say what it returns")
    if not made_elsewhere and "errors as for" not in text:
        told = section(text, "Raises")
        missing = sorted(error for error in _raised(thing) if error not in told)
        found += [f"does not name the {error} it raises" for error in missing]
    return [f"{name}: {fault}" for fault in found]


def linked(text: str) -> str:
    """Return a docstring with the keys of sources as links to the references.

    Args:
        text: in reStructuredText, with keys as in ``(`kingma2015adam`)``.
    """
    return re.sub(rf"\({_KEY}\)|{_KEY}", lambda m: f":cite:p:`{m[1] or m[2]}`", text)


def _substitutions(text: str) -> list[str]:
    """Return bars outside literals, which reStructuredText reads as substitutions."""
    prose = "\n".join(part for part in text.split("\n\n") if part[:1] not in " >")  # no equations
    return re.findall(r"(?<!\w)\|\w+\|", re.sub(r"``[^`]*``", "", prose))


def section(text: str, title: str) -> str:
    """Return a section of a docstring in Google's style, without its title; empty if none."""
    found = re.search(_SECTION.format(title), text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def _module(module: Any, text: str) -> Iterator[str]:
    if _has_formula(module) and "Source:" not in text:
        yield "no source"
    for key in re.findall(r"`([a-z]+(?:18|19|20)\d\d[a-z]+)`", text):
        if key not in entries():
            yield f"{key} is not in references.bib"


def _has_formula(module: Any) -> bool:
    names = {algorithm.update.__module__ for algorithm in ALGORITHMS.values()}
    return module.__name__ in names or hasattr(module, "BIBTEX")


def _parameters(thing: Any) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(thing).parameters.values())
    except (TypeError, ValueError):
        return []
    if inspect.isclass(thing) and (hasattr(thing, "_fields") or issubclass(thing, Exception)):
        return []  # a named tuple documents its fields
    return [p for p in parameters if p.name not in ("self", "cls") and p.name[0] != "_"]


def _arguments(thing: Any, text: str) -> Iterator[str]:
    if hasattr(thing, "_fields"):
        told = section(text, "Attributes")
        for field in thing._fields:
            if not re.search(rf"^ *{field}: ", told, re.MULTILINE):
                yield f"does not say what {field} is"
        return
    told = section(text, "Args") + section(text, "Attributes")
    for parameter in _parameters(thing):
        meaning = re.search(
            rf"^( *)\**{parameter.name}: (.*?)(?=^\1\S|\Z)", told, re.MULTILINE | re.DOTALL
        )
        if meaning is None:
            yield f"does not say what {parameter.name} is"
        elif _ARRAYS.search(str(parameter.annotation)) and not _SHAPES.search(meaning[2]):
            yield f"does not say which shape {parameter.name} has"


def _says_what_returns(thing: Any, text: str) -> bool:
    annotation = inspect.signature(thing).return_annotation
    if annotation in (None, "None", inspect.Signature.empty):
        return True
    return bool(re.match(r"(Return|Yield|Whether|The |Decorate)", text)) or "Returns:" in text


def _raised(thing: Any) -> set[str]:
    """Return the names of the errors that the code of a function or of a constructor raises."""
    if inspect.isclass(thing):
        made = (vars(thing).get(name) for name in ("__init__", "__post_init__", "__new__"))
        return set().union(*(_raised(function) for function in made if inspect.isroutine(function)))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing))))
    except (OSError, TypeError, SyntaxError):
        return set()
    return set(_errors(tree.body[0]))


def _errors(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
            called = child.exc.func
            if isinstance(called, ast.Name) and called.id[0].isupper():
                yield called.id
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            yield from _errors(child)


def is_made(thing: Any) -> bool:
    """Return whether an adapter generated the function or class from an algorithm with a page.

    Args:
        thing: a public name.
    """
    name = getattr(getattr(thing, "algorithm", None), "name", getattr(thing, "__name__", ""))
    return getattr(thing, "__module__", "") in ("optstudy_torch", "optstudy_jax") and (
        name in ALGORITHMS
    )
