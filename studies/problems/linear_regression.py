"""Linear regression: fit y = m·x + b to noisy points.

The model has two parameters, so a plane shows the whole training. The data are N = 120 points with
x uniform in [−1, 3] and y = 1.5·x − 0.5 + noise, where the noise is normal with standard deviation
0.6. The loss is the sum Σ(y_pred − y_data)² over the mini-batch. Training starts far from the
minimum, at (m, b) = (−1.5, 2.5).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from studies import figures
from studies.study import Batch, NnxLeaf, Study, stream

POINTS: Final = 120
SLOPE: Final = 1.5
INTERCEPT: Final = -0.5
NOISE: Final = 0.6
RATES: Final = {
    "acprop": 5e-2, "adabelief": 5e-2, "adadelta": 5.0, "adafactor": 5e-1, "adagrad": 5e-1,
    "adam": 5e-2, "adamax": 2e-1, "adamaxw": 2e-1, "adamw": 1e-1, "adan": 1.0, "ademamix": 1e-1,
    "adopt": 1e-1, "amsgrad": 1e-1, "asgd": 2e-3, "cocob": 5e-4, "dadapt_adamw": 5e-1, "dog": 2.0,
    "dowg": 1.0, "fromage": 2e-1, "grams": 1e-1, "lamb": 5e-2, "lars": 5.0, "lion": 5e-2,
    "madgrad": 2e-3, "mars": 2e-1, "nadam": 1e-1, "nadamw": 5e-2, "novograd": 5e-3,
    "optimistic_adam": 1e-1, "optimistic_gradient_descent": 2e-3, "prodigy": 1.0, "radam": 2e-2,
    "rmsprop": 2e-1, "rprop": 5e-3, "schedule_free_adamw": 5.0, "schedule_free_sgd": 1e-2,
    "sgd": 2e-3, "sign_sgd": 5e-2, "signum": 5e-2, "sm3": 5e-1, "stable_adamw": 5e-2, "yogi": 2e-2,
}  # fmt: skip
"""Of 1, 2 and 5 times the powers of ten from 1e-4 to 5, the rate with the lowest final loss
(default seed); a smaller rate for algorithms with steps of a fixed length."""


def study(seed: int) -> Study:
    """Return the study.

    Args:
        seed: the seed of the points, the noise and the order of the mini-batches.
    """
    train = points(seed)
    return Study(
        name="linear_regression",
        title="Linear regression",
        seed=seed,
        train=train,
        test=None,
        initial={"m": np.array(-1.5, np.float32), "b": np.array(2.5, np.float32)},
        nnx_leaves={"m": NnxLeaf(("m",)), "b": NnxLeaf(("b",))},
        torch_model=_torch_model,
        nnx_model=_nnx_model,
        torch_loss=sum_of_squares,
        jax_loss=sum_of_squares,
        loss_label="Σ(y_pred − y_data)²",
        batch_size=20,
        epochs=30,
        learning_rates=RATES,
        path_every="step",
        draw_predictions=figures.fitted_lines,
        showcase=train,
    )


def points(seed: int) -> Batch:
    """Return the points (x, y), two float32 vectors of shape (120,).

    >>> x, y, _ = points(1)
    >>> x.shape, y.dtype.name
    ((120,), 'float32')
    """
    random = stream(seed, "points")
    x = random.uniform(-1.0, 3.0, POINTS)
    y = SLOPE * x + INTERCEPT + random.normal(0.0, NOISE, POINTS)
    return Batch(x.astype(np.float32), y.astype(np.float32))


def sum_of_squares(outputs: Any, targets: Any) -> Any:
    """Return Σ(outputs − targets)² for arrays of any framework."""
    residual = outputs - targets
    return (residual * residual).sum()


def _torch_model() -> Any:
    import torch

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = torch.nn.Parameter(torch.zeros(()))
            self.b = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.m * x + self.b

    return Line()


def _nnx_model() -> Any:
    import jax.numpy as jnp
    from flax import nnx

    class Line(nnx.Module):
        def __init__(self) -> None:
            self.m = nnx.Param(jnp.zeros(()))
            self.b = nnx.Param(jnp.zeros(()))

        def __call__(self, x: Any) -> Any:
            return self.m[...] * x + self.b[...]

    return Line()
