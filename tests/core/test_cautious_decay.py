"""Weight decay only where the step goes towards zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import draw, start, to_numpy, to_torch

import optstudy_torch
from optstudy_core import ALGORITHMS, terms

RULES = [name for name, rule in ALGORITHMS.items() if "cautious_decay" in rule.defaults()]


def steps(name: str, **given: Any) -> list[np.ndarray]:
    """The steps from large parameters of both signs, decoupled where the rule has the choice."""
    rule, theta = ALGORITHMS[name], np.array([4.0, -4.0, 0.0, 2.0, -2.0], np.float32)
    if "decoupled_weight_decay" in rule.defaults():
        given["decoupled_weight_decay"] = True
    shape = (1, 5) if "muon" in name else (5,)  # whose decay of vectors is another argument
    theta = theta.reshape(shape)
    values = rule.resolve(None, {"lr": 0.01, **given})
    state = rule.start(theta, values)
    found = []
    for (grad,) in draw([(5,)], 4):
        more = {"hessian": np.ones_like(theta)} if "hessian" in rule.inputs else {}
        state, step = rule.update(state, grad.reshape(shape), theta, **more, **values)
        found.append(step.reshape(5))
    return found


@pytest.mark.parametrize("name", RULES)
def test_the_decay_of_an_element_is_whole_or_absent(name: str) -> None:
    without, whole = steps(name, weight_decay=0.0), steps(name, weight_decay=0.5)
    cautious = steps(name, weight_decay=0.5, cautious_decay=True)
    theta = np.array([4.0, -4.0, 0.0, 2.0, -2.0], np.float32)
    seen = set()
    same = 1 if name.startswith("schedule_free") else None  # its state has a copy of the parameters
    for none, full, own in list(zip(without, whole, cautious, strict=True))[:same]:
        towards = np.sign(none) * theta <= 0
        assert np.array_equal(own, np.where(towards, full, none))
        seen |= {*towards[full != none].tolist()}
    assert seen == {True, False}


@pytest.mark.parametrize("decay", [terms.decoupled_decay, terms.proximal_decay])
def test_a_product_that_underflows_keeps_its_sign(decay: Any) -> None:
    tiny = np.float32([1e-30, -3e-30])
    given = {"lr": 1.0, "weight_decay": 0.5, "cautious": True}
    step = decay(np.float32([1e-30, 1e-30]), tiny, **given)
    assert step[0] == np.float32(1e-30)  # away from zero
    assert step[1] > np.float32(1e-30)  # towards it: more of it


@pytest.mark.parametrize("name", ["sgd", "adagrad", "amsgrad", "nadam", "radam"])
def test_a_coupled_decay_is_never_cautious(name: str) -> None:
    with pytest.raises(ValueError, match="cautious_decay = True: allowed with decoupled_weight_de"):
        ALGORITHMS[name].resolve(None, {"cautious_decay": True, "decoupled_weight_decay": False})


@pytest.mark.parametrize("compiled", [None, False])
def test_classes_and_flags_of_torch(compiled: Any) -> None:
    begin, grads = start([(6,), (2, 3)]), draw([(6,), (2, 3)], 4)
    ends = []
    for cls, given in [
        (optstudy_torch.AdamW, {"amsgrad": True}),
        (optstudy_torch.AMSGrad, {"decoupled_weight_decay": True}),
    ]:
        params: list[Any] = [to_torch(x) for x in begin]
        optimizer = cls(params, weight_decay=0.3, cautious_decay=True, compile=compiled, **given)
        for row in grads:
            for p, g in zip(params, row, strict=True):
                p.grad = to_torch(g)
            optimizer.step()
        ends.append([to_numpy(p).tobytes() for p in params])
    assert ends[0] == ends[1]
