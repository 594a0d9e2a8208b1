"""The model and the optimizer of a study in Flax nnx."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import optstudy_jax
from optstudy_core import ALGORITHMS
from optstudy_jax import epoch
from studies.study import Batch, Parameters, Study, draw_signs, stream

from .methods import Ended, Method
from .optimizer import Optimizer


def _on_its_device(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: JaxLearner, *args: Any) -> Any:
        # By default, products on a GPU have ten bits of precision.
        with jax.default_device(self._device), jax.default_matmul_precision("highest"):
            return method(self, *args)

    return call


class JaxLearner:
    """A :class:`.training.Learner`; the whole training step is one jitted function."""

    backend = "jax"

    def __init__(self, study: Study, optimizer: Optimizer) -> None:
        self._device = jax.devices(study.device)[0]
        self._make(study, optimizer)

    @_on_its_device
    def _make(self, study: Study, optimizer: Optimizer) -> None:
        self._leaves, self._parts = study.nnx_leaves, study.parts
        algorithm = ALGORITHMS[optimizer.algorithm]
        self._needs_hessian = "hessian" in algorithm.inputs
        self._random = stream(study.seed, "signs")
        self._graph, self._template = nnx.split(study.nnx_model(), nnx.Param)
        self._params = self._state(study.initial)
        make = optstudy_jax.from_core(optimizer.algorithm)
        if algorithm.leafwise:
            make = self._in_torchs_layout(make)
        at_rate = partial(make, dialect=optimizer.dialect)
        transformation, begin = _method(optimizer.at_the_end, at_rate, study.rate(optimizer.lr))
        self._optimizer_state = transformation.init(self._params)
        graph, loss_function = self._graph, study.jax_loss

        def outputs_at(params: Any, inputs: Any, *masks: Any) -> Any:
            return nnx.merge(graph, params)(inputs, *masks)

        def loss_at(params: Any, inputs: Any, targets: Any, masks: Any) -> Any:
            return loss_function(outputs_at(params, inputs, *masks), targets)

        def mean_loss(params: Any, *batch: Any) -> Any:
            if study.at_once is None:
                return loss_at(params, *batch)
            parts = jax.tree.map(lambda x: x.reshape(-1, study.at_once, *x.shape[1:]), batch)
            return jax.lax.map(lambda part: loss_at(params, *part), parts).mean()

        def apply(params: Any, state: Any, gradients: Any, loss: Any, **more: Any) -> Any:
            updates, state = transformation.update(gradients, state, params, value=loss, **more)
            return optax.apply_updates(params, updates), state

        def diagonal(params: Any, signs: Any, *batch: Any) -> Any:
            return optstudy_jax.hutchinson(lambda p: loss_at(p, *batch), params, signs=signs)

        def step(params: Any, state: Any, signs: Any, *batch: Any) -> Any:
            loss, gradients = jax.value_and_grad(loss_at)(params, *batch)
            more = {} if signs is None else {"hessian": diagonal(params, signs, *batch)}
            return *apply(params, state, gradients, loss, **more), loss

        self._diagonal = jax.jit(diagonal)
        self._step = jax.jit(step)
        self._apply = jax.jit(apply)
        self._outputs = jax.jit(outputs_at)
        self._loss = jax.jit(loss_at)
        self._gradients = jax.jit(jax.grad(loss_at))
        self._end = begin(self._params, mean_loss)

    @_on_its_device
    def step(self, batch: Batch) -> jax.Array:
        """Train on a mini-batch; return its loss before the step."""
        signs = self._signs() if self._needs_hessian else None
        self._params, self._optimizer_state, loss = self._step(
            self._params, self._optimizer_state, signs, *batch
        )
        result: jax.Array = loss
        return result

    def _signs(self) -> Any:
        shapes = {name: x.shape for name, x in self.parameters().items()}
        return self._state(draw_signs(self._random, shapes))

    @_on_its_device
    def apply(self, gradients: Parameters, loss: float, hessian: Parameters | None = None) -> None:
        """Step the optimizer with given gradients, a loss and an estimate of the Hessian."""
        more = {} if hessian is None else {"hessian": self._state(hessian)}
        self._params, self._optimizer_state = self._apply(
            self._params,
            self._optimizer_state,
            self._state(gradients),
            np.float32(loss),
            **more,
        )

    @_on_its_device
    def end_epoch(self, loss: float, train: Batch) -> Ended:
        """Let the method end an epoch."""
        self._params, self._optimizer_state, ended = self._end(
            self._params, self._optimizer_state, loss, train
        )
        return ended

    def parameters(self) -> Parameters:
        """Return a copy of the parameters."""
        return self._arrays(self._params)

    @_on_its_device
    def loss(self, parameters: Parameters, batch: Batch) -> float:
        """Return the loss at some parameters."""
        return float(self._loss(self._state(parameters), *batch))

    @_on_its_device
    def gradients(self, parameters: Parameters, batch: Batch) -> Parameters:
        """Return the gradients of the loss at some parameters."""
        return self._arrays(self._gradients(self._state(parameters), *batch))

    @_on_its_device
    def hessian(self, parameters: Parameters, batch: Batch) -> Parameters | None:
        """Return an estimate of the diagonal of the Hessian, if the algorithm needs one."""
        if not self._needs_hessian:
            return None
        return self._arrays(self._diagonal(self._state(parameters), self._signs(), *batch))

    @_on_its_device
    def outputs(self, parameters: Parameters, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs of the model for some inputs at some parameters."""
        at = self._state(parameters)
        parts = [self._outputs(at, inputs[rows]) for rows in self._parts(len(inputs))]
        return np.concatenate(parts)

    def _in_torchs_layout(self, make: Any) -> Any:
        """Return a constructor of optimizers that get kernels in the layout of PyTorch."""
        axes = {"/".join(map(str, x.path)): x.torch_axes for x in self._leaves.values()}

        def make_turned(learning_rate: Any, **hyperparameters: Any) -> Any:
            made = make(learning_rate, **hyperparameters)
            return optstudy_jax.in_torch_layout(made, lambda name, _: axes[name])

        return make_turned

    # Conversions between the names of the study and the tree of nnx.

    def _state(self, arrays: Mapping[str, np.ndarray]) -> Any:
        by_path: dict[Any, np.ndarray] = {
            leaf.path: leaf.to_nnx(arrays[name]) for name, leaf in self._leaves.items()
        }
        return nnx.from_flat_state(
            [
                (path, param.replace(jnp.asarray(by_path[path])))
                for path, param in nnx.to_flat_state(self._template)
            ]
        )

    def _arrays(self, state: Any) -> Parameters:
        by_path: dict[Any, np.ndarray] = {
            path: np.asarray(param[...]) for path, param in nnx.to_flat_state(state)
        }
        return {
            name: leaf.from_nnx(by_path[leaf.path]).copy() for name, leaf in self._leaves.items()
        }


make = JaxLearner


# Ends of epochs: functions (params, state, loss, train) -> (params, state, what was done).

End = Callable[[Any, Any, float, Batch], tuple[Any, Any, Ended]]


def _method(method: Method, at_rate: Any, lr: Any) -> tuple[Any, Callable[[Any, Any], End]]:
    """Return the optimizer, and a function that makes the end of an epoch."""
    if method.kind in _CONTROLS:
        control = getattr(epoch, method.kind)(**method.values)
        return epoch.with_control(at_rate, control, lr), partial(_rate, control)
    return at_rate(learning_rate=lr), partial(_MOVES[method.kind], dict(method.values))


def _rate(control: Any, start: Any, loss_at: Any) -> End:
    del start, loss_at
    end_epoch = jax.jit(partial(epoch.end_epoch, control))

    def end(params: Any, state: Any, loss: float, train: Batch) -> tuple[Any, Any, Ended]:
        params, state = end_epoch(params, state, value=loss)
        factor, cut = state.control.decided.factor, state.control.metrics.cut
        return params, state, Ended(float(factor), control.rollback and bool(cut))

    return end


def _nothing(values: Any, start: Any, loss_at: Any) -> End:
    del values, start, loss_at
    return lambda params, state, loss, train: (params, state, Ended())


def _eve(values: dict[str, Any], start: Any, loss_at: Any) -> End:
    search = epoch.eve_march if values.pop("search", "grid") == "march" else epoch.eve

    @jax.jit
    def go(params: Any, start: Any, *batch: Any) -> Any:
        return search(params, start, lambda p: loss_at(p, *batch), **values)

    def end(params: Any, state: Any, loss: float, train: Batch) -> tuple[Any, Any, Ended]:
        nonlocal start
        start, choice = go(params, start, *train)
        return start, state, Ended(evaluations=int(choice.evaluations), s=float(choice.s))

    return end


def _extrapolate(values: dict[str, Any], start: Any, loss_at: Any) -> End:
    del loss_at
    move = jax.jit(partial(epoch.extrapolate, **values))
    previous = jax.tree.map(jnp.zeros_like, start)

    def end(params: Any, state: Any, loss: float, train: Batch) -> tuple[Any, Any, Ended]:
        nonlocal start, previous
        start, previous = move(params, start, previous)
        return start, state, Ended()

    return end


def _momentum(values: dict[str, Any], start: Any, loss_at: Any) -> End:
    del loss_at
    move = jax.jit(partial(epoch.epoch_momentum, **values))
    average = epoch.epoch_momentum_init(start)

    def end(params: Any, state: Any, loss: float, train: Batch) -> tuple[Any, Any, Ended]:
        nonlocal start, average
        average, start = move(average, params, start)
        return start, state, Ended()

    return end


_CONTROLS: Final = frozenset({"direction", "careful", "direction_careful"})
_MOVES: Final[Mapping[str, Callable[[Any, Any, Any], End]]] = {
    "plain": _nothing,
    "eve": _eve,
    "extrapolate": _extrapolate,
    "momentum": _momentum,
}
