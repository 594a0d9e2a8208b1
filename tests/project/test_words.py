"""The project speaks plain English: words that it does not use are found by file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import ROOT
from words import NOT_USED

PLACES = ["*.md", "docs/*.md", "docs/_extensions/*.py", "benchmarks/**/*.py"]
PLACES += [f"{name}/**/*.py" for name in ("optstudy_core", "optstudy_torch", "optstudy_jax")]
PLACES += [f"{name}/**/*.py" for name in ("parity", "studies")]
OF_ITS_TIME = {"CHANGELOG.md"}  # what was said of a version stays


def files() -> list[Path]:
    found = {path for place in PLACES for path in ROOT.glob(place)}
    return sorted(path for path in found if path.name not in OF_ITS_TIME)


def lines_with(words: dict[str, str], text: str) -> list[tuple[int, str, str]]:
    """Return number, word and what to say instead, for each line with one of the words."""
    compiled = [(re.compile(pattern, re.IGNORECASE), said) for pattern, said in words.items()]
    assert all(pattern.startswith(r"\b") for pattern in words)
    # All at once: six times as fast where there is none.
    some = "|".join(f"(?:{pattern[2:]})" for pattern in words)
    if not re.search(rf"\b(?:{some})", text, re.IGNORECASE):
        return []
    return [
        (number, match[0], said)
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, said in compiled
        if (match := pattern.search(line))
    ]


def test_words_that_are_not_used() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word!r}; say {said or 'nothing'!r}"
        for path in files()
        for number, word, said in lines_with(NOT_USED, path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("word", ["made anew", "We UTILIZE it", "the trainings part", "mends"])
def test_a_word_is_found(word: str) -> None:
    assert lines_with(NOT_USED, f"first line\nand {word} here")[0][0] == 2


def test_ordinary_words_are_not() -> None:
    text = "the training part of a run, the number of the epochs, a part of the elements"
    assert not lines_with(NOT_USED, text)
