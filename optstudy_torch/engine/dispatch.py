"""Run a program on the leaves of a group: with NumPy in blocks, torch's operations, or a kernel.

Each way rounds every operation once, so the bits are the same:

- On the CPU, NumPy computes on the memory of the tensors, in blocks that fit the cache, with the
  same number of threads as torch.
- On other devices torch's operations run one after another on whole tensors.
- Compiled, one kernel runs over all leaves: a loop in C on the CPU
  (:mod:`optstudy_torch.engine.kernels_in_c`), a Triton kernel on a GPU
  (:mod:`optstudy_torch.engine.kernels_in_triton`).

All ways run on the units of a :mod:`stage <optstudy_torch.engine.stages>`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from optstudy_core.arrays.bits import size

from . import kernels_in_c, kernels_in_triton
from .blockwise import Blockwise
from .errors import NoKernelsError, warn_of_slow_steps
from .exact_sums import sums_of
from .joined_sums import Share
from .kernels import Kernels
from .operations import Operations
from .program import Program
from .stages import Stage
from .trace import Sum
from .units import Unit

KERNELS: dict[str, Callable[[Program, torch.dtype], Kernels]] = {
    "cpu": kernels_in_c.Kernels,
    "cuda": kernels_in_triton.Kernels,
}
"""The makers of kernels, by the type of the device."""


class Machine:
    """A program with the functions that run its bodies."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._kernels: dict[tuple[str, torch.dtype], Kernels | NoKernelsError] = {}

    @functools.cached_property
    def _blockwise(self) -> list[Blockwise]:
        return [Blockwise(phase.body) for phase in self.program.phases]

    @functools.cached_property
    def _operations(self) -> list[Operations]:
        return [Operations(phase.body) for phase in self.program.phases]

    def kernels(
        self, device: torch.device, dtype: torch.dtype, compiled: bool | None
    ) -> Kernels | None:
        """Return kernels for a device and a working dtype; with ``None``, if possible.

        Raises:
            RuntimeError: if ``compiled`` is true and kernels are not possible.
        """
        if compiled is False:
            return None
        kind = device.type
        made = self._kernels.get((kind, dtype))
        if kind not in KERNELS:
            made = NoKernelsError(f"allowed on {' and '.join(KERNELS)}")
        elif made is None:
            try:
                made = KERNELS[kind](self.program, dtype)
            except NoKernelsError as error:
                made = error
            self._kernels[kind, dtype] = made
        if not isinstance(made, NoKernelsError):
            return made
        if compiled:
            raise RuntimeError(f"compile = True on {kind}: {made}")
        if kind in KERNELS:
            warn_of_slow_steps(kind, str(made))
        return None

    def ready(
        self,
        stages: Sequence[Stage],
        hyperparameters: dict[str, Any],
        scalars: Mapping[str, torch.Tensor],
        inputs: Mapping[str, Mapping[Any, torch.Tensor]],
        step_dtype: str | None,
    ) -> Callable[[], None]:
        """Run all phases but the last; return a function that runs the last phase.

        Only the last phase writes states and parameters. On the CPU the returned function allocates
        no arrays, and with kernels it refuses nothing.

        Args:
            stages: all parameters of a group that have a gradient.
            hyperparameters: Python numbers by name.
            scalars: inputs that are scalars, by name.
            inputs: tensors like the parameters, by name and parameter.
            step_dtype: the dtype of the sum of a parameter and its step, if not the parameter
                dtype.
        """
        *before, _ = self.program.phases
        number = 0

        def body(stage: Stage, units: Sequence[Unit]) -> Callable[[], None]:
            return self._body(number, stage, units, hyperparameters, step_dtype)

        for stage in stages:
            stage.begin(hyperparameters, scalars)
            stage.load(stage.chunks[0], inputs, step_dtype)
        for phase in before:  # if there are such phases, the first chunk has everything
            for stage in stages:
                self._compute(number, stage, hyperparameters)
                body(stage, stage.chunks[0])()
            _sum(phase.sums, stages)
            number += 1
        ends: list[tuple[Stage, Callable[[], None], Callable[[], None]]] = []
        for stage in stages:
            self._compute(number, stage, hyperparameters)
            end = stage.end(self.program.new_scalars, self.program.new_counts)
            ends.append((stage, body(stage, stage.chunks[0]), end))

        def write() -> None:
            for stage, first, end in ends:
                first()
                stage.store(stage.chunks[0], step_dtype)
                for units in stage.chunks[1:]:
                    stage.load(units, inputs, step_dtype)
                    body(stage, units)()
                    stage.store(units, step_dtype)
                end()

        return write

    def _compute(self, number: int, stage: Stage, hyperparameters: dict[str, Any]) -> None:
        if stage.kernels:
            stage.kernels.scalars[number](stage, hyperparameters)
        else:
            stage.scalars.compute(self.program.phases[number].scalars, hyperparameters)

    def _body(
        self,
        number: int,
        stage: Stage,
        units: Sequence[Unit],
        hyperparameters: dict[str, Any],
        step_dtype: str | None,
    ) -> Callable[[], None]:
        """Allocate memory; return a function that runs the body of a phase on units."""
        body = self.program.phases[number].body
        ready = stage.direct and not body.moved and len(self.program.phases) == 1
        unready = [unit for unit in units if not (ready and unit.in_place)]
        moved = [unit.prepare(body, stage.empty) for unit in unready]
        compute: Callable[[], None] | None = None
        if body.outputs and stage.kernels:
            compute = stage.kernels.arrays[number](stage, units, hyperparameters, step_dtype)
        elif body.outputs:
            numbers = [n.value(hyperparameters) for n in body.numbers.values()]
            one_by_one = self._blockwise if stage.on_host else self._operations
            compute = one_by_one[number](stage, units, numbers)
        if compute and not unready:
            return compute

        def run() -> None:
            if compute:
                compute()
            for unit, own in zip(unready, moved, strict=True):
                unit.move(own, step_dtype)

        return run


def _sum(sums: Sequence[Sum], stages: Sequence[Stage]) -> None:
    """Compute the sums of a phase; sums over several processes are joined at once."""
    compiled = all(stage.kernels for stage in stages)
    jobs: list[tuple[Any, Any]] = []
    wanted: list[tuple[Sum, Stage, Any]] = []  # with its values, or the number of its job
    for one in sums:
        if one.whole:
            rows = [row for stage in stages for row in stage.vectors(one)]
            jobs.append((one.function, _columns(one, rows)))
            wanted += [(one, stage, len(jobs) - 1) for stage in stages]
            continue
        for stage in stages:
            rows = list(stage.vectors(one))
            shared = any(isinstance(row[0], Share) for row in rows)
            kernels = None if shared else stage.kernels
            values = kernels.scalars_of(one.function, rows) if kernels else None
            wanted.append((one, stage, values or range(len(jobs), len(jobs) + len(rows))))
            if not values:
                jobs += [(one.function, _columns(one, [row])) for row in rows]
    found = sums_of(jobs, compiled=compiled)
    for one, stage, values in wanted:
        if one.whole:
            scalars = stage.scalars.spread(found[values])
        else:
            own = [found[i] for i in values] if isinstance(values, range) else values
            scalars = stage.scalars.rounded(own)
        stage.scalars[one.result.name] = scalars


def _columns(one: Sum, rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    full = [row for row in rows if size(row[0])]
    return [[row[k] for row in full] for k in range(len(one.args))]
