"""The output of a recorder, the same for every framework: a run or lists, and sinks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

from ._sinks import Sink, sink_of
from .run import Run


class Watch(Protocol):
    """The interface of rules over rows; see ``optstudy_core.instruments.Alerts``."""

    def look(self, row: dict[str, Any]) -> dict[str, Any]: ...

    def call(self) -> None: ...

    def saved(self) -> list[Any]: ...

    def load(self, saved: Sequence[Any]) -> None: ...


class Output:
    """The output of a recorder: a run or lists, and sinks.

    Args:
        run: a :class:`Run`, or a folder with a run to create or resume; ``None``: keep the rows in
            ``epochs`` and ``steps``. A run takes the rows of one recorder.
        sinks: objects that receive each row after the run; see :func:`sink_of`. Sinks with a method
            ``close`` are closed with the recorder.
        config: the options of the recorder, JSON values by name (no arrays), for a new run.
        alerts: rules over rows, which may add entries to a row.
        writes: whether this process writes; only one of several does.

    Attributes:
        epochs: rows of epochs, if there is no run.
        steps: rows of steps, if there is no run.

    Raises:
        TypeError, ValueError: if a sink is not allowed, or another recorder writes to the run.
    """

    def __init__(
        self,
        run: Any,
        sinks: Iterable[Any],
        config: Mapping[str, Any],
        *,
        alerts: Watch | None = None,
        writes: bool,
    ) -> None:
        if isinstance(sinks, str) or not isinstance(sinks, Iterable):
            raise TypeError(f"sinks = {sinks!r}: allowed are lists of sinks")
        self.epochs: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self._alerts = alerts
        self._run: Any = run
        self._is_own = isinstance(run, str | os.PathLike)
        self._sinks: list[Sink] = []
        if self._is_own:
            made = {"recorder": dict(config)}
            self._run = Run.create_or_resume(run, made) if writes else _Elsewhere()
        try:
            if self._run is not None:
                self._run.attach(self)
            if writes:
                known = getattr(self._run, "config", None) or {"recorder": dict(config)}
                for sink in sinks:
                    self._sinks.append(sink_of(sink, known))
        except BaseException:
            self.close()
            raise

    def epoch(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the row of an epoch.

        Args:
            row: numbers by name, with ``epoch``.

        Returns:
            the row, with the alerts that went off.
        """
        row = self._looked_at(row)
        if self._run is None:
            self.epochs.append(row)
        else:
            self._run.epoch(row["epoch"], row)
        self._hand_on([row])
        return row

    def add_steps(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows of steps.

        Args:
            rows: as of :meth:`epoch`, each with ``step`` as well.
        """
        rows = [self._looked_at(row) for row in rows]
        if self._run is None:
            self.steps += rows
        else:
            self._run.steps([(row["step"], row) for row in rows])
        self._hand_on(rows)

    def _looked_at(self, row: dict[str, Any]) -> dict[str, Any]:
        return row if self._alerts is None else self._alerts.look(row)

    def _hand_on(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            for sink in self._sinks:
                sink(row)
        if self._alerts is not None:
            self._alerts.call()

    def saved(self) -> dict[str, Any]:
        """Return the state that a resumed recorder needs."""
        alerts = [] if self._alerts is None else self._alerts.saved()
        return {"epochs": list(self.epochs), "steps": list(self.steps), "alerts": alerts}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Load a state from :meth:`saved`.

        Args:
            saved: a dictionary with two lists of rows, which hold numbers by name.
        """
        self.epochs, self.steps = list(saved["epochs"]), list(saved["steps"])
        if self._alerts is not None:
            self._alerts.load(saved.get("alerts", []))

    def close(self) -> None:
        """Close the sinks, and the run if it was opened here; else let another recorder write."""
        for sink in self._sinks:
            if hasattr(sink, "close"):
                sink.close()
        if self._run is not None:
            self._run.detach(self)
        if self._is_own:
            self._run.close()
            self._is_own = False


class Recording:
    """The base class of recorders, with an :class:`Output` for the rows."""

    _output: Output

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The rows of the epochs, if there is no run."""
        return self._output.epochs

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The rows of the steps up to the last ``flush``, if there is no run."""
        return self._output.steps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Write pending rows, and end the recording."""
        raise NotImplementedError


class _Elsewhere:
    """A run that another process writes."""

    def epoch(self, number: int, row: Any) -> None: ...

    def steps(self, rows: Any) -> None: ...

    def attach(self, recorder: object) -> None: ...

    def detach(self, recorder: object) -> None: ...

    def close(self) -> None: ...
