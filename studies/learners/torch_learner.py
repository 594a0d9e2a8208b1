"""The model and the optimizer of a study in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

import numpy as np
import torch
from torch.func import functional_call

import optstudy_torch
from optstudy_torch import EVE
from optstudy_torch.epoch import EpochMomentum, ExtrapolatedEpoch
from optstudy_torch.lr_scheduler import CarefulLR, DirectionCarefulLR, DirectionLR
from studies.study import Batch, Parameters, Study, draw_signs, stream

from .methods import Ended
from .optimizer import Optimizer


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Let torch compute in this number of threads; ``None``: the choice of torch.

    The threads of a small model mostly wait for each other (on busy cores a hundred times longer
    than they compute), and may split sums differently on each machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def exact_products(device: str) -> Iterator[None]:
    """Give float32 convolutions on a GPU the precision of float32, as matrix products have."""
    if device == "cpu":
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def subnormals_flushed() -> Iterator[None]:
    """Let torch treat subnormal numbers as zero in this thread, as XLA does on the CPU."""
    # The setting belongs to a thread; here torch computes in one thread (``threads``).
    # torch has no getter: half of the smallest normal number shows the setting.
    before = bool(torch.full((), torch.finfo(torch.float32).tiny) * 0.5 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _in_its_threads(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: TorchLearner, *args: Any) -> Any:
        with threads(self._threads), exact_products(self._device):
            return method(self, *args)

    return call


class TorchLearner:
    """A :class:`.training.Learner`."""

    backend = "torch"

    def __init__(self, study: Study, optimizer: Optimizer) -> None:
        self._loss, self._parts = study.torch_loss, study.parts
        self._threads, self._device = study.threads, study.device
        self._random = stream(study.seed, "signs")
        self._model = study.torch_model().to(self._device)
        self._model.load_state_dict(self._tensors(study.initial))
        make = optstudy_torch.from_core(optimizer.algorithm)
        rate = study.rate(optimizer.lr)
        self._optimizer = make(self._model.parameters(), lr=rate, dialect=optimizer.dialect)
        self._needs_hessian = "hessian" in self._optimizer.algorithm.inputs
        method = optimizer.at_the_end
        self._method = _METHODS[method.kind](self._optimizer, self._model, **method.values)

    @_in_its_threads
    def step(self, batch: Batch) -> torch.Tensor:
        """Train on a mini-batch; return its loss before the step."""
        inputs, targets, masks = self._batch(batch)
        self._optimizer.zero_grad()
        loss: torch.Tensor = self._loss(self._model(inputs, *masks), targets)
        more = self._inputs(loss)
        loss.backward()
        self._optimizer.step(None, **more)
        return loss.detach()

    def _inputs(self, loss: torch.Tensor) -> dict[str, Any]:
        """Return the inputs of the algorithm besides the gradient."""
        more: dict[str, Any] = {}
        if "value" in self._optimizer.algorithm.inputs:
            more["value"] = loss.detach()
        if self._needs_hessian:
            more["hessian"] = self._diagonal(loss, dict(self._model.named_parameters()))
        return more

    def _diagonal(self, loss: torch.Tensor, at: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Estimate the diagonal of the Hessian with new signs."""
        signs = draw_signs(self._random, {name: tuple(x.shape) for name, x in at.items()})
        return optstudy_torch.hutchinson(loss, [*at.values()], [*self._tensors(signs).values()])

    @_in_its_threads
    def apply(self, gradients: Parameters, loss: float, hessian: Parameters | None = None) -> None:
        """Step the optimizer with given gradients, a loss and an estimate of the Hessian."""
        for name, parameter in self._model.named_parameters():
            parameter.grad = torch.tensor(gradients[name], device=self._device)
        more: dict[str, Any] = {}
        if "value" in self._optimizer.algorithm.inputs:
            more["value"] = loss
        if hessian is not None:
            more["hessian"] = [*self._tensors(hessian).values()]
        self._optimizer.step(None, **more)

    @_in_its_threads
    def end_epoch(self, loss: float, train: Batch) -> Ended:
        """Let the method end an epoch."""
        parts = [self._batch(train.take(rows)) for rows in self._parts(len(train.targets))]

        def mean_loss() -> torch.Tensor:
            of_parts = [self._loss(self._model(x, *masks), y) for x, y, masks in parts]
            return torch.stack(of_parts).mean() if len(parts) > 1 else of_parts[0]

        return self._method(loss, mean_loss)

    def parameters(self) -> Parameters:
        """Return a copy of the parameters."""
        return {n: p.detach().cpu().numpy().copy() for n, p in self._model.named_parameters()}

    @_in_its_threads
    def loss(self, parameters: Parameters, batch: Batch) -> float:
        """Return the loss at some parameters."""
        with torch.no_grad():
            return float(self._loss_at(self._tensors(parameters), batch))

    @_in_its_threads
    def gradients(self, parameters: Parameters, batch: Batch) -> Parameters:
        """Return the gradients of the loss at some parameters."""
        leaves = {name: value.requires_grad_() for name, value in self._tensors(parameters).items()}
        gradients = torch.autograd.grad(self._loss_at(leaves, batch), list(leaves.values()))
        return {name: g.cpu().numpy() for name, g in zip(leaves, gradients, strict=True)}

    @_in_its_threads
    def hessian(self, parameters: Parameters, batch: Batch) -> Parameters | None:
        """Return an estimate of the diagonal of the Hessian, if the algorithm needs one."""
        if not self._needs_hessian:
            return None
        leaves = {name: value.requires_grad_() for name, value in self._tensors(parameters).items()}
        estimate = self._diagonal(self._loss_at(leaves, batch), leaves)
        return {name: h.cpu().numpy() for name, h in zip(leaves, estimate, strict=True)}

    @_in_its_threads
    def outputs(self, parameters: Parameters, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs of the model for some inputs at some parameters."""
        at, given = self._tensors(parameters), torch.from_numpy(inputs)
        with torch.no_grad():
            parts = [
                functional_call(self._model, at, (given[rows].to(self._device),)).cpu()
                for rows in self._parts(len(inputs))
            ]
        result: np.ndarray = torch.cat(parts).numpy()
        return result

    def _loss_at(self, parameters: dict[str, torch.Tensor], batch: Batch) -> Any:
        inputs, targets, masks = self._batch(batch)
        return self._loss(functional_call(self._model, parameters, (inputs, *masks)), targets)

    def _batch(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        inputs, targets, *masks = (
            torch.from_numpy(x).to(self._device) for x in (*batch[:2], *batch.masks)
        )
        return inputs, targets, masks

    def _tensors(self, parameters: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(x, device=self._device) for name, x in parameters.items()}


make = TorchLearner


# Ends of epochs: functions of the mean loss and of a closure of the loss over all data.

End = Callable[[float, Callable[[], torch.Tensor]], Ended]


def _nothing(optimizer: Any, model: Any) -> End:
    del optimizer, model
    return lambda loss, closure: Ended()


def _direction(optimizer: Any, model: Any, **values: Any) -> End:
    del model
    return _rate(DirectionLR(optimizer, **values), values)


def _careful(optimizer: Any, model: Any, **values: Any) -> End:
    return _rate(CarefulLR(optimizer, model=model, **values), values)


def _direction_careful(optimizer: Any, model: Any, **values: Any) -> End:
    return _rate(DirectionCarefulLR(optimizer, model=model, **values), values)


def _rate(scheduler: Any, values: Mapping[str, Any]) -> End:
    rollback = values.get("rollback", False)

    def end(loss: float, closure: Any) -> Ended:
        scheduler.step(loss)
        undone = rollback and bool(scheduler.decision.cut)
        return Ended(float(scheduler.factors[0]), undone)

    return end


def _eve(optimizer: Any, model: Any, **values: Any) -> End:
    eve = EVE(optimizer, model, **values)

    def end(loss: float, closure: Any) -> Ended:
        choice = eve.step(closure)
        return Ended(evaluations=int(choice.evaluations), s=float(choice.s))

    return end


def _moves(make: Any) -> Callable[..., End]:
    def begin(optimizer: Any, model: Any, **values: Any) -> End:
        move = make(optimizer, **values)

        def end(loss: float, closure: Any) -> Ended:
            move.step()
            return Ended()

        return end

    return begin


_METHODS: Final[Mapping[str, Callable[..., End]]] = {
    "plain": _nothing,
    "direction": _direction,
    "careful": _careful,
    "direction_careful": _direction_careful,
    "eve": _eve,
    "extrapolate": _moves(ExtrapolatedEpoch),
    "momentum": _moves(EpochMomentum),
}
