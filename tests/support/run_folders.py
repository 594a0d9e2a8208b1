"""Run folders as the studies write them, without a training, and what a report says of them."""

from __future__ import annotations

import json
import re

import numpy as np

from optstudy_core.records import Run
from studies import records

LAYERS = ("first.weight", "first.bias")


def write_run(folder, *, epochs=6, ended=True, layers=LAYERS, **config):
    """Write a run of the layout of the studies, of no study."""
    config = {"study": "made", "algorithm": "adam", "backend": "torch", "lr": 0.1, **config}
    random = np.random.default_rng(len(str(folder)))
    path = records.Path.start({"w": np.float32([1, 2, 3])}, "epoch")
    with Run.create(folder, config, tensorboard=False) as run:
        for epoch in range(1, epochs + 1):
            run.epoch(
                epoch,
                {
                    "epoch": epoch,
                    "steps": 4,
                    "loss": 2.0**-epoch,
                    "step_size": float(random.random()),
                    "angle": float(random.random() * 180) if epoch > 1 else float("nan"),
                    "layers": {
                        name: {"step_size": float(random.random()), "angle": 90.0}
                        for name in layers
                    },
                    "method": {"lr_factor": 0.5, "undone": False, "evaluations": 6, "s": 0.0},
                },
            )
            path.append({"w": np.float32([1, 2, 3]) / epoch})
        if ended:
            records.finish(run, epochs, {"w": np.float32([1, 1, 1])}, path, 0.125)


def data_of(file):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', file.read_text())
    return json.loads(found[1])
