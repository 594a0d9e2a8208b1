"""The versions that `make test-versions` installs are those that pyproject.toml claims."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version

import pytest
import versions
from harness import ROOT

TEXT = versions.PYPROJECT.read_text(encoding="utf-8")


def test_the_oldest_are_the_lower_bounds() -> None:
    found = dict(line.split("==") for line in versions.constraints("oldest", TEXT))
    assert found.keys() == {"numpy", "array-api-compat", "torch", "jax", "optax"}
    for name, oldest in found.items():
        assert f'"{name}>={oldest}"' in TEXT
        numbers = [int(x) for x in re.findall(r"\d+", version(name))[:3]]
        assert numbers >= [int(x) for x in oldest.split(".")]  # what is here is not older
    assert not versions.constraints("newest", TEXT)


def test_a_version_of_torch_may_be_named() -> None:
    """Where there are builds for CPUs of some versions only."""
    oldest = versions.constraints("oldest", TEXT, "9.8")
    assert "torch==9.8" in oldest
    assert len(oldest) == len(versions.constraints("oldest", TEXT))
    assert versions.constraints("newest", TEXT, "9.8") == ["torch==9.8"]


def test_what_has_no_lower_bound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"jax<=\S+ in pyproject\.toml: expected is a lower bound"):
        versions.constraints("oldest", TEXT.replace('"jax>=', '"jax<='))
    with pytest.raises(ValueError, match="versions = 'old': allowed are 'oldest' and 'newest'"):
        versions.constraints("old", TEXT)


def test_the_command_makes_an_environment_for_each() -> None:
    """And takes the one that is here as it is, where a machine has its own versions."""

    def shown(*given: str) -> str:
        command = ["make", "--dry-run", "--no-print-directory", "test-versions", *given]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    both = shown()
    for which in ("oldest", "newest"):
        assert f"-m venv .venv-{which}" in both
        assert f"versions.py {which} > .venv-{which}/constraints.txt" in both
        assert f".venv-{which}/bin/python -m pytest --status tests/test_every_property.py" in both
    assert "versions.py newest 9.8 >" in shown("VERSIONS=newest", "TORCH=9.8")
    here = shown("VERSIONS=here", "PYTHON=python3.12")
    assert "venv" not in here
    assert "python3.12 -m pytest --status tests/test_every_property.py" in here
