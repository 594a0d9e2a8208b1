"""The phases of a program: nodes in the order in which loops over elements run them.

A phase ends where whole values are needed: for a sum over elements, a rearrangement, or a matrix
product. A phase has lines of scalars, stored as one vector for all leaves, and lines of arrays: a
*body* for each shape, which is one loop over the elements.

    phase 0: scalars, bodies; sums, moves, products; phase 1: scalars, …; the new state and the step

An array that is never needed as a whole is not stored: each loop that reads its elements computes
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from .host_numbers import HostNumber
from .trace import Along, Line, Repeat, Sum, Symbol, When, results_of, symbols_of

Shape = tuple[int, ...] | None


class Output(NamedTuple):
    """The target of a value: a field of the state, the step, or memory for a later phase.

    Attributes:
        target: the name of the target.
        source: the value.
        shape: the shape of the target.
    """

    target: str
    source: Symbol
    shape: Shape


@dataclass
class Body:
    """Lines of arrays without a sum between them: the work of one loop for one leaf.

    Attributes:
        lines: the lines, in the order of the formula.
        outputs: results of lines; no output is an input.
        moved: inputs that become another field of the state, or the step, unchanged.
        shape: the shape of the results; ``None``: the shape of the leaf.
        arrays: the arrays that are read, by name.
        scalars: the scalars that are read, by name.
        numbers: the host numbers that are read, by key.
    """

    lines: list[Line]
    outputs: list[Output]
    moved: list[Output] = field(default_factory=list)
    shape: Shape = None
    arrays: dict[str, Symbol] = field(init=False)
    scalars: dict[str, Symbol] = field(init=False)
    numbers: dict[str, HostNumber] = field(init=False)

    def __post_init__(self) -> None:
        made = {line.result.name for line in self.lines}
        read = [a for line in self.lines for a in line.args]
        read += [output.source for output in self.outputs]
        symbols = {a.name: a for a in read if isinstance(a, Symbol) and a.name not in made}
        self.arrays = {name: s for name, s in symbols.items() if s.is_array}
        self.scalars = {name: s for name, s in symbols.items() if not s.is_array}
        self.numbers = {a.key: a for a in read if isinstance(a, HostNumber)}


class Added(NamedTuple):
    """A sum along an axis, with the lines that compute the terms."""

    node: Along
    body: Body


class Branch(NamedTuple):
    """Phases that run for some leaves only."""

    node: When
    phases: list[Phase]


class Cycle(NamedTuple):
    """Phases of a repetition, and the phases of its condition."""

    node: Repeat
    checks: list[Phase]
    phases: list[Phase]


@dataclass
class Phase:
    """Scalars, then bodies, the smallest shape first, then nodes that need whole results.

    Attributes:
        scalars: lines of scalars.
        bodies: the bodies; for leaves of any shape one body, which may be empty.
        barriers: sums, sums along an axis, moves, products, branches and cycles.
        dropped: names of arrays that are not read later.
    """

    scalars: list[Line]
    bodies: list[Body]
    barriers: list[Any]
    dropped: list[str] = field(default_factory=list)

    def read_after_scalars(self) -> set[str]:
        """Return the names of the values that bodies and barriers read."""
        added = [x.body for x in self.barriers if isinstance(x, Added)]
        names = set[str]().union(
            *(chain(x.arrays, x.scalars, (o.source.name for o in x.moved)) for x in self.bodies),
            *(chain(x.arrays, x.scalars) for x in added),
        )
        others = [getattr(x, "node", x) for x in self.barriers if not isinstance(x, Added)]
        return names.union(a.name for x in others for a in symbols_of(x))

    def read(self) -> set[str]:
        """Return the names of all values that the phase reads."""
        return self.read_after_scalars().union(
            a.name for line in self.scalars for a in symbols_of(line)
        )

    @property
    def body(self) -> Body:
        """The body of a program for leaves of any shape."""
        (body,) = self.bodies
        return body

    @property
    def sums(self) -> list[Sum]:
        """The barriers of a program for leaves of any shape."""
        return self.barriers


def phases_of(
    nodes: Sequence[Any], ends: Sequence[Output], kept: Sequence[Symbol] = ()
) -> list[Phase]:
    """Return nodes in phases.

    Args:
        nodes: the nodes in the order of the formula.
        ends: the requested arrays with their targets, all in the last phase.
        kept: other requested values.
    """
    nodes = _needed(nodes, [*(o.source for o in ends), *kept])
    level: dict[str, int] = {}  # of a line, or the first phase after which a value exists
    lines: dict[str, Line] = {}
    barriers: dict[int, list[Any]] = {}
    for node in nodes:
        here = max((level.get(a.name, 0) for a in symbols_of(node)), default=0)
        if isinstance(node, Line):
            lines[node.result.name], level[node.result.name] = node, here
        else:
            barriers.setdefault(here, []).append(node)
            level |= dict.fromkeys((x.name for x in results_of(node)), here + 1)
    last = max(level.values(), default=0)
    stored = _stored(nodes, lines, ends, kept)
    there: set[str] = set()  # arrays in memory

    def body(outputs: Sequence[Output], shape: Shape) -> Body:
        own = _lines_to([o.source for o in outputs], shape, lines, there)
        return Body(own, list(outputs), shape=shape)

    phases = []
    for number in range(last + 1):
        outputs = [
            Output(name, lines[name].result, lines[name].result.shape)
            for name in stored
            if level[name] == number
        ]
        own = {o.target for o in outputs}
        moved: list[Output] = []
        for end in ends if number == last else ():
            name = end.source.name
            computed = not end.source.is_array or (name in lines and name not in own | there)
            (outputs if computed or end.source.shape != end.shape else moved).append(end)
        shapes: dict[Shape, list[Output]] = {}
        for output in outputs:
            shapes.setdefault(output.shape, []).append(output)
        bodies = []
        for shape in sorted(shapes, key=lambda s: math.prod(s or ())):
            bodies.append(body(shapes[shape], shape))
            there |= {o.target for o in shapes[shape]} & own
        if not bodies:
            bodies = [Body([], [])]
        bodies[-1].moved = [*moved, *_apart(bodies, ends)]
        scalars = [x for n, x in lines.items() if not x.result.is_array and level[n] == number]
        after = barriers.get(number, [])
        phases.append(Phase(scalars, bodies, [_barrier(x, body) for x in after]))
        there |= {x.name for node in after for x in results_of(node)}
    _drop(phases, kept)
    return phases


def _apart(bodies: Sequence[Body], ends: Sequence[Output]) -> list[Output]:
    """Return outputs that have to wait, because another body reads the value they overwrite."""
    waiting = []
    for body in bodies:
        read = {name for other in bodies if other is not body for name in other.arrays}
        for i, output in enumerate(body.outputs):
            if output in ends and output.target in read:
                body.outputs[i] = output._replace(target=output.source.name)
                waiting.append(output)
    return waiting


def _barrier(node: Any, body: Callable[..., Body]) -> Any:
    """Return a node with the phases of its inner nodes."""
    if isinstance(node, Along):
        shape = node.args[0].shape
        return Added(node, body([Output("sum", node.args[0], shape)], shape))
    if isinstance(node, When):
        return Branch(node, phases_of(node.nodes, [], node.made))
    if isinstance(node, Repeat):
        checks = phases_of(node.checks, [], [node.goes_on])
        return Cycle(node, checks, phases_of(node.nodes, [], node.made))
    return node


def _stored(
    nodes: Sequence[Any],
    lines: Mapping[str, Line],
    ends: Sequence[Output],
    kept: Sequence[Symbol],
) -> list[str]:
    """Return the names of arrays from lines that must be in memory."""
    found = {x.name for x in kept}
    found |= {o.source.name for o in ends if o.source.shape != o.shape}
    for node in nodes:
        if isinstance(node, Line):
            read = [x for x in symbols_of(node) if x.shape != node.result.shape]
        elif isinstance(node, Along):
            # Terms are computed in the loop of the sum, from arrays of one shape.
            shape = node.args[0].shape
            own = _lines_to(node.args, shape, lines, ())
            other = any(x.is_array and x.shape != shape for x in chain(*map(symbols_of, own)))
            read = list(node.args) if other else []
        else:
            read = symbols_of(node)
        found |= {x.name for x in read}
    return [name for name, line in lines.items() if name in found and line.result.is_array]


def _lines_to(
    wanted: Iterable[Symbol], shape: Shape, lines: Mapping[str, Line], there: Container[str]
) -> list[Line]:
    """Return the lines of one shape that compute values from existing arrays."""
    found: set[str] = set()
    waiting = [x.name for x in wanted]
    while waiting:
        name = waiting.pop()
        line = lines.get(name)
        if line and name not in found and name not in there and line.result.shape == shape:
            found.add(name)
            waiting += [x.name for x in symbols_of(line)]
    return [line for name, line in lines.items() if name in found]


def _needed(nodes: Sequence[Any], wanted: Iterable[Symbol]) -> list[Any]:
    """Return the nodes that compute the requested values."""
    names = {x.name for x in wanted}
    found = []
    for node in reversed(nodes):
        if any(x.name in names for x in results_of(node)):
            found.append(node)
            names |= {x.name for x in symbols_of(node)}
    return found[::-1]


def _drop(phases: Sequence[Phase], kept: Iterable[Symbol]) -> None:
    """Record the last phase that reads each array made here."""
    later = {x.name for x in kept}
    own: set[str] = set()
    for phase in reversed(phases):
        made = {o.target for body in phase.bodies for o in body.outputs}
        made |= {x.name for node in phase.barriers for x in results_of(getattr(node, "node", node))}
        read = phase.read()
        phase.dropped = sorted((read | made) - later)
        later |= read
        own |= made
    for phase in phases:
        last = phase is phases[-1]  # it makes the result
        phase.dropped = [name for name in phase.dropped if name in own and not last]
