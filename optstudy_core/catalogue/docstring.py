"""Docstrings made from others: the file of the formula explains the arguments of the adapters."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping


def meaning(text: str, name: str) -> str:
    r"""Return the description of an argument in a docstring, on one line; empty if there is none.

    Args:
        text: a docstring in Google style, without indentation.
        name: the name of the argument.

    >>> meaning("Return.\n\nArgs:\n    lr: learning\n        rate.\n    b: decay.", "lr")
    'learning rate.'
    """
    found = re.search(rf"^    {name}: (.*?)(?=^    \w+: |^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(found.group(1).split()) if found else ""


def with_arguments(text: str | None, meanings: Mapping[str, str], **sections: str) -> str:
    """Return a docstring with a section of arguments, and further sections after it.

    Args:
        text: the text before the sections.
        meanings: the meaning of each argument, by name.
        **sections: the lines of further sections, by title.

    >>> print(with_arguments("Adam.", {"lr": "learning rate."}, Raises="ValueError: if < 0."))
    Adam.
    <BLANKLINE>
    Args:
        lr: learning rate.
    <BLANKLINE>
    Raises:
        ValueError: if < 0.
    <BLANKLINE>
    """
    lines = [
        textwrap.fill(
            f"{name}: {told}" if told else name,
            width=92,
            initial_indent=" " * 4,
            subsequent_indent=" " * 8,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, told in meanings.items()
    ]
    parts = [(text or "").strip(), "\n".join(["Args:", *lines])]
    parts += [f"{title}:\n{textwrap.indent(told, ' ' * 4)}" for title, told in sections.items()]
    return "\n\n".join(parts) + "\n"
