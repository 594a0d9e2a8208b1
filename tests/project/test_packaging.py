"""What is installed: the five packages, and nothing of the tests."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from harness import ROOT

import optstudy_core
from optstudy_core._version import REPOSITORY
from optstudy_core.catalogue import citation


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_sdist_can_be_tested_and_documented(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "SECURITY.md", "CITATION.cff", "LICENSE", "Makefile"} <= names
    assert "constraints.txt" in names
    assert {"tests/conftest.py", "docs/conf.py", "benchmarks/__main__.py"} <= names
    assert not [name for name in names if name.startswith((".ci", ".github", "runs", ".venv"))]


def test_the_wheel_has_the_five_packages_only(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info" not in name}
    assert tops == {"optstudy_core", "optstudy_torch", "optstudy_jax", "parity", "studies"}
    for top in tops:
        assert f"{top}/py.typed" in wheel.namelist()


def test_the_wheel_has_its_data(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {"optstudy_core/references.bib", "studies/figures/studies.mplstyle"} <= names
    assert {f"studies/report/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_commands_are_declared(wheel: zipfile.ZipFile) -> None:
    (path,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(path).decode())
    assert dict(parser["console_scripts"]) == {
        "optstudy-parity": "parity.__main__:main",
        "optstudy-study": "studies.__main__:main",
    }


def test_the_base_install_needs_numpy_only(wheel: zipfile.ZipFile) -> None:
    (path,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    needs = [
        line.removeprefix("Requires-Dist: ")
        for line in wheel.read(path).decode().splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    assert sorted(need.partition(">")[0] for need in needs) == ["array-api-compat", "numpy"]


TRAINS = {
    "": """
import numpy as np
from optstudy_core import adam, citation
print(adam.update(adam.init(np.ones(2)), np.ones(2))[1])
assert citation("adam")
""",
    "torch": """
import torch, optstudy_torch
p = torch.nn.Parameter(torch.ones(2))
optimizer = optstudy_torch.Adam([p], lr=0.5)
p.grad = torch.ones(2)
optimizer.step()
assert torch.allclose(p, torch.tensor(0.5))  # but for the roundings of a step
""",
    "jax": """
import jax.numpy as jnp, optax, optstudy_jax
p = jnp.ones(2)
tx = optstudy_jax.adam(0.5)
updates, state = tx.update(jnp.ones(2), tx.init(p), p)
assert jnp.allclose(optax.apply_updates(p, updates), 0.5)  # but for the roundings of a step
""",
    "digest": """
from optstudy_core.catalogue.digests import recorded
from parity.digest import digest
assert digest("adamw", "torch") == recorded()["adamw torch"]
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("extra", TRAINS)
def test_the_wheel_alone_works_in_a_clean_environment(
    wheel: zipfile.ZipFile, tmp_path: Path, extra: str
) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    assert wheel.filename is not None
    what = f"{wheel.filename}[{extra}]" if extra else wheel.filename
    install = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", what]
    subprocess.run(install, check=True)
    subprocess.run([python, "-W", "error", "-c", TRAINS[extra]], check=True, cwd=tmp_path)
    table = [python, "-m", "optstudy_core", "list"]
    assert b"nadam" in subprocess.run(table, check=True, capture_output=True, cwd=tmp_path).stdout
    for absent in {"torch", "jax"} - {extra}:
        refusal = subprocess.run(
            [python, "-c", f"import optstudy_{absent}"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert f"pip install 'optstudy[{absent}]'" in refusal.stderr


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        ("import optstudy_torch", "torch", "torch"),
        ("import optstudy_jax", "jax", "jax"),
        ("import parity", "hypothesis", "digest"),
        ("import studies.__main__", "rich", "studies"),
    ],
)
def test_a_missing_package_names_the_extra(command: str, missing: str, extra: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; {command}"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    said = f"{missing} is not installed. Install it with: pip install 'optstudy[{extra}]'"
    assert said in run.stderr.splitlines()[-1]


def test_the_version_is_the_same_everywhere() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {optstudy_core.__version__}\n" in text


LINES = {
    "CITATION.cff": "repository-code: {}",
    "pyproject.toml": 'Repository = "{}"',
    "README.md": "[Repository]({})",
}
"""What names the address of the repository, once there is one."""


@pytest.mark.parametrize("file", LINES)
def test_the_repository_is_the_same_everywhere(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    before, after = LINES[file].split("{}")
    found = [rest.partition(after or "\n")[0] for rest in text.split(before)[1:]]
    expected = [REPOSITORY] if REPOSITORY else []
    assert found == expected, f"write {LINES[file].format(REPOSITORY)!r} into {file}"


@pytest.mark.parametrize("address", ["", "https://example.org/optstudy"])
def test_a_citation_names_the_repository_where_there_is_one(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(citation, "REPOSITORY", address)
    text = optstudy_core.citation("lion", implementation=True)
    assert (f"  url     = {{{address}}}," in text) == bool(address)
