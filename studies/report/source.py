"""The study of a run: taken from the package by its name, from a file only where the user names it.

A run's folder says which study it was, and the folder may be anybody's: what it names is compared
with what is allowed, and neither imported nor run.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from studies.problems.table import STUDIES, load
from studies.study import Study

_KINDS: Final[Mapping[str, tuple[type | tuple[type, ...], str]]] = {
    "source": (str, "the name of a study or of its file"),
    "seed": (int, "a whole number"),
    "data": ((str, type(None)), "a path or null"),
    "events": ((int, type(None)), "a whole number or null"),
    "algorithm": (str, "the name of an algorithm"),
    "dialect": ((str, type(None)), "the name of a dialect or null"),
    "method": (str, "the name of a method"),
    "backend": (str, "the name of a framework"),
    "lr": ((int, float), "a number"),
    "parameters": (dict, "shapes by name"),
}
"""What the configuration of a study's run has."""


def checked(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of a study's run.

    Raises:
        ValueError: if an entry is missing or of another kind.
    """
    for name, (kinds, expected) in _KINDS.items():
        if name not in config:
            raise ValueError(f"config.json: {name} is missing; expected is {expected}")
        value = config[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise ValueError(f"config.json: {name} = {value!r}; expected is {expected}")
    return config


def named(files: Sequence[str]) -> dict[str, str]:
    """Return files with studies, by their names without folders.

    Args:
        files: that the user named; they are not run yet.

    Raises:
        ValueError: if one is no Python file, or two have one name.
        FileNotFoundError: if there is no such file.
    """
    found: dict[str, str] = {}
    for file in files:
        if not file.endswith(".py"):
            raise ValueError(f"study = {file!r}: allowed are files *.py; the others are known")
        if not pathlib.Path(file).is_file():
            raise FileNotFoundError(f"study = {file!r}: there is no such file")
        if found.setdefault(_name(file), file) != file:
            raise ValueError(f"study = {file!r}: allowed is one file of the name {_name(file)!r}")
    return found


def study_of(config: Mapping[str, Any], files: Mapping[str, str]) -> Study:
    """Return the study of a run.

    Args:
        config: the configuration of the run, checked.
        files: that the user named, by their names.

    Raises:
        ValueError: if the study is a file that the user did not name, or not that of the run.
        FileNotFoundError: if its data are not there.
    """
    source = config["source"]
    if source not in STUDIES:
        name = _name(source)
        if name not in files:
            raise ValueError(
                f"its study is the file {source!r}, which is run only where you name it: "
                f"report --study {name}"
            )
        source = files[name]
    data = config["data"]
    study = load(source, config["seed"], data and pathlib.Path(data), config["events"])
    shapes = {name: list(value.shape) for name, value in study.initial.items()}
    if shapes != config["parameters"]:
        raise ValueError(f"study = {source!r}: its parameters are not those of the run")
    return study


def _name(file: str) -> str:
    return file.replace("\\", "/").rpartition("/")[2]
