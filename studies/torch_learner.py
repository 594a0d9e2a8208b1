"""A study's model and optimizer in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.func import functional_call

import optstudy_torch

from .study import Batch, Parameters, Study
from .training import Optimizer


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in this thread alone.

    The models are small: threads would only wait for each other (on busy cores a hundred times
    longer than they compute), and could split sums differently on each machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def subnormals_flushed() -> Iterator[None]:
    """Let torch take subnormal numbers as zero in this thread, as XLA's CPU code does."""
    # The switch is the thread's; torch computes in this one alone here (``one_thread``).
    # torch has no getter for the switch: the half of the smallest normal number tells.
    before = bool(torch.full((), torch.finfo(torch.float32).tiny) * 0.5 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class TorchLearner:
    """A :class:`studies.training.Learner`."""

    backend = "torch"

    def __init__(self, study: Study, optimizer: Optimizer) -> None:
        self._loss = study.torch_loss
        self._model = study.torch_model()
        self._model.load_state_dict(_tensors(study.initial))
        make = optstudy_torch.from_core(optimizer.algorithm)
        self._optimizer = make(self._model.parameters(), lr=optimizer.lr, dialect=optimizer.dialect)

    @one_thread()
    def step(self, batch: Batch) -> torch.Tensor:
        """Train on a mini-batch; return its loss before the step."""
        inputs, targets = map(torch.from_numpy, batch)
        self._optimizer.zero_grad()
        loss: torch.Tensor = self._loss(self._model(inputs), targets)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    @one_thread()
    def apply(self, gradients: Parameters) -> None:
        """Make the optimizer's step for gradients from elsewhere."""
        for name, parameter in self._model.named_parameters():
            parameter.grad = torch.tensor(gradients[name])
        self._optimizer.step()

    def parameters(self) -> Parameters:
        """Return a copy of the parameters."""
        return {n: p.detach().numpy().copy() for n, p in self._model.named_parameters()}

    @one_thread()
    def loss(self, parameters: Parameters, batch: Batch) -> float:
        """Return the loss at some parameters."""
        with torch.no_grad():
            return float(self._loss_at(_tensors(parameters), batch))

    @one_thread()
    def gradients(self, parameters: Parameters, batch: Batch) -> Parameters:
        """Return the gradients of the loss at some parameters."""
        leaves = {name: value.requires_grad_() for name, value in _tensors(parameters).items()}
        gradients = torch.autograd.grad(self._loss_at(leaves, batch), list(leaves.values()))
        return {name: g.numpy() for name, g in zip(leaves, gradients, strict=True)}

    @one_thread()
    def outputs(self, parameters: Parameters, inputs: np.ndarray) -> np.ndarray:
        """Return what the model makes of some inputs at some parameters."""
        with torch.no_grad():
            outputs = functional_call(
                self._model, _tensors(parameters), (torch.from_numpy(inputs),)
            )
        result: np.ndarray = outputs.numpy()
        return result

    def _loss_at(self, parameters: dict[str, torch.Tensor], batch: Batch) -> Any:
        inputs, targets = map(torch.from_numpy, batch)
        return self._loss(functional_call(self._model, parameters, (inputs,)), targets)


make = TorchLearner


def _tensors(parameters: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in parameters.items()}
