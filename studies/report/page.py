"""The page: one HTML file."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from string import Template
from typing import Any

from rich.console import Console

from optstudy_core import __version__
from optstudy_core.records import write_text
from studies import records
from studies.progress import progress

from . import extras
from .runs import OWN, Problem, describe, find, read, verdicts
from .source import named


class Report:
    """A report whose folders were found.

    Args:
        folders: with runs in them or below them.
        out: the file.
        landscapes: compute what takes a model: the loss around the paths, predictions.
        studies: files with the studies of runs; no other file is run.

    Raises:
        FileNotFoundError: if a folder does not exist or holds no run, or a file is not there.
        ValueError: if a study is no Python file, or two have one name.
        NotADirectoryError: if a folder is a file.
        IsADirectoryError: if ``out`` is a folder.
    """

    def __init__(
        self,
        folders: Sequence[pathlib.Path],
        out: pathlib.Path,
        *,
        landscapes: bool = True,
        studies: Sequence[str] = (),
    ) -> None:
        if out.is_dir():
            raise IsADirectoryError(f"out = {str(out)!r}: is a folder; allowed are files")
        self._files = named(studies)
        self._folders = find(folders)
        self._out = out
        self._landscapes = landscapes

    def carry_out(self, console: Console) -> pathlib.Path:
        """Read the runs and write the page; return its file."""
        runs, problems = read(self._folders)
        described = describe(runs)
        if self._landscapes:
            with progress(console, "the loss around the paths", len(runs)) as tick:
                for run, entry in zip(runs, described, strict=True):
                    entry |= _extras(run, self._files, problems)
                    tick()
        for problem in problems:
            console.print(f"{problem.place}: {problem.what}", soft_wrap=True, highlight=False)
        data = {
            "version": __version__,
            "own": OWN,
            "runs": described,
            "problems": [asdict(problem) for problem in problems],
            "verdicts": verdicts(self._folders),
        }
        write_text(self._out, page(data))
        console.print(f"Report of {len(runs)} runs: {self._out}", soft_wrap=True, highlight=False)
        return self._out


def _extras(run: records.Run, files: Mapping[str, str], problems: list[Problem]) -> dict[str, Any]:
    if run.parameters is None:
        return {}
    try:
        made = extras.of(run, files)
    except (OSError, ValueError, KeyError) as error:
        problems.append(Problem(str(run.folder), f"without the loss around the path: {error}"))
        return {}
    return {} if made is None else made.page()


def page(data: dict[str, Any]) -> str:
    """Return the HTML of a report's data."""
    from plotly.offline import get_plotlyjs

    own = files(__package__)
    text = json.dumps(records.encode(data), ensure_ascii=False, separators=(",", ":"))
    return Template((own / "page.html").read_text(encoding="utf-8")).substitute(
        style=(own / "page.css").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        data=text.replace("<", "\\u003c"),  # no name ends the script, or begins a comment
        script=(own / "page.js").read_text(encoding="utf-8"),
    )
