"""The study of a run: from the package by name, or from a file that the user names.

The folder of a run has the name of its study, and any user may have written the folder. So the name
is only compared with allowed names, and never imported or executed.
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
"""The entries in the configuration of a run of a study."""


def checked(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of a run of a study.

    Raises:
        ValueError: if an entry is missing or has another type.
    """
    for name, (kinds, expected) in _KINDS.items():
        if name not in config:
            raise ValueError(f"config.json: {name} is missing; expected is {expected}")
        value = config[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise ValueError(f"config.json: {name} = {value!r}; expected is {expected}")
    return config


def named(files: Sequence[str]) -> dict[str, str]:
    """Return files with studies, by name without the folder.

    Args:
        files: the files that the user named; they are not executed here.

    Raises:
        ValueError: if a file is not a Python file, or two files have the same name.
        FileNotFoundError: if a file does not exist.
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
        files: the files that the user named, by name.

    Raises:
        ValueError: if the study is a file that the user did not name, or another study.
        FileNotFoundError: if the data of the study do not exist.
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
