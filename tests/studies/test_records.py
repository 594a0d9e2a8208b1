"""The records of a study's runs, beside their rows."""

import math

import numpy as np

from optstudy_core.records import Run
from studies import records


def test_what_is_not_in_the_rows_comes_back(tmp_path):
    path = records.Path.start({"w": np.float32([0.0])}, "epoch")
    path.append({"w": np.float32([1.0])})
    path.replace_last({"w": np.float32([2.0])})
    with Run.create(tmp_path, {"study": "s"}, tensorboard=False) as run:
        run.epoch(1, {"loss": math.inf, "layers": {"w": {"angle": math.nan}}})
        assert records.read(tmp_path).parameters is None
        assert records.read(tmp_path).path is None
        records.finish(run, 1, {"w": np.float32([3.0])}, path, 0.25)
    again = records.read(tmp_path)
    assert again.config["study"] == "s"
    assert again.column("loss").tolist() == [math.inf]
    assert np.isnan(again.layer_column("w", "angle")).all()
    assert again.parameters["w"].tolist() == [3.0]
    assert again.path.every == "epoch"
    assert [again.path[i]["w"].item() for i in range(2)] == [0.0, 2.0]


def test_the_path_is_in_the_order_of_the_names_asked_for(tmp_path):
    path = records.Path.start({"z": np.float32([1, 2]), "a": np.float32([3])}, "step")
    path.append({"z": np.float32([4, 5]), "a": np.float32([6])})
    with Run.create(tmp_path, {}, tensorboard=False) as writer:
        records.finish(writer, 1, path[1], path, 0.5)
    assert records.read(tmp_path).loss == 0.5
    again = records.read(tmp_path).path
    assert again.matrix(["z", "a"]).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert len(again.at_epochs(1)) == 2
