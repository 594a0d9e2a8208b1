"""Handwritten digits with a small convolutional network, on the data of ``digits``.

The network has 3×3 convolutions with 8 and 16 channels, each with ReLU and 2×2 max pooling, and a
linear layer.
"""

from __future__ import annotations

import pathlib
from typing import Any, Final

from studies.study import Study

from .digits import CLASSES, images, of_images

CHANNELS: Final = (8, 16)


def study(seed: int, data: pathlib.Path | None = None) -> Study:
    """Return the study.

    Args:
        seed: the seed of the split, the initial parameters and the order of the mini-batches.
        data: a folder with IDX files of MNIST; ``None``: the digits of scikit-learn.
    """
    everything, train_size = images(data)
    side = round(everything.inputs.shape[1] ** 0.5)
    first, second = CHANNELS
    features = second * (side // 4) ** 2
    return of_images(
        seed,
        everything,
        train_size,
        name="digits_cnn",
        title=f"{'Handwritten digits' if data is None else 'MNIST'}, convolutional",
        shapes={
            "conv1": (first, 1, 3, 3),
            "conv2": (second, first, 3, 3),
            "out": (CLASSES, features),
        },
        torch_model=lambda: _torch_model(side, features),
        nnx_model=lambda: _nnx_model(side, features),
        learning_rates={"sgd": 5e-2, "adam": 2e-3},
        epochs=10 if data is None else 5,
        grid=25 if data is None else 13,
        threads=None,
    )


def _torch_model(side: int, features: int) -> Any:
    from torch import nn
    from torch.nn.functional import max_pool2d

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, CHANNELS[0], 3, padding="same")
            self.conv2 = nn.Conv2d(*CHANNELS, 3, padding="same")
            self.out = nn.Linear(features, CLASSES)

        def forward(self, x: Any) -> Any:
            x = x.reshape(-1, 1, side, side)
            for layer in (self.conv1, self.conv2):
                x = max_pool2d(layer(x).relu(), 2)
            return self.out(x.flatten(1))

    return Network()


def _nnx_model(side: int, features: int) -> Any:
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv1 = nnx.Conv(1, CHANNELS[0], (3, 3), padding="SAME", rngs=rngs)
            self.conv2 = nnx.Conv(*CHANNELS, (3, 3), padding="SAME", rngs=rngs)
            self.out = nnx.Linear(features, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = x.reshape(-1, side, side, 1)
            for layer in (self.conv1, self.conv2):
                x = nnx.max_pool(nnx.relu(layer(x)), (2, 2), strides=(2, 2))
            # The order of the features in PyTorch: channels first.
            return self.out(x.transpose(0, 3, 1, 2).reshape(len(x), -1))

    return Network(nnx.Rngs(0))
