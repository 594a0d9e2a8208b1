"""Bodies of programs computed by operations of torch, one after another, on any device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from . import rounding
from .host_numbers import HostNumber
from .phases import Body
from .source import rows
from .stages import Stage
from .trace import Line, Symbol
from .units import Unit


class Operations:
    """A body as a function of operations of torch, for flat arrays."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._functions = {in_place: self._function(in_place) for in_place in (False, True)}

    def __call__(
        self, stage: Stage, units: Iterable[Unit], numbers: Sequence[float]
    ) -> Callable[[], None]:
        """Return a function that runs the body on some of the units."""

        def run() -> None:
            for unit in units:
                memory = (unit.arrays[name] for name in rows(self._body, unit.in_place))
                row = stage.scalars.row(unit, self._body.scalars, numbers)
                self._functions[unit.in_place](*memory, row)

        return run

    def _function(self, in_place: bool) -> Callable[..., None]:
        body = self._body
        # Results have separate names, because memory may have the name of its value.
        names = {line.result.name: f"_{line.result.name}" for line in body.lines}
        numbers = {key: f"h{i}" for i, key in enumerate(body.numbers)}
        needed = last_reads(body.lines)
        needed |= {o.source.name: len(body.lines) for o in body.outputs}

        def shown(argument: Any) -> str:
            if isinstance(argument, Symbol):
                return names.get(argument.name, argument.name)
            return numbers[argument.key] if isinstance(argument, HostNumber) else repr(argument)

        truths = {name for name, symbol in body.scalars.items() if symbol.is_truth}
        lines = [
            f"{name} = c[{i}]" + (" != 0" if name in truths else "")
            for i, name in enumerate([*body.scalars, *numbers.values()])
        ]
        for i, line in enumerate(body.lines):
            args = ", ".join(map(shown, line.args))
            lines.append(f"{shown(line.result)} = apply({line.operation!r}, {args})")
            read = dict.fromkeys(a.name for a in line.args if isinstance(a, Symbol))
            lines += [f"del {names[n]}" for n in read if n in names and needed[n] == i]
        for target, source, _ in body.outputs:
            if target != "step":
                lines.append(f"{target}.copy_({shown(source)})")
            else:
                lines.append(f"{'p.add_' if in_place else 'step.copy_'}({shown(source)})")
        arguments = ", ".join([*rows(body, in_place), "c"])
        return function_of(f"body({arguments})", lines, {"apply": rounding.apply})


def last_reads(lines: Sequence[Line]) -> dict[str, int]:
    """Return the number of the last line that reads each symbol, by name."""
    return {a.name: i for i, x in enumerate(lines) for a in x.args if isinstance(a, Symbol)}


def function_of(signature: str, lines: Sequence[str], names: Mapping[str, Any]) -> Any:
    """Return the function with these lines and global names."""
    text = "\n    ".join([f"def {signature}:", *lines, "pass"])
    scope = dict(names) | {"inf": math.inf, "nan": math.nan}
    exec(compile(text, f"<optstudy {signature}>", "exec"), scope)
    return scope[signature.partition("(")[0]]
