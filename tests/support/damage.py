"""Files and values that are damaged: drawn, so that a seed gives the same ones."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

ODD: list[Any] = [
    None, True, -1, 0, 2**63 - 1, 2**63, 10**400, 1.5, float("nan"), float("inf"), "", "x", "\0",
    "../config.json", "/etc/passwd", [], [1, "x"], {}, {"a": 1}, [[[]]], "é\u202e",
]  # fmt: skip
"""Values of JSON that stand where others belong."""
BLOCK = 64


def nested(depth: int, text: str = "1") -> str:
    """Return the JSON text of dictionaries in each other."""
    return '{"a":' * depth + text + "}" * depth


def damaged(whole: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Return bytes that are cut, or of which some are others; and what was done."""
    content = bytearray(whole)
    at = draw.randrange(len(content))
    way = draw.choice(["bit", "byte", "cut", "zeros", "twice", "insert"])
    if way == "bit":
        content[at] ^= 1 << draw.randrange(8)
    elif way == "byte":
        content[at] = draw.choice([0, 1, 127, 255])
    elif way == "cut":
        del content[at:]
    elif way == "zeros":
        content[at : at + BLOCK] = bytes(len(content[at : at + BLOCK]))
    elif way == "twice":
        content += content[at:]
    else:
        content[at:at] = draw.randbytes(3)
    return f"{way} at {at}", bytes(content)


def changed(value: Any, draw: random.Random, odd: list[Any] = ODD) -> Any:
    """Return dictionaries and lists, one entry of which is an odd one, or missing."""
    if isinstance(value, dict | list | tuple) and value and draw.random() < 0.85:
        copy = dict(value) if isinstance(value, dict) else list(value)
        key = draw.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        if draw.random() < 0.1:
            del copy[key]
        else:
            copy[key] = changed(value[key], draw, odd)
        return copy
    return draw.choice(odd)


def text_of(text: str, draw: random.Random) -> str:
    """Return a JSON text, one entry of which is an odd one, or a deeply nested one."""
    if draw.random() < 0.1:
        return nested(draw.choice([150, 300, 900, 5000]))
    return json.dumps(changed(json.loads(text), draw))


def parts(quick: int, slow: int) -> list[Any]:
    """Return seeds and counts for a test: some that are quick, and others in the slow tier."""
    return [
        *((seed, quick // 4) for seed in range(4)),
        *(pytest.param(4 + i, slow // 4, marks=pytest.mark.slow) for i in range(4)),
    ]


def told(error: Exception) -> str:
    """Return what an error of the project's own says; raise any other again."""
    if type(error) in (ValueError, TypeError, FileNotFoundError):  # no decoder's, no inside's
        return str(error)
    raise error
