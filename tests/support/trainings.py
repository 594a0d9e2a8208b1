"""What the tests of the studies share: learners, equality of parameters, figures, a user's pair."""

from __future__ import annotations

import pathlib

import numpy as np
from harness import ROOT

from studies.figures import style
from studies.learners import training
from studies.study import Study

BACKENDS = tuple(training.BACKENDS)


def learner_of(backend: str, study: Study, algorithm: str = "adam", lr: float | None = None):
    return training.make_learner(backend, study, training.Optimizer.of(study, algorithm, lr, None))


def same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


def assert_figures(folder: pathlib.Path, names: set[str]) -> None:
    """Hold a folder to figures of these names, in all formats that are drawn."""
    for form in style.FORMATS:
        assert {f.stem for f in folder.glob(f"*.{form}")} == names
    for file in folder.glob("*.png"):
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size > 10_000


def own_pair() -> str:
    """Return README's file of a user's own pair."""
    text = (ROOT / "README.md").read_text()
    start = text.index("# my_pair.py")
    return text[start : text.index("```", start)]
