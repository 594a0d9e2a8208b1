"""A recorder of quantities of a training, for any ``torch.optim.Optimizer``.

>>> import torch
>>> _ = torch.manual_seed(0)
>>> model = torch.nn.Linear(2, 1)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
>>> x, y = torch.randn(8, 2), torch.randn(8, 1)
>>> with Recorder(model, optimizer, epoch=["loss", "step_size", "angle"], step=["grad_norm"]) as r:
...     for _ in range(2):  # epochs of three steps
...         for _ in range(3):
...             optimizer.zero_grad()
...             loss = torch.nn.functional.mse_loss(model(x), y)
...             loss.backward()
...             optimizer.step()
...             r.step(loss)
...         row = r.end_epoch()
>>> list(row), list(row["layers"]), len(r.steps)
(['epoch', 'loss', 'step_size', 'angle', 'layers'], ['weight', 'bias'], 6)

The quantities are those of :mod:`optstudy_core.instruments`. The measurements of a step stay on the
device until the epoch ends. The recorder does not wait for the device within an epoch, never writes
to a parameter or a gradient, and never draws from a random generator.
"""

from __future__ import annotations

from .recorder import Recorder

__all__ = ["Recorder"]
