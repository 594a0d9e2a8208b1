"""Handwritten digits: a small perceptron on the 8×8 images that scikit-learn ships.

Data: 1797 grey images of 64 pixels from 0 to 1, ten classes (a copy of the test set of the UCI
ML hand-written digits data). 1440 are for training, 357 are held out, drawn with the seed. The
model is 64-32-10 with ReLU; the loss is the mean cross-entropy over the mini-batch. Weights and
biases start uniform in ±1/√(inputs of the layer), PyTorch's rule, drawn by NumPy once for both.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import numpy as np

from . import figures
from .study import Batch, NnxLeaf, Parameters, Study, stream

LAYERS: Final = {"hidden": (64, 32), "out": (32, 10)}
"""Inputs and outputs of the layers."""
TRAIN_SIZE: Final = 1440


def study(seed: int) -> Study:
    """Return the study.

    Args:
        seed: of the split, the initial parameters and the order of the mini-batches.
    """
    train, test = images(seed)
    return Study(
        name="digits",
        title="Handwritten digits",
        seed=seed,
        train=train,
        test=test,
        initial=initial_parameters(seed),
        nnx_leaves={
            f"{layer}.{name}": leaf
            for layer in LAYERS
            for name, leaf in {
                # PyTorch keeps (outputs, inputs), nnx keeps (inputs, outputs).
                "weight": NnxLeaf((layer, "kernel"), axes=(1, 0)),
                "bias": NnxLeaf((layer, "bias")),
            }.items()
        },
        torch_model=_torch_model,
        nnx_model=_nnx_model,
        torch_loss=_torch_loss,
        jax_loss=_jax_loss,
        loss_label="mean cross-entropy (nat)",
        batch_size=32,
        epochs=25,
        learning_rates={"sgd": 1e-1, "adam": 2e-3},
        path_every="epoch",
        metrics=lambda outputs, targets: {"test_accuracy": accuracy(outputs, targets)},
        draw_predictions=figures.class_probabilities,
        showcase=showcase(train, test),
    )


def images(seed: int) -> tuple[Batch, Batch]:
    """Return the training and the held-out images, inputs of shape (n, 64) in [0, 1]."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = stream(seed, "split").permutation(len(labels))
    everything = Batch((pixels / 16).astype(np.float32), labels.astype(np.int32))
    return everything.take(order[:TRAIN_SIZE]), everything.take(order[TRAIN_SIZE:])


def initial_parameters(seed: int) -> Parameters:
    """Return weights of shape (outputs, inputs) and biases of shape (outputs,), float32."""
    random = stream(seed, "parameters")
    drawn: Parameters = {}
    for layer, (inputs, outputs) in LAYERS.items():
        limit = inputs**-0.5
        drawn[f"{layer}.weight"] = random.uniform(-limit, limit, (outputs, inputs))
        drawn[f"{layer}.bias"] = random.uniform(-limit, limit, outputs)
    return {name: value.astype(np.float32) for name, value in drawn.items()}


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Return the share of examples whose largest output is the target's.

    An example with a NaN among its outputs has no largest one.
    """
    right = (np.argmax(outputs, axis=1) == targets) & ~np.isnan(outputs).any(axis=1)
    return float(np.mean(right))


def showcase(train: Batch, test: Batch, count: int = 8) -> Batch:
    """Return held-out images from plain to ambiguous, the same for every run.

    An image's margin is how much closer it is to its own class's mean image than to any other's;
    the images are those at evenly spaced ranks of the margin, no class twice if it can be helped.
    """
    means = np.stack([train.inputs[train.targets == c].mean(axis=0) for c in range(10)])
    distance = np.linalg.norm(test.inputs[:, None] - means, axis=2)
    own = np.take_along_axis(distance, test.targets[:, None], axis=1)[:, 0]
    others = np.where(np.arange(10) == test.targets[:, None], np.inf, distance).min(axis=1)
    ranked = np.argsort(own - others, kind="stable")
    chosen: list[int] = []
    for start in np.linspace(0, len(ranked) - 1, count).round().astype(int):
        # From this rank towards the plain ones, until a class comes that is not shown yet.
        candidates = ranked[: start + 1][::-1] if start else ranked
        shown = set(test.targets[chosen].tolist()) if chosen else set()
        fresh = [int(i) for i in candidates if int(test.targets[i]) not in shown]
        chosen.append(fresh[0] if fresh else int(candidates[0]))
    return test.take(np.array(chosen))


def _torch_model() -> Any:
    from torch import nn

    return nn.Sequential(
        OrderedDict(
            hidden=nn.Linear(*LAYERS["hidden"]), relu=nn.ReLU(), out=nn.Linear(*LAYERS["out"])
        )
    )


def _nnx_model() -> Any:
    from flax import nnx

    class Perceptron(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.hidden = nnx.Linear(*LAYERS["hidden"], rngs=rngs)
            self.out = nnx.Linear(*LAYERS["out"], rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.out(nnx.relu(self.hidden(x)))

    return Perceptron(nnx.Rngs(0))


def _torch_loss(outputs: Any, targets: Any) -> Any:
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs, targets.long())


def _jax_loss(outputs: Any, targets: Any) -> Any:
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()
