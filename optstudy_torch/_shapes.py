"""Rules that depend on the shape of a leaf: programs of a shape, or the function as written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from optstudy_core.arrays.leaves import Leaves

from ._plans import Inputs, Plan
from ._states import WORKING_DTYPE, flatten, in_double, owned, tensor_of
from .engine.eager import EAGER
from .engine.exact_sums import sum_of
from .engine.scalars import number_of
from .engine.shaped import Execution, Whole
from .engine.threaded_numpy import THREADED
from .engine.threads import HOST
from .engine.trace import INPUT, count_of
from .engine.units import add, rooms_for

_FEW = 1 << 13
"""Elements that NumPy computes in less time than a call of a loop; a call counts as elements."""

_CALL = 1 << 10


class Step:
    """A step of the parameters of a group: computed first, then written.

    Args:
        params: parameters with gradients.
        states: the state of each parameter.
        group: the group of the parameters.
        plan: the plan of the group.
        inputs: inputs of the algorithm besides the gradients.
    """

    def __init__(
        self,
        params: list[Any],
        states: Mapping[Any, dict[str, Any]],
        group: dict[str, Any],
        plan: Plan,
        inputs: Inputs,
    ) -> None:
        self._step_dtype = group["step_dtype"]
        adds = _are_apart(params)
        self._parts: list[_Part] = []
        rest = []
        alike = _alike(params)
        together = plan.algorithm.has_global_sums and any(_wanted(x, group) for x in alike)
        for own in alike:
            wanted = (together or _wanted(own, group)) and own[0].ndim and own[0].numel()
            kernels = plan.of_shape(own[0], group["compile"]) if wanted else None
            if kernels is None:
                rest += own
            else:
                self._parts.append(_Part(own, states, group, plan, inputs, kernels, adds))
        if rest and together:  # the rule has sums over all leaves
            rest, self._parts = params, []
        self._rest = AsWritten(rest, states, group, plan, inputs) if rest else None

    def compute(self) -> None:
        """Compute everything that does not write."""
        found: list[Any] = [None] * len(self._parts)
        running = [part.execution.run() for part in self._parts]
        while running:
            asked = [own.send(value) for own, value in zip(running, found, strict=True)]
            if not asked[0]:
                break
            values = [_sum(row) for row in zip(*asked, strict=True)]
            found = [values] * len(running)
        self._running = running
        if self._rest:
            self._rest.compute()

    def write(self) -> None:
        """Write the new states and parameters."""
        for own in self._running:
            for _ in own:
                raise AssertionError("a sum while states are written")
        for part in self._parts:
            part.write()
        if self._rest:
            self._rest.write()


def _sum(parts: Sequence[Whole]) -> Any:
    """Return a sum over all leaves."""
    columns = zip(*(part.vectors for part in parts), strict=True)
    vectors = [[torch.as_tensor(x) for vector in column for x in vector] for column in columns]
    return sum_of(parts[0].node.function, vectors)


def _alike(params: Sequence[Any]) -> list[list[Any]]:
    """Return parameters by their shape, working dtype and device."""
    found: dict[Any, list[Any]] = {}
    for p in params:
        found.setdefault((p.shape, WORKING_DTYPE[p.dtype], p.device), []).append(p)
    return list(found.values())


def _wanted(params: Sequence[Any], group: dict[str, Any]) -> bool:
    """Return whether a program saves time for parameters of one shape."""
    size, compiled = params[0].numel(), group["compile"]
    if compiled is False:
        return False
    if compiled is None and params[0].device.type == HOST:
        return len(params) * (size + _CALL) >= _FEW
    return True


class _Part:
    """Parameters of one shape, working dtype and device, and the program that advances them."""

    def __init__(
        self,
        params: Sequence[Any],
        states: Mapping[Any, dict[str, Any]],
        group: dict[str, Any],
        plan: Plan,
        inputs: Inputs,
        kernels: Any,
        adds: bool,
    ) -> None:
        self._params = params
        self._states = [states[p] for p in params]
        self._program = program = kernels.program
        self._names = plan.layout.names
        dtype, shape = program.dtype, tuple(params[0].shape)
        self._adds = adds and all(p.dtype == dtype and _is_flat(p) for p in params)
        self._step_dtype = group["step_dtype"]
        self._rooms = rooms_for(params, dtype, self._step_dtype)

        memory = kernels.memory
        grads = [p.grad for p in params]
        values = {"p": memory.given(params, shape), "g": memory.given(grads, shape)}
        scalars: dict[str, Any] = {}
        known = dict(plan.numbers)
        for name, tensors in inputs.tensors.items():
            values[INPUT + name] = memory.given([tensors[p] for p in params], shape)
        for name, value in inputs.scalars.items():
            scalars[INPUT + name] = memory.given([value] * len(params), ())
        for i, name in enumerate(self._names):
            own: list[Any] = [state.get(name) for state in self._states]
            if plan.layout.counts[i]:
                known[f"s{i}"] = number_of(np.array([int(x) for x in own], np.int32))
            elif program.fields.get(i) == ():
                scalars[f"s{i}"] = memory.given(own, ())
            elif i in program.fields:
                self._lay(name)
                own = [state[name] for state in self._states]
                values[f"s{i}"] = memory.given(own, program.fields[i] or ())
        self.execution = Execution(
            program, kernels, known, len(params), values, scalars, self._adds
        )

    def _lay(self, name: str) -> None:
        """Store a field of each state without gaps, in the working dtype."""
        for state in self._states:
            x = state[name]
            if x.dtype != self._program.dtype or not _is_flat(x):
                own = x.resolve_neg().to(self._program.dtype)
                state[name] = own.clone(memory_format=torch.contiguous_format)

    def write(self) -> None:
        """Write scalars and counts, and add steps that are not added yet."""
        made = self.execution
        for i, number in self._program.new_counts.items():
            counts = np.empty(len(self._params), np.int32)
            counts[...] = count_of(number, made.hyperparameters, made.scalars)
            self._put(i, torch.from_numpy(counts))
        for i, symbol in self._program.new_scalars.items():
            self._put(i, torch.as_tensor(made.vector(symbol)).clone())
        if self._adds:
            torch.autograd.graph.increment_version(self._params)
            return
        for p, step, room in zip(self._params, made.values["step"], self._rooms, strict=True):
            add(p, torch.as_tensor(step), self._step_dtype, room)

    def _put(self, i: int, vector: torch.Tensor) -> None:
        """Write a scalar of each state."""
        for state, x in zip(self._states, vector.unbind(), strict=True):
            state[self._names[i]] = x


def _is_flat(x: torch.Tensor) -> bool:
    return x.is_contiguous() and not x.is_neg()


def _are_apart(params: Sequence[torch.Tensor]) -> bool:
    """Return whether a step may be written before other steps are computed.

    This is allowed if no parameter shares memory with another parameter or a gradient.
    """
    if len({p.device for p in params}) > 1:
        return False
    own = [p for p in params if p.numel()]
    order = sorted(own, key=torch.Tensor.data_ptr)
    begins = np.array([p.data_ptr() for p in order], np.uint64)
    ends = np.array([p.data_ptr() + _bytes(p) for p in order], np.uint64)
    if (begins[1:] < ends[:-1]).any():
        return False
    grads = [p.grad for p in own if p.grad is not None]
    starts = np.array([x.data_ptr() for x in grads], np.uint64)
    stops = np.array([x.data_ptr() + _bytes(x) for x in grads], np.uint64)
    first = np.searchsorted(ends, starts, "right")
    return not (np.searchsorted(begins, stops) > first).any()


def _bytes(x: torch.Tensor) -> int:
    """Return the number of bytes that the memory of a tensor spans."""
    steps = sum((n - 1) * abs(s) for n, s in zip(x.shape, x.stride(), strict=True))
    return (steps + 1) * x.element_size()


class AsWritten:
    """The pure function as written, with NumPy on the CPU and operations of torch elsewhere.

    NumPy computes in the memory of the tensors, and a call costs a third of a call of torch.
    """

    def __init__(
        self,
        params: list[Any],
        states: Mapping[Any, dict[str, Any]],
        group: dict[str, Any],
        plan: Plan,
        inputs: Inputs,
    ) -> None:
        self._params, self._states = params, states
        self._group, self._step_dtype = group, group["step_dtype"]
        self._plan, self._inputs = plan, inputs

    def compute(self) -> None:
        """Compute the new states and the steps."""
        params, states, plan = self._params, self._states, self._plan
        layout, leaves, taken = plan.layout, self._leaves, self._taken
        work = [taken(p).to(WORKING_DTYPE[p.dtype]) for p in params]
        theta = leaves(work)
        grad = leaves(taken(p.grad).to(w.dtype) for p, w in zip(params, work, strict=True))
        fields = [leaves(states[p].get(n) for p in params) for n in layout.names]
        for i, is_count in enumerate(layout.counts):
            if is_count:
                counts = (states[p][layout.names[i]] for p in params)
                fields[i] = leaves(map(self._count, counts, params))
        values = self._numbers(grad.backend)
        for name, value in self._inputs.scalars.items():
            values[name] = leaves(taken(value).to(w.device, w.dtype) for w in work)
        for name, tensors in self._inputs.tensors.items():
            values[name] = leaves(
                taken(tensors[p]).to(w.dtype) for p, w in zip(params, work, strict=True)
            )
        values |= dict.fromkeys(plan.algorithm.inputs.keys() - values.keys())
        state, step = plan.algorithm.update(layout.rebuild(fields), grad, theta, **values)
        new = [field.values for field in flatten(state)]
        self._made = []
        for i in range(len(params)):
            keep = owned(theta.values[i], grad.values[i])
            own = zip(layout.names, (x[i] for x in new), strict=True)
            self._made.append({n: tensor_of(keep(x)) for n, x in own if x is not None})
        self._steps = [tensor_of(x) for x in step.values]
        self._rooms = [
            room
            for p, x in zip(params, self._steps, strict=True)
            for room in rooms_for([p], x.dtype, self._step_dtype)
        ]

    def _taken(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor in the form for the formula."""
        return x.detach()

    def _count(self, t: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """Return a step count of a parameter on the device of the formula."""
        return t.to("cpu", torch.int32)

    def _numbers(self, backend: Any) -> dict[str, Any]:
        """Return the hyperparameters in the form for the formula."""
        return in_double(self._plan.hyperparameters, backend)

    def write(self) -> None:
        """Write the new states and parameters."""
        rows = zip(self._params, self._made, self._steps, self._rooms, strict=True)
        for p, own, step, room in rows:
            self._states[p].update(own)
            add(p, step, self._step_dtype, room)

    def _leaves(self, tensors: Iterable[torch.Tensor | None]) -> Leaves:
        """Return a tree of tensors on the device of the parameters."""
        plain = [None if x is None else x.resolve_neg() for x in tensors]
        if any(p.device.type != HOST for p in self._params):
            return Leaves(plain, EAGER)
        return Leaves([None if x is None else x.numpy() for x in plain], THREADED)
