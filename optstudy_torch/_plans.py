"""Plans, programs and stages of a group of parameters, kept from step to step."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from optstudy_core import Algorithm
from optstudy_core.arrays.numbers import is_number
from optstudy_core.catalogue.algorithm import INPUTS

from ._recent import Recent
from ._states import WORKING_DTYPE, Layout, flatten, is_static, started
from .engine import shapes_in_c, shapes_in_triton
from .engine.dispatch import Machine
from .engine.errors import NoKernelsError, warn_of_slow_steps
from .engine.host_numbers import NotTraceableError
from .engine.joined_sums import Joint
from .engine.kernels_of_shape import OfShape
from .engine.program import Program
from .engine.stages import Stage


class Plan:
    """The algorithm and the hyperparameters that the values of a group select.

    Args:
        values: the values of the group.
        algorithm: the selected algorithm.
        hyperparameters: the hyperparameters of the algorithm.
        inputs: names of the inputs besides the gradient.
    """

    def __init__(
        self,
        values: list[Any],
        algorithm: Algorithm,
        hyperparameters: dict[str, Any],
        inputs: frozenset[str],
    ) -> None:
        self.values, self.inputs = values, inputs
        self.algorithm, self.hyperparameters = algorithm, hyperparameters
        self.layout = Layout.of(algorithm, hyperparameters)
        without = {k: 0.0 if is_number(v) else v for k, v in hyperparameters.items()}
        self._least = Layout.of(algorithm, without)
        self.machine = _machine(algorithm, hyperparameters, inputs, self.layout)
        # Other objects may change.
        fixed = bool | int | float | str | None
        parts = [x for v in values for x in (v if isinstance(v, tuple) else (v,))]
        self.is_fixed = all(isinstance(x, fixed) for x in parts)

    @property
    def rule(self) -> tuple[Algorithm, dict[str, Any]]:
        """The algorithm and its hyperparameters."""
        return self.algorithm, self.hyperparameters

    @property
    def numbers(self) -> dict[str, Any]:
        """The hyperparameters, tensors as Python numbers."""
        return {
            k: v.item() if isinstance(v, torch.Tensor) else v
            for k, v in self.hyperparameters.items()
        }

    def of_shape(self, p: torch.Tensor, compiled: bool | None) -> OfShape | None:
        """Return the kernels for parameters with the shape of ``p``; ``None`` without kernels.

        Raises:
            RuntimeError: if ``compiled`` is true and kernels are not possible.
        """
        shapes = self.layout.shapes(p)
        fields = {i: shapes[name] for i, name in enumerate(self.layout.names) if name in shapes}
        shape, dtype = tuple(p.shape), WORKING_DTYPE[p.dtype]

        rule = self.algorithm, self.hyperparameters, self.inputs, self.layout
        program = program_of(*rule, fields, shape, dtype)

        def made() -> OfShape | NoKernelsError:
            assert program is not None
            try:
                return SHAPES[p.device.type](program, p.device)
            except NoKernelsError as error:
                return error

        if program is None:
            found: Any = NoKernelsError(f"the formula of {self.algorithm.name} is no program")
        elif p.device.type not in SHAPES:
            found = NoKernelsError(f"allowed on {' and '.join(SHAPES)}")
        else:
            found = _SHAPES.get((program, p.device), made)
        if not isinstance(found, NoKernelsError):
            return found
        if compiled:
            raise RuntimeError(f"compile = True on {p.device.type}: {found}")
        if program is not None and p.device.type in SHAPES:
            warn_of_slow_steps(p.device.type, str(found))
        return None

    def started(
        self, params: Sequence[torch.Tensor], joints: Sequence[Joint] = ()
    ) -> list[dict[str, torch.Tensor]]:
        """Return the state of each parameter before its first step.

        Args:
            params: the parameters; one, if there are no joints.
            joints: the distribution of each parameter, if they are local parts.
        """
        return started(params, *self.rule, self.layout, joints) if params else []

    def complete(
        self,
        p: torch.Tensor,
        state: dict[str, torch.Tensor],
        start: Callable[[], dict[str, torch.Tensor]],
    ) -> None:
        """Add fields for terms that hyperparameters switch on during a run, such as momentum.

        Args:
            p: the parameter.
            state: the fields of the parameter; missing fields get initial values.
            start: a function that makes the initial state.
        """
        missing = [n for n in self.layout.shapes(p) if n not in state]
        if missing and state.keys() >= self._least.shapes(p).keys():
            first = start()
            state.update({name: first[name] for name in missing})


class Inputs(NamedTuple):
    """The inputs of an algorithm besides the gradients: scalars, and tensors by parameter."""

    scalars: dict[str, torch.Tensor]
    tensors: dict[str, dict[Any, torch.Tensor]]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.scalars.keys() | self.tensors.keys())

    def of(self, algorithm: Algorithm) -> Inputs:
        """Return the inputs of one algorithm; the optimizer may have other algorithms."""
        if self.names <= algorithm.inputs.keys():
            return self
        scalars = {name: x for name, x in self.scalars.items() if name in algorithm.inputs}
        return Inputs(scalars, {k: x for k, x in self.tensors.items() if k in algorithm.inputs})


NO_INPUTS = Inputs({}, {})


class Staged:
    """Stages for the parameters of a group, with the plan they were made for."""

    def __init__(self, plan: Plan, compiled: bool | None, params: list[Any]) -> None:
        assert plan.machine is not None
        self._machine, self._compiled, self._params = plan.machine, compiled, params
        self._kinds: dict[Any, list[Any]] = defaultdict(list)
        for p in params:
            self._kinds[WORKING_DTYPE[p.dtype], p.device].append(p)
        self._kernels = {
            (dtype, device): plan.machine.kernels(device, dtype, compiled)
            for dtype, device in self._kinds
        }
        self.stages: list[Stage] = []

    def holds(self, plan: Plan, compiled: bool | None, params: list[Any]) -> bool:
        """Return whether the stages can be reused."""
        return (
            self._machine is plan.machine
            and self._compiled == compiled
            and are(params, self._params)
            and all(stage.holds() for stage in self.stages)
        )

    def prepare(
        self, plan: Plan, states: Mapping[Any, dict[str, Any]], joints: Mapping[Any, Joint]
    ) -> None:
        """Make the stages if there are none; initialize empty states.

        Args:
            plan: the plan of the group.
            states: the states of the parameters.
            joints: the distributions of parameters that are local parts.
        """
        if self.stages:
            return
        layout, program, stages = plan.layout, self._machine.program, []

        fresh = [p for p in joints if not states[p]]
        begun = plan.started(fresh, [joints[p] for p in fresh])
        for p, state in zip(fresh, begun, strict=True):
            states[p].update(state)

        def start(p: torch.Tensor) -> dict[str, torch.Tensor]:
            return plan.started([p])[0]

        for (dtype, device), params in self._kinds.items():
            own, kernels = [states[p] for p in params], self._kernels[dtype, device]
            args = layout.names, layout.full, layout.counts, dtype, program, kernels
            stages.append(Stage(params, own, *args, start, joints))
        self.stages = stages  # all of them or none

    def ready(self, plan: Plan, step_dtype: str | None, inputs: Inputs) -> Callable[[], None]:
        """Run all phases before the first write; return a function that advances parameters."""
        given = plan.numbers, inputs.scalars, inputs.tensors, step_dtype
        return self._machine.ready(self.stages, *given)


def are(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Return whether these are the same objects."""
    return len(found) == len(expected) and all(map(operator.is_, found, expected))


# Programs.

SHAPES: dict[str, Any] = {"cpu": shapes_in_c.Kernels, "cuda": shapes_in_triton.Kernels}
"""The makers of kernels for a program of one shape, by the type of the device."""

_SHAPES: Recent[Any, OfShape | NoKernelsError] = Recent(512)
_PROGRAMS: Recent[Any, Program | None] = Recent(512)
_MACHINES: Recent[Program, Machine] = Recent(256)

_VALUES: dict[Algorithm, set[str]] = defaultdict(set)
"""Names of hyperparameters that a formula branches on; each value needs a program."""

_MOST = 16
"""The largest number of programs for an algorithm that branches; beyond it runs as written."""


def _machine(
    algorithm: Algorithm, hyperparameters: dict[str, Any], inputs: frozenset[str], layout: Layout
) -> Machine | None:
    """Return the machine for the program of an algorithm, or ``None`` without a program."""
    if not layout.flat:
        return None
    fields = {i: None if x else () for i, x in enumerate(layout.full) if not layout.counts[i]}
    program = program_of(algorithm, hyperparameters, inputs, layout, fields)
    return None if program is None else _MACHINES.get(program, lambda: Machine(program))


def program_of(
    algorithm: Algorithm,
    hyperparameters: dict[str, Any],
    inputs: frozenset[str],
    layout: Layout,
    fields: Mapping[int, tuple[int, ...] | None],
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = None,
) -> Program | None:
    """Return the program of an algorithm, or ``None`` if the formula cannot be traced.

    Args:
        algorithm: the update rule.
        hyperparameters: the hyperparameters of the algorithm.
        inputs: names of the inputs besides the gradient.
        layout: the layout of the state.
        fields: as for :class:`Program`.
        shape: the shape of the leaf, for a program of one shape.
        dtype: the working dtype, for a program of one shape.
    """
    absent = dict.fromkeys(algorithm.inputs.keys() - inputs)
    values = _VALUES.get(algorithm, set())
    static = {
        k: v
        for k, v in hyperparameters.items()
        if is_static(k, v) or (k in values and not isinstance(v, torch.Tensor))
    }
    static |= absent
    key = (algorithm, tuple(static.items()), inputs, shape, dtype)
    dynamic = [k for k in hyperparameters if k not in static]

    def made() -> Program:
        given = {name: INPUTS[name] for name in inputs}
        state = layout.counts, layout.rebuild, flatten
        return Program(algorithm, static, dynamic, given, fields, *state, shape, dtype)

    many = sum(k[0] is algorithm and k[3:] == (shape, dtype) for k in _PROGRAMS) >= _MOST
    if values and key not in _PROGRAMS and many:
        return None
    try:
        return _PROGRAMS.get(key, made)
    except NotTraceableError as error:
        numbers = {n for n in dynamic if not isinstance(hyperparameters[n], torch.Tensor)}
        asked = error.names & numbers - {"lr"}
        if asked == error.names:
            _VALUES[algorithm] |= asked
            return program_of(algorithm, hyperparameters, inputs, layout, fields, shape, dtype)
        return _PROGRAMS.get(key, lambda: None)
