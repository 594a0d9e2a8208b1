"""Handwritten digits: a small perceptron on the images of scikit-learn, or on MNIST.

The data are 1797 grey images of 64 pixels from 0 to 1, in ten classes (a copy of the test set of
the UCI ML hand-written digits data). 1440 images are for training, 357 are held out, drawn with the
seed. The model is 64-32-10 with ReLU; for MNIST it is 784-32-10, and a fifth of the images is held
out. The loss is the mean cross-entropy over the mini-batch. Initial weights and biases are uniform
in ±1/√(inputs of the layer), as in PyTorch, and drawn by NumPy once for both frameworks.
"""

from __future__ import annotations

import pathlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from studies import figures
from studies.study import Batch, Study, layers, stream

from . import idx

HIDDEN: Final = 32
CLASSES: Final = 10
TRAIN_SIZE: Final = 1440


def study(seed: int, data: pathlib.Path | None = None) -> Study:
    """Return the study.

    Args:
        seed: the seed of the split, the initial parameters and the order of the mini-batches.
        data: a folder with IDX files of MNIST; ``None``: the digits of scikit-learn.
    """
    everything, train_size = images(data)
    pixels = everything.inputs.shape[1]
    return of_images(
        seed,
        everything,
        train_size,
        name="digits",
        title="Handwritten digits" if data is None else "MNIST, a perceptron",
        shapes={"hidden": (HIDDEN, pixels), "out": (CLASSES, HIDDEN)},
        torch_model=lambda: _torch_model(pixels),
        nnx_model=lambda: _nnx_model(pixels),
        learning_rates={"sgd": 1e-1, "adam": 2e-3},
        epochs=25 if data is None else 10,
    )


def of_images(
    seed: int,
    everything: Batch,
    train_size: int,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    **rest: Any,
) -> Study:
    """Return a study of images of digits.

    Args:
        seed: the seed of all draws.
        everything: the images, shape (n, pixels), and the classes.
        train_size: the number of images for training.
        shapes: the shapes of the weights of the layers.
        rest: the model of the study.
    """
    order = stream(seed, "split").permutation(len(everything.targets))
    train, test = everything.take(order[:train_size]), everything.take(order[train_size:])
    initial, leaves = layers(seed, shapes)
    return Study(
        seed=seed,
        train=train,
        test=test,
        initial=initial,
        nnx_leaves=leaves,
        torch_loss=_torch_loss,
        jax_loss=_jax_loss,
        loss_label="mean cross-entropy (nat)",
        batch_size=32,
        path_every="epoch",
        metrics=lambda outputs, targets: {"test_accuracy": accuracy(outputs, targets)},
        draw_predictions=figures.class_probabilities,
        showcase=showcase(train, test),
        landscape=None if train_size == TRAIN_SIZE else train.take(slice(0, 1024)),
        **rest,
    )


def images(data: pathlib.Path | None) -> tuple[Batch, int]:
    """Return all images, shape (n, pixels), in [0, 1], and the number of images for training.

    Args:
        data: a folder with IDX files; ``None``: the digits of scikit-learn.
    """
    if data is None:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        everything = Batch((pixels / 16).astype(np.float32), labels.astype(np.int32))
        return everything, TRAIN_SIZE
    everything = idx.read(data)
    # Four fifths, a multiple of the mini-batch.
    return everything, max(32, len(everything.targets) * 4 // 5 // 32 * 32)


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Return the share of examples with the largest output at the target.

    An example with NaN in its outputs counts as wrong.
    """
    right = (np.argmax(outputs, axis=1) == targets) & ~np.isnan(outputs).any(axis=1)
    return float(np.mean(right))


def showcase(train: Batch, test: Batch, count: int = 8) -> Batch:
    """Return held-out images from plain to ambiguous, the same for every run.

    The margin of an image is its distance to the nearest mean image of another class, minus the
    distance to the mean image of its own class. The images have evenly spaced ranks of the margin,
    and different classes if possible.
    """
    means = np.stack([train.inputs[train.targets == c].mean(axis=0) for c in range(10)])
    distance = np.linalg.norm(test.inputs[:, None] - means, axis=2)
    own = np.take_along_axis(distance, test.targets[:, None], axis=1)[:, 0]
    others = np.where(np.arange(10) == test.targets[:, None], np.inf, distance).min(axis=1)
    ranked = np.argsort(own - others, kind="stable")
    chosen: list[int] = []
    for start in np.linspace(0, len(ranked) - 1, count).round().astype(int):
        # From this rank towards plain images, until a class is not shown yet.
        candidates = ranked[: start + 1][::-1] if start else ranked
        shown = set(test.targets[chosen].tolist()) if chosen else set()
        fresh = [int(i) for i in candidates if int(test.targets[i]) not in shown]
        chosen.append(fresh[0] if fresh else int(candidates[0]))
    return test.take(np.array(chosen))


def _torch_model(pixels: int) -> Any:
    from torch import nn

    return nn.Sequential(
        OrderedDict(
            hidden=nn.Linear(pixels, HIDDEN), relu=nn.ReLU(), out=nn.Linear(HIDDEN, CLASSES)
        )
    )


def _nnx_model(pixels: int) -> Any:
    from flax import nnx

    class Perceptron(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.hidden = nnx.Linear(pixels, HIDDEN, rngs=rngs)
            self.out = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.out(nnx.relu(self.hidden(x)))

    return Perceptron(nnx.Rngs(0))


def _torch_loss(outputs: Any, targets: Any) -> Any:
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs, targets.long())


def _jax_loss(outputs: Any, targets: Any) -> Any:
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()
