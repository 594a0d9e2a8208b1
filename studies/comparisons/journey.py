"""A training that moves between libraries, compared with a training that stays.

The parts are: PyTorch with optstudy, torch.optim, PyTorch with optstudy again, Flax, and PyTorch.
Between PyTorch and Flax the training goes through one file. Both trainings start from the same
parameters and see the same mini-batches. A third training, in Flax from the start, shows the effect
of the roundings of the frameworks alone.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import numpy as np
from rich.console import Console

from optstudy_core import ALGORITHMS, geometry
from optstudy_core.arrays.numbers import nearest
from studies import figures
from studies.learners.epochs import difference
from studies.learners.optimizer import Optimizer
from studies.pairs import LEGS, Journey
from studies.study import Parameters, Study

DTYPES: Final = ("float64", "float32")


class Travel:
    """The journeys of a study in both dtypes.

    Args:
        study: the study, without dropout.
        optimizer: an optimizer with an algorithm that torch.optim also has.
        epochs: the number of epochs, divided evenly among the parts.
        out: the folder for the figure.

    Raises:
        ValueError: if torch.optim does not have the algorithm, or if there are fewer epochs than
            parts.
    """

    def __init__(self, study: Study, optimizer: Optimizer, epochs: int, out: pathlib.Path) -> None:
        known = [a.name for a in ALGORITHMS.values() if f"torch.optim.{a.title}" in a.elsewhere]
        name = optimizer.algorithm
        if name not in known:
            raise ValueError(f"algorithm = {name!r}: {nearest(name, known)}")
        if epochs < len(LEGS):
            raise ValueError(f"epochs = {epochs}: allowed are whole numbers >= {len(LEGS)}")
        if study.dropout:
            raise ValueError(f"study = {study.name!r}: allowed are studies without dropout")
        self.study, self.optimizer, self.epochs, self.out = study, optimizer, epochs, out

    def carry_out(self, console: Console) -> None:
        """Train, draw the figure and print the distances."""
        journeys = [travelled(self.study, self.optimizer, self.epochs, d) for d in DTYPES]
        folder = self.out / self.study.name / self.optimizer.name
        drawn = figures.draw_journeys(self.study, journeys, folder)
        for x in journeys:
            console.print(
                f"{x.dtype}: after {x.epochs} epochs, the relative distance from the run that "
                f"stayed is {x.moved[-1]:.1e} for the run that moved, and {x.twin[-1]:.1e} for "
                "the run in JAX",
                highlight=False,
            )
        console.print(f"  figure: {drawn}", soft_wrap=True, highlight=False)


def travelled(study: Study, optimizer: Optimizer, epochs: int, dtype: str) -> Journey:
    """Train three times: in PyTorch, moving, and in JAX; return the distances."""
    import jax
    import torch

    wide: AbstractContextManager[Any] = (
        jax.enable_x64(True) if dtype == "float64" else nullcontext()
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(study.threads or threads)
    try:
        with wide, tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "run.safetensors"
            make = _Torch(study, optimizer, dtype)
            stayed = [make.parameters() for _ in _trained(make, study, epochs)]
            moved = [*_moving(study, optimizer, epochs, dtype, file)]
            twin = [x.parameters() for x in _twin(study, optimizer, epochs, dtype, file)]
    finally:
        torch.set_num_threads(threads)

    def distances(others: list[Parameters]) -> tuple[float, ...]:
        pairs = zip(others, stayed, strict=True)
        return tuple(_length(difference(x, y)) / _length(y) for x, y in pairs)

    return Journey(optimizer.algorithm, dtype, distances(moved), distances(twin))


def _length(parameters: Parameters) -> float:
    return float(geometry.norm(parameters, exact=True))


def _leg(epoch: int, epochs: int) -> str:
    return LEGS[(epoch - 1) * len(LEGS) // epochs]


def _trained(side: Any, study: Study, epochs: int) -> Iterator[int]:
    for epoch in range(1, epochs + 1):
        side.train(study, epoch)
        yield epoch


def _moving(
    study: Study, optimizer: Optimizer, epochs: int, dtype: str, file: pathlib.Path
) -> Iterator[Parameters]:
    side: Any = _Torch(study, optimizer, dtype)
    leg = LEGS[0]
    for epoch in range(1, epochs + 1):
        if _leg(epoch, epochs) != leg:
            before, leg = leg, _leg(epoch, epochs)
            side = _switched(side, before, leg, file)
        side.train(study, epoch)
        yield side.parameters()


def _switched(side: Any, before: str, leg: str, file: pathlib.Path) -> Any:
    if leg == "torch.optim":
        return side.in_torch_optim()
    if before == "torch.optim":
        return side.from_torch_optim()
    side.leave(file)
    return (_Flax if leg == "Flax" else _Torch).arrived(side, file)


def _twin(
    study: Study, optimizer: Optimizer, epochs: int, dtype: str, file: pathlib.Path
) -> Iterator[Any]:
    """Yield the run in Flax after each epoch."""
    start = _Torch(study, optimizer, dtype)
    start.leave(file)
    side = _Flax.arrived(start, file)
    for _ in _trained(side, study, epochs):
        yield side


class _Torch:
    """A training in PyTorch."""

    def __init__(self, study: Study, optimizer: Optimizer, dtype: str) -> None:
        import torch

        import optstudy_torch

        self._of = study, optimizer, dtype
        self._dtype = getattr(torch, dtype)
        self._model = study.torch_model().to(self._dtype)
        self._model.load_state_dict({k: torch.tensor(x) for k, x in study.initial.items()})
        make = optstudy_torch.from_core(optimizer.algorithm)
        self._make: Callable[..., Any] = make
        params = self._model.parameters()
        self._optimizer = make(params, lr=optimizer.lr, dialect=optimizer.dialect)

    def train(self, study: Study, epoch: int) -> None:
        import torch

        for batch in study.batches(epoch):
            inputs = torch.from_numpy(batch.inputs).to(self._dtype)
            self._optimizer.zero_grad()
            study.torch_loss(self._model(inputs), torch.from_numpy(batch.targets)).backward()
            self._optimizer.step()

    def in_torch_optim(self) -> _Torch:
        import torch

        import optstudy_torch

        theirs = getattr(torch.optim, ALGORITHMS[self._of[1].algorithm].title)
        optimizer = theirs(self._model.parameters())
        optimizer.load_state_dict(optstudy_torch.to_torch_optim(self._optimizer))
        self._optimizer = optimizer
        return self

    def from_torch_optim(self) -> _Torch:
        optimizer = self._make(self._model.parameters())
        optimizer.load_state_dict(self._optimizer.state_dict())
        self._optimizer = optimizer
        return self

    def leave(self, file: pathlib.Path) -> None:
        import torch

        import optstudy_torch

        sample = torch.from_numpy(self._of[0].train.inputs[:8]).to(self._dtype)
        optstudy_torch.export_run(file, self._model, self._optimizer, sample=sample)

    @classmethod
    def arrived(cls, before: Any, file: pathlib.Path) -> _Torch:
        import optstudy_torch

        side = cls(*before._of)
        optstudy_torch.import_run(file, side._model, side._optimizer)
        return side

    def parameters(self) -> Parameters:
        return {k: p.detach().numpy().copy() for k, p in self._model.named_parameters()}


class _Flax:
    """A training in Flax."""

    def __init__(self, study: Study, optimizer: Optimizer, dtype: str) -> None:
        import jax
        from flax import nnx

        self._of = study, optimizer, dtype
        self._model = study.nnx_model()
        wide = jax.tree.map(lambda x: x.astype(dtype), nnx.state(self._model, nnx.Param))
        nnx.update(self._model, wide)

        def step(model: Any, own: Any, inputs: Any, targets: Any) -> None:
            grads = nnx.grad(lambda m: study.jax_loss(m(inputs), targets))(model)
            own.update(model, grads)

        self._step = nnx.jit(step)
        self._optimizer: Any = None

    @classmethod
    def arrived(cls, before: Any, file: pathlib.Path) -> _Flax:
        import optstudy_jax

        side = cls(*before._of)
        side._optimizer = optstudy_jax.import_run(file, side._model).optimizer
        return side

    def leave(self, file: pathlib.Path) -> None:
        import optstudy_jax

        sample = self._of[0].train.inputs[:8].astype(self._of[2])
        optstudy_jax.export_run(file, self._model, self._optimizer, sample=sample)

    def train(self, study: Study, epoch: int) -> None:
        for batch in study.batches(epoch):
            inputs = batch.inputs.astype(self._of[2])
            self._step(self._model, self._optimizer, inputs, batch.targets)

    def parameters(self) -> Parameters:
        from flax import nnx

        flat = dict(nnx.to_flat_state(nnx.state(self._model, nnx.Param)))
        found = self._of[0].nnx_leaves.items()
        return {k: leaf.from_nnx(np.asarray(flat[leaf.path][...])).copy() for k, leaf in found}
