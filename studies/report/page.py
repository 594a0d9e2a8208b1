"""The HTML file of a report."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from string import Template
from typing import Any, Final

from rich.console import Console

from optstudy_core import __version__
from optstudy_core.records import write_text
from studies import records
from studies.progress import progress

from . import extras
from .kept import Kept
from .pictures import thinned
from .runs import OWN, Problem, entry_of, find, read, verdicts, with_names
from .source import named


class Report:
    """A report with checked arguments.

    Args:
        folders: folders with runs, at any depth.
        out: the file to write.
        landscapes: whether to compute the loss around the paths, and predictions.
        studies: files with the studies of runs; no other file is executed.

    Raises:
        FileNotFoundError: if a folder or file does not exist, or a folder has no run.
        ValueError: if a study is not a Python file, or two studies have the same name.
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
        """Read the runs and write the page; return the file."""
        found = self._read(console)
        runs = [part for part in found if part.entry is not None]
        texts = thinned([(part.entry or {})["pictures"] for part in runs])
        problems = [problem for part in found for problem in part.problems]
        for problem in problems:
            console.print(f"{problem.place}: {problem.what}", soft_wrap=True, highlight=False)
        data = {
            "version": __version__,
            "own": OWN,
            "runs": with_names(
                runs,
                [
                    {**(part.entry or {}), "pictures": text}
                    for part, text in zip(runs, texts, strict=True)
                ],
            ),
            "problems": [asdict(problem) for problem in problems],
            "verdicts": verdicts(self._folders),
        }
        write_text(self._out, page(data))
        console.print(
            f"Report of {len(runs)} {'run' if len(runs) == 1 else 'runs'}: {self._out}",
            soft_wrap=True,
            highlight=False,
        )
        return self._out

    def _read(self, console: Console) -> list[_Read]:
        """Read the runs; take those that have not changed since the last report from the cache."""
        kept = Kept(self._out, [self._landscapes, self._stamps()])
        found = []
        with progress(console, "the runs", len(self._folders)) as tick:
            for folder in self._folders:
                old = kept.get(folder)
                part = self._fresh(folder) if old is None else _Read.of(folder, old)
                if part.entry is not None:
                    kept.put(folder, part.kept())
                found.append(part)
                tick()
        kept.write()
        return found

    def _fresh(self, folder: pathlib.Path) -> _Read:
        runs, problems = read([folder])
        if not runs:
            return _Read(folder, {}, None, problems)
        entry = entry_of(runs[0])
        if self._landscapes:
            entry |= _extras(runs[0], self._files, problems)
        return _Read(folder, runs[0].config, entry, problems)

    def _stamps(self) -> list[Any]:
        files = sorted(self._files.values())
        return [[file, pathlib.Path(file).stat().st_mtime_ns] for file in files]


@dataclass(frozen=True)
class _Read:
    """The contents of a folder; ``entry``: its data for the page, without the label."""

    folder: pathlib.Path
    config: dict[str, Any]
    entry: dict[str, Any] | None
    problems: list[Problem]

    def kept(self) -> dict[str, Any]:
        problems = [asdict(problem) for problem in self.problems]
        return {"config": self.config, "entry": self.entry, "problems": problems}

    @classmethod
    def of(cls, folder: pathlib.Path, kept: Mapping[str, Any]) -> _Read:
        problems = [Problem(**problem) for problem in kept["problems"]]
        return cls(folder, kept["config"], kept["entry"], problems)


def _extras(run: records.Run, files: Mapping[str, str], problems: list[Problem]) -> dict[str, Any]:
    if run.parameters is None:
        return {}
    try:
        made = extras.of(run, files)
    except (OSError, ValueError, KeyError) as error:
        problems.append(Problem(str(run.folder), f"without the loss around the path: {error}"))
        return {}
    return {} if made is None else made.page()


_SCRIPTS: Final = ("page.js", "charts.js", "one_run.js", "pictures.js", "pair.js", "begin.js")


def page(data: dict[str, Any]) -> str:
    """Return the HTML for the data of a report."""
    from plotly.offline import get_plotlyjs

    own = files(__package__)
    text = json.dumps(records.encode(data), ensure_ascii=False, separators=(",", ":"))
    return Template((own / "page.html").read_text(encoding="utf-8")).substitute(
        style=(own / "page.css").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        data=text.replace("<", "\\u003c"),  # names cannot end the script or begin a comment
        script="\n".join((own / name).read_text(encoding="utf-8") for name in _SCRIPTS),
    )
