"""An update rule as a program: nodes in phases, for leaves of any shape or of one shape.

:mod:`optstudy_torch.engine.phases` has the phases. :mod:`optstudy_torch.engine.dispatch` runs
programs for leaves of any shape, and :mod:`optstudy_torch.engine.shaped` runs programs for leaves
of one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import torch

from optstudy_core import Algorithm
from optstudy_core.arrays.leaves import Leaves

from .host_numbers import HostNumber
from .phases import Output, Shape, phases_of
from .trace import INPUT, Choice, Tracer


class Program:
    """One algorithm with given static hyperparameters.

    Args:
        algorithm: the update rule.
        static: hyperparameters that are part of the program (booleans, absent terms).
        dynamic: names of the other hyperparameters, which are numbers given at every step.
        inputs: the inputs besides the gradient by name, with whether each is an array.
        fields: the shape of each field of the state, () for a scalar; a field that the leaf does
            not need is missing.
        counts: for each field of the state, whether it is a step count.
        rebuild: a function from a list of fields to a state.
        flatten: a function from a state to a list of fields.
        shape: the shape of the leaf; ``None``: any shape, also of fields that are not scalars.
        dtype: the working dtype, if there is a shape.

    Attributes:
        phases: the phases in order; the last phase makes the state and the step.
        fields: as given.
        new_scalars: the new scalar for each scalar field of the state, by the index of the field.
        new_counts: the new number for each count in the state, by the index of the field.
        kept: scalars that are read after the step: new scalars, and conditions of counts.
        numbers: scalars computed from counts that nodes read, by name.
        reads_params: whether the parameters are read.
        inputs: names of the inputs that are arrays.
        shape: as given.
        dtype: as given.

    Raises:
        NotTraceableError: if the formula branches on the value of a hyperparameter.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        static: dict[str, Any],
        dynamic: Iterable[str],
        inputs: dict[str, bool],
        fields: Mapping[int, Shape],
        counts: list[bool],
        rebuild: Callable[[list[Any]], Any],
        flatten: Callable[[Any], list[Any]],
        shape: Shape = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.shape, self.dtype, self.fields = shape, dtype, fields
        tracer = Tracer(dtype)

        def leaf(name: str, own: Shape) -> Leaves:
            return Leaves([tracer.symbol(name, own)], tracer)

        hyperparameters = dict(static)
        hyperparameters |= {n: HostNumber(n) for n in dynamic}
        hyperparameters |= {
            n: leaf(INPUT + n, shape if is_array else ()) for n, is_array in inputs.items()
        }
        self.inputs = [INPUT + n for n, is_array in inputs.items() if is_array]

        def given(i: int) -> Any:
            if counts[i]:
                return HostNumber(f"s{i}", per_leaf=True)
            return leaf(f"s{i}", fields[i]) if i in fields else Leaves([None], tracer)

        state, step = algorithm.update(
            rebuild([given(i) for i in range(len(counts))]),
            leaf("g", shape),
            leaf("p", shape),
            **hyperparameters,
        )
        new = dict(enumerate(flatten(state)))
        self.new_counts: dict[int, HostNumber | Choice] = {
            i: tracer.choices[x.values[0].name] if isinstance(x, Leaves) else x
            for i, x in ((i, new.pop(i)) for i, is_count in enumerate(counts) if is_count)
        }
        symbols = {i: x.values[0] for i, x in new.items() if x.values[0] is not None}
        for name, own, found in [
            *((f"field {i}", fields[i], s.shape) for i, s in symbols.items()),
            ("step", shape, step.values[0].shape),
        ]:
            if not _fits(found, own):
                raise RuntimeError(
                    f"{algorithm.name}: the {name} has the shape {found}: allowed is what can be "
                    f"broadcast to {own}"
                )
        self.new_scalars = {i: s for i, s in symbols.items() if fields[i] == ()}
        ends = [Output(f"s{i}", s, fields[i]) for i, s in symbols.items() if fields[i] != ()]
        ends = [output for output in ends if output.source.name != output.target]
        ends.append(Output("step", step.values[0], shape))
        choices = [x for x in self.new_counts.values() if isinstance(x, Choice)]
        self.kept = [*self.new_scalars.values(), *chain(*(x.conditions for x in choices))]
        self.phases = phases_of(tracer.nodes, ends, self.kept)
        read = set(chain(*(phase.read() for phase in self.phases)))
        self.reads_params = "p" in read
        used = read | {s.name for s in self.kept}
        self.numbers = {s.name: (x, s) for s, x in tracer.numbers.values() if s.name in used}


def _fits(found: Shape, own: Shape) -> bool:
    """Return whether an array of one shape can be broadcast to another."""
    if found is None or own is None:
        return found in (own, ())
    pairs = zip(found[::-1], own[::-1], strict=False)
    return len(found) <= len(own) and all(n in (1, m) for n, m in pairs)
