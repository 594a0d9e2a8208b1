"""The parameters of a group as flat arrays, which are kept from step to step.

A call of a library function costs as much as some thousand elements. So small leaves are
concatenated to a *unit* and computed as one array: their gradients are copied together, the step is
added to each, and their states are parts of one vector (``state[p]["m"]`` is a view). A large leaf
is a separate unit, computed in place. The scalars of all leaves are one vector.

A kernel gets the addresses of all leaves. Then every leaf is a separate unit in its own memory (a
*direct* stage).

A stage is valid while parameters and states stay at their addresses. After a change (loading a
state, moving a model) the next step makes a new stage.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .addresses import Addresses
from .arguments import Arguments
from .host_numbers import HostNumber
from .joined_sums import Joint, Share
from .kernels import Kernels
from .program import Program
from .scalars import Scalars, number_of
from .threads import BLOCK, HOST, in_threads
from .trace import INPUT, Choice, Sum, Symbol, count_of
from .units import Room, Unit, add, flat, is_flat, like_memory, memory_order, rounded_in, unflat

_SHARED = BLOCK // 4
"""Elements of the largest leaf that shares a unit; a larger leaf costs less without a copy."""

_UNIT = 1 << 20
"""Elements of the largest unit of several leaves."""

_SCRATCH = 1 << 20
"""Elements of small leaves with gradients and steps in memory at the same time."""


class Stage:
    """Parameters of one working dtype on one device, with their states.

    Args:
        params: the parameters, which have gradients.
        states: the states of the optimizer. Fields that share a unit, and scalars, are replaced by
            views of one array.
        names: the names of the fields.
        full: for each field, whether it is an array like the parameter.
        counts: for each field, whether it is a step count, which stays on the host.
        dtype: the working dtype.
        program: the program to run.
        kernels: kernels that run the program on all leaves in place; without kernels, operations
            run one after another.
        start: a function that makes the state of a parameter without one. It is called unit by
            unit, so that the states are not in memory twice.
        joints: the distributions of sharded parameters over processes.

    Attributes:
        scalars: vectors with a number for each leaf, by name.
        arguments: arguments of kernels that are kept on the device.
        chunks: units that are loaded together.
    """

    def __init__(
        self,
        params: Sequence[torch.Tensor],
        states: Sequence[dict[str, torch.Tensor]],
        names: Sequence[str],
        full: Sequence[bool],
        counts: Sequence[bool],
        dtype: torch.dtype,
        program: Program,
        kernels: Kernels | None,
        start: Callable[[torch.Tensor], dict[str, torch.Tensor]],
        joints: Mapping[torch.Tensor, Joint],
    ) -> None:
        self.dtype, self.device = dtype, params[0].device
        self.on_host = self.device.type == HOST
        self.kernels, self.direct = kernels, kernels is not None
        self._any_dtype = kernels is not None and kernels.any_dtype
        self.arguments = Arguments(self.device, len(params))
        self._reads_params = program.reads_params
        self._inputs = program.inputs
        # Sort leaves by dtype, so that they can share units.
        order = sorted(range(len(params)), key=lambda i: str(params[i].dtype))
        self.params = [params[i] for i in order]
        self.states = [states[i] for i in order]
        self._joints = [joints.get(p) for p in self.params]
        self.count = len(params)
        self._arrays = {f"s{i}": name for i, name in enumerate(names) if full[i]}
        self.scalars = Scalars(self.count, dtype, self.device, self.on_host)
        limit = BLOCK if self.on_host else _UNIT
        self._units = [self._unit(*where, start) for where in self._runs(limit)]
        self._vectors: list[torch.Tensor] = []
        self._counts = {f"s{i}": self._stacked(n, True) for i, n in enumerate(names) if counts[i]}
        self._fields = {
            f"s{i}": self._stacked(name)
            for i, name in enumerate(names)
            if not (full[i] or counts[i])
        }
        self._numbers = program.numbers
        self._host: dict[str, Any] = {}
        self.chunks = self._chunks(whole=self._any_dtype or len(program.phases) > 1)
        self._most = max(sum(u.size for u in own if not u.in_place) for own in self.chunks)
        self._most_units = max(map(len, self.chunks))
        # Gradient, step, and memory for its rounding; other inputs, and moved inputs.
        self._each = 3 + program.reads_params + len(program.inputs)
        self._each += max(len(body.moved) for phase in program.phases for body in phase.bodies)
        self._room: Room | None = None
        own = [s[n] for s in self.states for n in self._arrays.values()]
        self._addresses = Addresses(self.params, self.states, [*own, *self._vectors])

    # Units.

    def _runs(self, limit: int) -> Iterator[tuple[int, int]]:
        """Yield the begin and end of units; small neighbours of one dtype share a unit."""
        begin = total = 0
        for i, p in enumerate(self.params):
            size = p.numel()
            joins = (
                not self.direct
                and begin < i
                and not (p.is_neg() or self.params[begin].is_neg())  # torch refuses them
                and size <= _SHARED
                and total + size <= limit
                and self.params[begin].numel() <= _SHARED
                and self.params[begin].dtype == p.dtype
            )
            if begin < i and not joins:
                yield begin, i
                begin, total = i, 0
            total += size
        yield begin, self.count

    def _unit(
        self, begin: int, end: int, start: Callable[[torch.Tensor], dict[str, torch.Tensor]]
    ) -> Unit:
        params = self.params[begin:end]
        sizes = [p.numel() for p in params]
        for p, state in zip(params, self.states[begin:end], strict=True):
            if not state:
                state.update(start(p))
            for name, x in state.items():  # the dtype of the model may have changed
                if x.dtype != self.dtype and x.is_floating_point():
                    state[name] = x.to(self.dtype)
        if len(params) == 1:
            (p,), order = params, memory_order(params[0])
            states = {}
            for name, own in self._arrays.items():
                x = self.states[begin][own]
                if not is_flat(x, order):
                    x = self.states[begin][own] = like_memory(x, p)
                states[name] = flat(x, order)
            in_place = (self._any_dtype or p.dtype == self.dtype) and is_flat(p, order)
            if in_place and self.direct:
                states["p"] = flat(p.detach(), order)
            arrays = dict(states) if self.direct else {}
            return Unit(begin, params, sizes, states, order, in_place, arrays)
        states = {}
        for name, own in self._arrays.items():
            old = [self.states[i][own] for i in range(begin, end)]
            states[name] = torch.cat([x.reshape(-1) for x in old])
            for i, x in enumerate(_shaped(states[name], params, sizes), begin):
                self.states[i][own] = x
        return Unit(begin, params, sizes, states)

    def _stacked(self, name: str, counts: bool = False) -> Any:
        """Replace 0-d tensors of the leaves by views of one vector; return the vector."""
        old = [state[name].reshape(()) for state in self.states]
        if counts:
            old = [x.to("cpu", torch.int32) for x in old]
        vector = torch.stack(old)
        for state, x in zip(self.states, vector.unbind(), strict=True):
            state[name] = x
        self._vectors.append(vector)
        return vector.numpy() if counts or self.on_host else vector

    def _chunks(self, whole: bool) -> list[list[Unit]]:
        """Return groups of units that are loaded together: all, or as many as the memory holds.

        Units that are computed in place come first.
        """
        chunks = [[unit for unit in self._units if unit.in_place]]
        begins: list[tuple[Unit, int]] = []
        used = shared = needed = 0
        for unit in self._units:
            if unit.in_place:
                continue
            if used and not whole and used + unit.size > _SCRATCH:
                chunks.append([])
                used = shared = 0
            chunks[-1].append(unit)
            used += unit.size
            if len(unit.params) > 1:
                begins.append((unit, shared))
                shared += unit.size
                needed = max(needed, shared)
        if begins:
            for name in ("g", "step", *["p"] * self._reads_params, *self._inputs):
                scratch = torch.empty(needed, dtype=self.dtype, device=self.device)
                for unit, begin in begins:
                    # Not a torch view, because torch would compile a kernel for each kind of base.
                    part = scratch[begin : begin + unit.size].data
                    unit.arrays[name] = part
                    unit.views[name] = _shaped(part, unit.params, unit.sizes)
        return chunks

    def holds(self) -> bool:
        """Return whether parameters and state tensors are still at the same addresses."""
        return self._addresses.hold()

    # A step.

    def begin(self, hyperparameters: dict[str, float], inputs: Mapping[str, torch.Tensor]) -> None:
        """Read the scalars of states and inputs, and compute scalars from counts."""
        self.scalars.clear()
        self.scalars.update(self._fields)
        if len(self.chunks) > 1:
            length = Room.length(self._most, self._each, self.dtype)
            length += Room.length(1, self._most_units * self._each, self.dtype)
            self._room = Room(length, self.device)
        for name, value in inputs.items():
            self.scalars[INPUT + name] = self.scalars.spread(value.to(self.dtype))
        self._host = hyperparameters | {name: number_of(t) for name, t in self._counts.items()}
        with np.errstate(all="ignore"):
            for name, (number, symbol) in self._numbers.items():
                value = number.value(self._host)
                vector = self.scalars.truths if symbol.is_truth else self.scalars.spread
                self.scalars[name] = vector(value)

    def empty(self, size: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return memory for a number of elements, of the working dtype by default.

        Each chunk reuses the memory of the previous chunk, so nothing is allocated after the first
        write to parameters.
        """
        if self._room is not None:
            return self._room(size, dtype or self.dtype)
        return torch.empty(size, dtype=dtype or self.dtype, device=self.device)

    def end(
        self, new: dict[int, Symbol], counts: dict[int, HostNumber | Choice]
    ) -> Callable[[], None]:
        """Return a function that writes the new scalars and counts to the states."""
        kept = {f"s{i}": count_of(number, self._host, self.scalars) for i, number in counts.items()}
        values = {f"s{i}": self.scalars[symbol.name] for i, symbol in new.items()}
        moved = {n: x for n, x in values.items() if x is not self._fields[n]}
        olds = {id(x) for x in self._fields.values()}
        for name, value in moved.items():
            if id(value) in olds:  # a field that becomes another field
                moved[name] = value.copy() if self.on_host else value.clone()

        def write() -> None:
            for name, count in kept.items():
                self._counts[name][...] = count
            for name, value in moved.items():
                self._fields[name][...] = value
            self.scalars.clear()
            self._room = None

        return write

    def load(
        self,
        units: Sequence[Unit],
        inputs: Mapping[str, Mapping[Any, torch.Tensor]],
        step_dtype: str | None,
    ) -> None:
        """Write parameters, gradients, other inputs and states to the arrays of units."""
        torch.autograd.graph.increment_version([u.params[0] for u in units if u.in_place])
        if self._room is not None:
            self._room.clear()
        for unit in units:
            if not self.direct:
                unit.arrays |= unit.states
            if not unit.views:
                (p,) = unit.params
                unit.arrays["g"] = self._taken(p.grad, unit)
                if "p" not in unit.states and (unit.in_place or self._reads_params):
                    unit.arrays["p"] = self._taken(p, unit)
                for name in self._inputs:
                    unit.arrays[name] = self._taken(inputs[name.removeprefix(INPUT)][p], unit)
                if not unit.in_place:
                    unit.arrays["step"] = self.empty(unit.size)
        self._make_room(units, step_dtype)
        self._together(functools.partial(self._gather, inputs=inputs), units)

    def _make_room(self, units: Sequence[Unit], step_dtype: str | None) -> None:
        """Allocate memory for values that are rounded to the dtypes of parameters."""
        kinds: dict[torch.dtype, list[Unit]] = {}
        for unit in units:
            dtype = unit.params[0].dtype
            if dtype != self.dtype and not unit.in_place:
                kinds.setdefault(dtype, []).append(unit)
        for own in kinds.values():
            dtype = rounded_in(own[0].params[0], self.dtype, step_dtype)
            sizes = [unit.size for unit in own]
            for unit, room in zip(own, self.empty(sum(sizes), dtype).split(sizes), strict=True):
                unit.room = room

    def _taken(self, x: torch.Tensor | None, unit: Unit) -> torch.Tensor:
        """Return the argument of the machine for a tensor of a leaf."""
        assert x is not None
        dtype = x.dtype if self._any_dtype else self.dtype
        # A kernel only uses the address, so the shape does not matter.
        plain = self.direct and unit.is_plain and x.is_contiguous() and not x.is_neg()
        if x.dtype == dtype:
            if plain:
                return x
            if is_flat(x, unit.order):
                return flat(x.detach(), unit.order)
        if self._room is None:
            return (x.detach() if plain else flat(x.detach(), unit.order)).to(dtype)
        own = self.empty(unit.size, dtype)
        # torch loses the sign when it copies a negative view from float16 to float32.
        unflat(own, x, unit.order).copy_(x.resolve_neg())
        return own

    def _gather(
        self, units: Iterable[Unit], inputs: Mapping[str, Mapping[Any, torch.Tensor]]
    ) -> None:
        for unit in units:
            for name in self._inputs:
                given = inputs[name.removeprefix(INPUT)]
                torch._foreach_copy_(unit.views[name], [given[p] for p in unit.params])
            grads = [p.grad for p in unit.params if p.grad is not None]
            torch._foreach_copy_(unit.views["g"], grads)
            if self._reads_params:
                torch._foreach_copy_(unit.views["p"], unit.params)

    def store(self, units: Sequence[Unit], step_dtype: str | None) -> None:
        """Add the steps of units to the parameters, and release memory."""
        for unit in units:
            if not unit.in_place and unit.is_one:
                (p,) = unit.params
                room = None if unit.room is None else unflat(unit.room, p, unit.order)
                add(p, unflat(unit.arrays["step"], p, unit.order), step_dtype, room)
        self._together(functools.partial(self._scatter, step_dtype=step_dtype), units)
        for unit in units:
            unit.room = None
            kept = unit.states if self.direct else unit.views
            for name in unit.arrays.keys() - kept.keys():
                del unit.arrays[name]

    def _scatter(self, units: Iterable[Unit], step_dtype: str | None) -> None:
        for unit in units:
            params = unit.params
            if unit.room is None:
                torch._foreach_add_(params, unit.views["step"])
            elif step_dtype is None:
                step = unit.room.copy_(unit.arrays["step"])
                torch._foreach_add_(params, _shaped(step, params, unit.sizes))
            else:
                rooms = _shaped(unit.room, params, unit.sizes)
                for p, step, room in zip(params, unit.views["step"], rooms, strict=True):
                    add(p, step, step_dtype, room)

    def _together(self, function: Callable[[Sequence[Unit]], None], units: Sequence[Unit]) -> None:
        """Call a function with the units of several leaves."""
        if self.direct:
            return
        shared = [unit for unit in units if not unit.is_one]
        threads = 1 + sum(unit.size for unit in shared) // (2 * BLOCK) if self.on_host else 1
        in_threads(function, shared, threads)

    def vectors(self, sums: Sum) -> Iterator[list[Any]]:
        """Yield, for each leaf, the vectors of the sum."""
        for unit in self._units:
            columns = [
                self._shares(unit, unit.parts(a.name))
                if a.is_array
                else [
                    torch.as_tensor(x, device=self.device)
                    for x in self.scalars[a.name][unit.leaves, None]
                ]
                for a in sums.args
            ]
            yield from map(list, zip(*columns, strict=True))

    def _shares(self, unit: Unit, parts: Sequence[torch.Tensor]) -> list[Any]:
        pairs = zip(parts, self._joints[unit.leaves], strict=True)
        return [x if joint is None else Share(x, joint) for x, joint in pairs]


def _shaped(
    x: torch.Tensor, params: Sequence[torch.Tensor], sizes: Sequence[int]
) -> list[torch.Tensor]:
    """Return parts of a vector with the shapes of parameters."""
    return [part.view(p.shape) for part, p in zip(x.split(list(sizes)), params, strict=True)]
