"""A study's model and optimizer in Flax nnx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import optstudy_jax

from .study import Batch, Parameters, Study
from .training import Optimizer


class JaxLearner:
    """A :class:`studies.training.Learner`; the whole training step is one jitted function."""

    backend = "jax"

    def __init__(self, study: Study, optimizer: Optimizer) -> None:
        self._leaves = study.nnx_leaves
        self._graph, self._template = nnx.split(study.nnx_model(), nnx.Param)
        self._params = self._state(study.initial)
        make = optstudy_jax.from_core(optimizer.algorithm)
        transformation = make(learning_rate=optimizer.lr, dialect=optimizer.dialect)
        self._optimizer_state = transformation.init(self._params)
        graph, loss_function = self._graph, study.jax_loss

        def outputs_at(params: Any, inputs: Any) -> Any:
            return nnx.merge(graph, params)(inputs)

        def loss_at(params: Any, inputs: Any, targets: Any) -> Any:
            return loss_function(outputs_at(params, inputs), targets)

        def apply(params: Any, state: Any, gradients: Any) -> Any:
            updates, state = transformation.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        def step(params: Any, state: Any, inputs: Any, targets: Any) -> Any:
            loss, gradients = jax.value_and_grad(loss_at)(params, inputs, targets)
            return *apply(params, state, gradients), loss

        self._step = jax.jit(step)
        self._apply = jax.jit(apply)
        self._outputs = jax.jit(outputs_at)
        self._loss = jax.jit(loss_at)
        self._gradients = jax.jit(jax.grad(loss_at))

    def step(self, batch: Batch) -> jax.Array:
        """Train on a mini-batch; return its loss before the step."""
        self._params, self._optimizer_state, loss = self._step(
            self._params, self._optimizer_state, *batch
        )
        result: jax.Array = loss
        return result

    def apply(self, gradients: Parameters) -> None:
        """Make the optimizer's step for gradients from elsewhere."""
        self._params, self._optimizer_state = self._apply(
            self._params, self._optimizer_state, self._state(gradients)
        )

    def parameters(self) -> Parameters:
        """Return a copy of the parameters."""
        return self._arrays(self._params)

    def loss(self, parameters: Parameters, batch: Batch) -> float:
        """Return the loss at some parameters."""
        return float(self._loss(self._state(parameters), *batch))

    def gradients(self, parameters: Parameters, batch: Batch) -> Parameters:
        """Return the gradients of the loss at some parameters."""
        return self._arrays(self._gradients(self._state(parameters), *batch))

    def outputs(self, parameters: Parameters, inputs: np.ndarray) -> np.ndarray:
        """Return what the model makes of some inputs at some parameters."""
        return np.asarray(self._outputs(self._state(parameters), inputs))

    # Between the names of the study and the tree of nnx.

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
