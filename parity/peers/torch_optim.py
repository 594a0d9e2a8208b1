"""Peers in ``torch.optim``, with the same arguments as our classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np
import torch

import optstudy_torch
from parity.pairs import Arrays, Peer, Problem, Runner, average_of, core, rule

from .moving import CYCLES, MOVES, Move


@contextmanager
def _counters_in_double(dtype: np.dtype[Any]) -> Iterator[None]:
    """Let torch store counters in float64 instead of the default dtype."""
    before = torch.get_default_dtype()
    if dtype == np.float64:
        torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def runner(
    make: Callable[[Any], Any],
    seen: Callable[[Any, list[Any]], list[Any]] = lambda optimizer, params: params,
    move: Move | None = None,
    late: int = 0,
) -> Runner:
    """Return a function that trains with an optimizer.

    Args:
        make: a function of a list of parameters that returns the optimizer.
        seen: a function of the optimizer and the parameters after a step that returns the arrays to
            compare; by default the parameters.
        move: a function that changes the groups before each step.
        late: the step before which the last two parameters are added, as a separate group.
    """

    def run(problem: Problem) -> list[Arrays]:
        with _counters_in_double(problem.dtype):
            params = [torch.nn.Parameter(torch.tensor(x)) for x in problem.begin]
            optimizer = make(params[:-2] if late else params)
            before = move(optimizer, len(problem.grads)) if move else lambda t: None
            found = []
            for t, grads in enumerate(problem.grads):
                if late and t == late:
                    optimizer.add_param_group({"params": params[-2:]})
                before(t)
                for i, (p, g) in enumerate(zip(params, grads, strict=True)):
                    p.grad = None if (t, i) in problem.gaps else torch.tensor(g)
                if problem.rates is not None:
                    optimizer.param_groups[0]["lr"] = problem.rates[t]
                optimizer.step()
                found.append([p.detach().numpy().copy() for p in seen(optimizer, params)])
        return found

    return run


def pair(algorithm: str, name: str, scheduled: bool = True, **given: Any) -> Peer:
    """Return a pair of our class and the torch class with the same name and arguments.

    Args:
        algorithm: the algorithm of our class.
        name: the name of the class.
        scheduled: whether the learning rate is read at every step.
        given: the arguments.
    """
    ours, theirs = getattr(optstudy_torch, name), getattr(torch.optim, name)
    return Peer(
        algorithm,
        "torch",
        f"torch.optim.{name}",
        given,
        runner(lambda p: ours(p, **given)),
        # One tensor after the other: the default of torch on the CPU, which keeps .grad unchanged.
        runner(lambda p: theirs(p, foreach=False, **given)),
        scheduled=scheduled,
        gaps=True,
    )


class _MuonAndAdamW:
    """Muon of torch for matrices, and AdamW of torch for other parameters."""

    def __init__(self, params: list[Any], exact: bool, **given: Any) -> None:
        matrices = [p for p in params if p.ndim == 2]
        others = [p for p in params if p.ndim != 2]
        self._exact = exact
        make: Any = vars(torch.optim)["Muon"]  # not in its type stubs
        self._muon = make(matrices, **given)
        adamw = torch.optim.AdamW(others, weight_decay=0.0, foreach=False)
        self._both = self._muon, adamw
        self.param_groups = [{"lr": self._muon.param_groups[0]["lr"]}]

    def step(self) -> None:
        for optimizer in self._both:
            optimizer.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        with (
            mock.patch.object(torch.Tensor, "bfloat16", lambda x: x.clone())
            if self._exact
            else _AS_IT_IS
        ):
            self._both[0].step()
        self._both[1].step()


_AS_IT_IS = nullcontext()


class _AdamWithAverage:
    """Adam of torch with the average of the parameters of torch."""

    def __init__(self, params: list[Any], **given: Any) -> None:
        self._model = torch.nn.ParameterList(params)
        self._adam = torch.optim.Adam(params, foreach=False)
        self._averaged = torch.optim.swa_utils.AveragedModel(self._model, **given)
        self.param_groups = self._adam.param_groups

    def step(self) -> None:
        self._adam.step()
        self._averaged.update_parameters(self._model)

    def average(self) -> list[Any]:
        return list(self._averaged.parameters())


def _averaged(given: dict[str, Any], ours: dict[str, Any], **theirs: Any) -> Peer:
    """Return a pair that compares averages of the parameters.

    A leaf without a gradient does not change our average; torch averages the same weights again.
    """
    return Peer(
        "averaged",
        "torch",
        "torch.optim.swa_utils.AveragedModel",
        given,
        core("averaged", "torch", average_of, **ours),
        runner(lambda p: _AdamWithAverage(p, **theirs), lambda optimizer, _: optimizer.average()),
    )


class _Prepared:
    """Adam of torch, with a change of the gradients before each step."""

    def __init__(self, params: list[Any], prepare: Callable[[list[Any]], Any]) -> None:
        self._params, self._prepare = params, prepare
        self._adam = torch.optim.Adam(params, foreach=False)
        self.param_groups = self._adam.param_groups

    def step(self) -> None:
        if any(p.grad is not None for p in self._params):  # torch needs one
            self._prepare(self._params)
        self._adam.step()


class _Accumulating:
    """Adam of torch, with a step for the mean of some gradients that are summed in ``.grad``."""

    def __init__(self, params: list[Any], k: int) -> None:
        self._params, self._k, self._sums = params, k, [torch.zeros_like(p) for p in params]
        self._adam = torch.optim.Adam(params, foreach=False)
        self.param_groups, self._n = self._adam.param_groups, 0

    def step(self) -> None:
        for p, total in zip(self._params, self._sums, strict=True):
            total += p.grad / self._k
        self._n += 1
        if self._n % self._k == 0:
            for p, total in zip(self._params, self._sums, strict=True):
                p.grad = total.clone()
                total.zero_()
            self._adam.step()


def _accumulated(k: int) -> Peer:
    made = optstudy_torch.from_core(rule("accumulated"))
    return Peer(
        "accumulated",
        "torch",
        "torch.optim.Adam, loss / k",
        {"k": k},
        runner(lambda p: made(p, accumulation_steps=k)),
        runner(lambda p: _Accumulating(p, k)),
    )


def _clipped(wrapper: str, function: Callable[..., Any], bound: float, **ours: Any) -> Peer:
    """Return a pair of Adam with a wrapper, and Adam of torch after a function of torch.nn."""
    made = optstudy_torch.from_core(rule(wrapper))
    return Peer(
        wrapper,
        "torch",
        f"torch.nn.utils.{function.__name__}",
        ours,
        runner(lambda p: made(p, **ours)),
        runner(lambda p: _Prepared(p, lambda params: function(params, bound, foreach=False))),
        gaps=True,
    )


def moving(algorithm: str, name: str, **given: Any) -> list[Peer]:
    """Return a pair for each change of hyperparameters, and for a group that is added later.

    Args:
        algorithm: the algorithm of our class.
        name: the name of the class.
        given: the arguments.
    """
    ours, theirs = getattr(optstudy_torch, name), getattr(torch.optim, name)
    cycled = {"betas", "momentum"} & inspect.signature(theirs).parameters.keys()
    peers = []
    for under, move in [*MOVES.items(), ("a group added later", None)]:
        if under in CYCLES and not cycled:
            continue
        late = 0 if move else 20
        peers.append(
            Peer(
                algorithm,
                "torch",
                f"torch.optim.{name}",
                {"under": under} | given,
                runner(lambda p: ours(p, **given), move=move, late=late),
                runner(lambda p: theirs(p, foreach=False, **given), move=move, late=late),
                scheduled=False,
                gaps=True,
            )
        )
    return peers


def _muon(exact: bool, **given: Any) -> Peer:
    """Return a pair of our Muon and that of torch, with or without rounding to bfloat16."""
    return Peer(
        "muon",
        "torch",
        "torch.optim.Muon" + (" without bfloat16" if exact else ""),
        given,
        runner(lambda p: optstudy_torch.Muon(p, dialect=None, **given)),  # vectors too
        runner(lambda p: _MuonAndAdamW(p, exact, **given)),
        gaps=True,
    )


_CUBIC = (1.5, -0.5, 0.0)
_PLAIN = {"lr": 0.02, "momentum": 0.8, "nesterov": False, "weight_decay": 0.3, "eps": 1e-2}

PEERS = [
    _averaged({}, {"plain_mean": True}),
    _averaged(
        {"avg_fn": "get_ema_avg_fn(0.97)"},
        {"average_decay": 0.97},
        avg_fn=torch.optim.swa_utils.get_ema_avg_fn(0.97),
    ),
    _accumulated(4),
    _clipped("clipped", torch.nn.utils.clip_grad_norm_, 1.0, max_norm=1.0),
    _clipped("clipped", torch.nn.utils.clip_grad_norm_, 300.0, max_norm=300.0),
    _clipped("clipped_by_value", torch.nn.utils.clip_grad_value_, 0.7, max_value=0.7),
    _muon(False),
    _muon(True),
    _muon(True, **_PLAIN),
    _muon(True, ns_coefficients=_CUBIC, ns_steps=3),
    _muon(True, adjust_lr_fn="match_rms_adamw"),
    pair("sgd", "SGD"),
    pair("sgd", "SGD", momentum=0.9),
    pair("sgd", "SGD", momentum=0.9, dampening=0.3),
    pair("sgd", "SGD", momentum=0.9, nesterov=True),
    pair("sgd", "SGD", weight_decay=0.01),
    pair("sgd", "SGD", maximize=True, weight_decay=0.01),
    pair("sgd", "SGD", momentum=0.9, nesterov=True, weight_decay=0.01, maximize=True),
    pair("sgd", "SGD", momentum=0.5, dampening=0.5, weight_decay=0.01, maximize=True),
    pair("adam", "Adam"),
    pair("adam", "Adam", betas=(0.8, 0.95), eps=1e-6),
    pair("adam", "Adam", weight_decay=0.01),
    pair("adam", "Adam", weight_decay=0.01, maximize=True),
    pair("adamw", "AdamW"),
    pair("adamw", "AdamW", weight_decay=0.1, maximize=True),
    pair("adamw", "Adam", decoupled_weight_decay=True, weight_decay=0.01),
    pair("amsgrad", "Adam", amsgrad=True),
    pair("amsgrad", "Adam", amsgrad=True, weight_decay=0.01, maximize=True),
    pair("amsgrad", "AdamW", amsgrad=True),
    pair("amsgrad", "AdamW", amsgrad=True, weight_decay=0.1, maximize=True),
    pair("adamax", "Adamax"),
    pair("adamax", "Adamax", betas=(0.8, 0.95), eps=1e-6),
    pair("adamax", "Adamax", weight_decay=0.01, maximize=True),
    pair("nadam", "NAdam"),
    pair("nadam", "NAdam", betas=(0.8, 0.95), eps=1e-6, momentum_decay=0.3),
    pair("nadam", "NAdam", momentum_decay=0.0),
    pair("nadam", "NAdam", momentum_decay=1e9),
    pair("nadam", "NAdam", weight_decay=0.01, maximize=True),
    pair("nadam", "NAdam", weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    pair("radam", "RAdam"),
    pair("radam", "RAdam", betas=(0.8, 0.95), eps=1e-6),
    pair("radam", "RAdam", betas=(0.9, 0.99999)),
    pair("radam", "RAdam", betas=(0.9, 0.5)),
    pair("radam", "RAdam", weight_decay=0.01, maximize=True),
    pair("radam", "RAdam", weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    pair("adagrad", "Adagrad"),
    pair("adagrad", "Adagrad", lr_decay=0.01, initial_accumulator_value=0.1, eps=1e-6),
    pair("adagrad", "Adagrad", lr_decay=0.01, weight_decay=0.01, maximize=True),
    pair("adadelta", "Adadelta"),
    pair("adadelta", "Adadelta", rho=0.95, eps=1e-4, weight_decay=0.01, maximize=True),
    pair("rmsprop", "RMSprop"),
    pair("rmsprop", "RMSprop", alpha=0.9, eps=1e-5),
    pair("rmsprop", "RMSprop", centered=True),
    pair("rmsprop", "RMSprop", momentum=0.9),
    pair("rmsprop", "RMSprop", momentum=0.9, centered=True, weight_decay=0.01, maximize=True),
    pair("asgd", "ASGD"),
    pair("asgd", "ASGD", lambd=0.0, t0=20.0),
    pair("asgd", "ASGD", lambd=0.3, alpha=0.6, t0=20.0),
    pair("asgd", "ASGD", lambd=0.01, t0=0.0, weight_decay=0.01, maximize=True),
    pair("adafactor", "Adafactor"),
    pair("adafactor", "Adafactor", lr=0.5, beta2_decay=-0.6, eps=(None, 0.1), d=2.0),
    pair("adafactor", "Adafactor", eps=(1e-3, 1e-3), weight_decay=0.1, maximize=True),
    pair("rprop", "Rprop", scheduled=False),
    pair("rprop", "Rprop", scheduled=False, maximize=True, etas=(0.4, 1.5)),
    pair("rprop", "Rprop", scheduled=False, lr=20.0, step_sizes=(0.01, 10.0)),
    *moving("sgd", "SGD", weight_decay=0.01),
    *moving("sgd", "SGD", momentum=0.9, dampening=0.3),
    *moving("adam", "Adam", weight_decay=0.01),
    *moving("adamw", "AdamW"),
    *moving("amsgrad", "Adam", amsgrad=True),
    *moving("adamax", "Adamax"),
    *moving("nadam", "NAdam"),
    *moving("radam", "RAdam"),
    *moving("adagrad", "Adagrad", lr_decay=0.01),
    *moving("adadelta", "Adadelta"),
    *moving("rmsprop", "RMSprop", momentum=0.9),
    *moving("asgd", "ASGD", lambd=0.01),
    *moving("adafactor", "Adafactor"),
    *moving("rprop", "Rprop"),
]
