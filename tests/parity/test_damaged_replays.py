"""Saved cases that are damaged: run as they say, or refused with the file and the entry."""

import json
import random
import warnings

import numpy as np
import pytest
from damage import changed, damaged, parts, told

import parity
from parity import epochs
from parity.case import Case, Special

CASES = {
    "adam": Case("scalar", "float32", 2, 3, ("mixed",), (Special(-1, 0, 2, 0.5),),
                 ({"lr": 0.1, "b1": 0.5}, {"amsgrad": True}), (0,), True, "torch"),
    "muon": Case("vectors", "float64", 1, 3, ("tiny", "huge"), (), ({"lr": 0.1},), (0, 0)),
    "epoch.careful": epochs.EpochCase(
        "vectors", "float32", "sgd", epochs.METHODS["careful"].options[0], 7, (1.0, 0.5), ()),
}  # fmt: skip
ODD = [
    None, True, -1, 0, 2, 10**5 + 1, 2**63, 10**400, 1.5, float("nan"), "", "x", "torch", "0x1p+9",
    "inf", "1e-119", "\u202e", [], ["x"], [1, 2, 3, "0x1p+1"], {}, {"a": 1}, {"float": "0x1p-999"},
    {"float": 1}, {"float": "0x1p+9999"}, {"lr": {"float": "nan"}}, {"eps": "x"}, {"b1": [1]},
]  # fmt: skip


def written(name):
    """What is in a file of this algorithm's case."""
    case = CASES[name].to_json()
    case.get("groups", [{}])[-1].pop("amsgrad", None)
    return {"optstudy-parity": 1, "algorithm": name, "backend": "numpy", "case": case}


def test_whole_files_are_run(tmp_path):
    for name in CASES:
        (tmp_path / "case.json").write_text(json.dumps(written(name)))
        assert parity.replay(tmp_path / "case.json").identical


@pytest.mark.parametrize(("seed", "count"), parts(240, 8000))
def test_whatever_a_file_holds(tmp_path, seed, count):
    draw, said = random.Random(seed), 0
    path = tmp_path / "case.json"
    for _ in range(count):
        data = written(draw.choice(list(CASES)))
        if draw.random() < 0.3:
            done, content = damaged(json.dumps(data).encode(), draw)
        elif draw.random() < 0.05:
            depth = draw.choice([100, 900, 5000])
            data["case"]["options" if "options" in data["case"] else "groups"] = "here"
            done = "nested"
            content = json.dumps(data).replace('"here"', "[" * depth + "]" * depth).encode()
        else:
            if draw.random() < 0.1:
                data = changed(data, draw, ODD)
            else:
                data["case"] = changed(data["case"], draw, ODD)
            content = json.dumps(data).encode()
            done = content.decode()
        path.write_bytes(content)
        try:
            with warnings.catch_warnings(action="error"), np.errstate(all="ignore"):
                assert parity.replay(path).cases == 1
        except Exception as error:
            try:
                message = told(error)
            except Exception as other:
                raise AssertionError(done) from other
            assert str(path) in message, (done, message)
            assert "expected a JSON file written by the parity suite, found" in message
            said += 1
    assert count >= said > count / 2
