"""What the fields of states are called in Keras, in the installed version."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optstudy_core import ALGORITHMS

GIVEN: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "amsgrad": {"amsgrad": True},
}
NAMELESS = {
    "Nadam": {"product"},  # a variable of which Keras says no name
    "Adafactor": {"row", "column", "m"},  # called as the parameter is; there is no momentum
}
CASES = [
    (name, kind, names)
    for name, algorithm in ALGORITHMS.items()
    for kind, names in algorithm.elsewhere.items()
    if kind.startswith("keras.")
]


@pytest.mark.parametrize(("name", "kind", "names"), CASES, ids=[name for name, _, _ in CASES])
def test_the_fields_are_called_so(name: str, kind: str, names: dict[str, str]) -> None:
    from parity.peers.keras import keras  # which says on which library Keras runs

    title = kind.rpartition(".")[2]
    optimizer = vars(keras.optimizers)[title](**GIVEN.get(name, GIVEN.get(title, {})))
    optimizer.build([keras.Variable(np.zeros(shape), name="w") for shape in ((3, 4), (4,))])
    paths = {v.path.rpartition("/")[2].removeprefix("w_") for v in optimizer.variables}
    named = {path for path in paths if not path.startswith("variable")}  # else "variable_5"
    assert {*names.values()} == named - {"learning_rate", "w"} - _unread(names)
    state = ALGORITHMS[name].state_type._fields
    assert {*state} - names.keys() == NAMELESS.get(title, set())


def _unread(names: dict[str, str]) -> set[str]:
    """Return what Keras counts where the algorithm has no need to."""
    return set() if "t" in names else {"iteration"}


def test_every_algorithm_of_keras_has_names() -> None:
    named = {name for name, _, _ in CASES}
    assert {a.name for a in ALGORITHMS.values() if "keras" in a.dialects} <= named
