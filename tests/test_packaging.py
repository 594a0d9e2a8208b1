"""What is installed: the five packages, and nothing of the tests."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import optstudy_core

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_the_five_packages_only(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info" not in name}
    assert tops == {"optstudy_core", "optstudy_torch", "optstudy_jax", "parity", "studies"}
    for top in tops:
        assert f"{top}/py.typed" in wheel.namelist()


def test_the_wheel_has_its_data(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {"optstudy_core/references.bib", "studies/studies.mplstyle"} <= names
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


@pytest.mark.slow
def test_the_wheel_alone_works_in_a_clean_environment(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    assert wheel.filename is not None
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel.filename], check=True)
    code = (
        "import numpy as np; from optstudy_core import adam, citation; "
        "print(adam.update(adam.init(np.ones(2)), np.ones(2))[1]); assert citation('adam')"
    )
    subprocess.run([python, "-c", code], check=True, cwd=tmp_path)
    refusal = subprocess.run(
        [python, "-c", "import optstudy_torch"], capture_output=True, text=True, cwd=tmp_path
    )
    assert "No module named 'torch'" in refusal.stderr


def test_the_version_is_the_same_everywhere() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {optstudy_core.__version__}\n" in text
