"""Run folders that survive the end of a process at any moment.

A run is a folder:

- ``config.json``: the configuration, the versions and the platform;
- ``records.sqlite``: a row of measurements for each epoch, and for each recorded step;
- ``checkpoints/``: arrays and state in safetensors files;
- ``tensorboard/``: the same rows for TensorBoard (those of steps in ``tensorboard/steps``).

When a call that writes a row returns, the row is on disk. A checkpoint is written completely,
together with its row, or not at all. Nothing is ever unpickled.

Checkpoints and TensorBoard need the extra ``records`` (``pip install 'optstudy[records]'``).

>>> import tempfile
>>> import numpy as np
>>> folder = tempfile.mkdtemp()
>>> with Run.create(folder, {"lr": 0.1}, tensorboard=False) as run:
...     for epoch, loss in enumerate([2.0, 1.0], 1):
...         run.checkpoint(epoch, {"w": np.ones(3)}, {"seen": epoch}, row={"loss": loss})
>>> run = Run.read(folder)
>>> run.config["lr"], run.column("loss").tolist(), run.last_checkpoint().epoch
(0.1, [2.0, 1.0], 2)
"""

from ._arrays import Checkpoint
from ._config import environment
from ._files import WriteError, write_json, write_text
from ._generators import random_state, restore_random_state
from ._output import Output, Recording
from ._rows import column
from ._sinks import TensorBoard
from ._tree import check_names, pack, unpack
from .run import Run

__all__ = [
    "Checkpoint",
    "Output",
    "Recording",
    "Run",
    "TensorBoard",
    "WriteError",
    "check_names",
    "column",
    "environment",
    "pack",
    "random_state",
    "restore_random_state",
    "unpack",
    "write_json",
    "write_text",
]
