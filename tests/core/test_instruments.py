"""Quantities: what they are, from exact and from plain sums, and how bad names are refused."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from optstudy_core import geometry
from optstudy_core import instruments as core

SHAPES = [(3, 4), (), (0, 2), (5,)]


def tree(seed: int, dtype: Any = np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        np.asarray(rng.normal(size=s) * 10.0 ** rng.integers(-3, 3)).astype(dtype) for s in SHAPES
    ]


def flat(leaves: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([x.astype(np.float64).ravel() for x in leaves])


VECTORS = {
    "grad": tree(1),
    "params": tree(2),
    "step": tree(3),
    "previous": tree(4),
    "displacement": tree(5),
    "m": tree(6),
    "v": [x * x for x in tree(7)],
}
GIVEN = {"loss": 1.5, "lr": 0.25}


def by_hand() -> dict[str, float]:
    g, p, d, e, o, m, v = (flat(VECTORS[u]) for u in VECTORS)
    cosine = d @ e / (np.linalg.norm(d) * np.linalg.norm(e))
    return {
        "loss": 1.5,
        "lr": 0.25,
        "grad_norm": np.linalg.norm(g),
        "param_norm": np.linalg.norm(p),
        "step_size": np.linalg.norm(d),
        "update_ratio": np.linalg.norm(d) / np.linalg.norm(p),
        "angle": math.degrees(math.acos(cosine)),
        "cosine": cosine,
        "distance": np.linalg.norm(o),
        "nonfinite_grads": 0.0,
        "m_mean": m.mean(),
        "m_min": m.min(),
        "m_max": m.max(),
        "v_mean": v.mean(),
        "v_min": v.min(),
        "v_max": v.max(),
        "below_noise": np.mean(np.abs(m) < np.sqrt(v)),
    }


@pytest.mark.parametrize("exact", [True, False])
def test_every_quantity_is_what_it_says(exact: bool) -> None:
    found = core.measure(["all"], exact=exact, given=GIVEN, **VECTORS)
    expected = by_hand()
    assert list(found) == list(core.INSTRUMENTS["all"]) == list(expected)
    assert 0 < expected["below_noise"] < 1
    # A few roundings in double, in another order; acos loses more, but not at 40° to 140°.
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-13, abs=1e-15), name


def test_exact_quantities_have_the_bits_of_geometry() -> None:
    found = core.measure(["step_size", "angle", "cosine", "distance"], **VECTORS)
    pair = VECTORS["step"], VECTORS["previous"]
    assert found["step_size"] == geometry.norm(VECTORS["step"])
    assert found["angle"] == geometry.angle(*pair, degrees=True)
    assert found["cosine"] == geometry.cosine(*pair)
    assert found["distance"] == geometry.norm(VECTORS["displacement"])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_dtypes(exact: bool, dtype: Any) -> None:
    u = tree(3, dtype)
    found = core.measure(["step_size", "update_ratio"], exact=exact, step=u, params=u)
    assert found["step_size"] == pytest.approx(np.linalg.norm(flat(u)), rel=1e-14)  # as above
    assert found["update_ratio"] == 1.0


@pytest.mark.parametrize("exact", [True, False])
def test_nonfinite_values(exact: bool) -> None:
    bad = [np.float32([1.0, np.nan, np.inf]), np.float32([-np.inf])]
    names = ["nonfinite_grads", "grad_norm", "m_min", "m_max", "m_mean", "step_size"]
    infinite = [np.float32([1.0, np.inf]), np.float32([2.0])]
    found = core.measure(names, exact=exact, grad=bad, m=bad, step=infinite)
    assert found["nonfinite_grads"] == 3
    assert math.isnan(found["grad_norm"])
    assert all(math.isnan(found[name]) for name in ("m_min", "m_max", "m_mean"))
    assert found["step_size"] == math.inf


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "vector", [[np.zeros(3, np.float32)], [None], [np.zeros((0,), np.float32)]]
)
def test_zero_absent_and_empty(exact: bool, vector: list[Any]) -> None:
    found = core.measure(
        ["angle", "cosine", "m_mean", "m_min", "update_ratio", "step_size"],
        exact=exact,
        step=vector,
        previous=vector,
        m=vector,
        params=vector,
    )
    absent = vector[0] is None
    assert math.isnan(found["angle"])
    assert math.isnan(found["cosine"])
    assert math.isnan(found["update_ratio"])
    assert math.isnan(found["step_size"]) if absent else found["step_size"] == 0
    if absent or vector[0].size == 0:
        assert math.isnan(found["m_min"])
        assert math.isnan(found["m_mean"])
    else:
        assert found["m_min"] == found["m_mean"] == 0


@pytest.mark.parametrize("exact", [True, False])
def test_a_layer_without_is_left_out_of_the_whole(exact: bool) -> None:
    grads = [np.float32([3.0]), None, np.float32([4.0])]
    found = core.measure(["grad_norm", "nonfinite_grads"], exact=exact, grad=grads)
    assert found == {"grad_norm": 5.0, "nonfinite_grads": 0.0}


@pytest.mark.parametrize("size", [1e-150, 1e150])
def test_exact_norms_neither_overflow_nor_vanish(size: float) -> None:
    step = [np.array([3 * size * 1e10, 4 * size * 1e10])]
    assert core.measure(["step_size"], step=step)["step_size"] == pytest.approx(5e10 * size)


@pytest.mark.parametrize("degrees", [0.0, 1e-3, 45.0, 90.0, 179.999, 180.0])
def test_plain_angle(degrees: float) -> None:
    phi = math.radians(degrees)
    u, v = [np.array([1.0, 0.0])], [np.array([math.cos(phi), math.sin(phi)])]
    found = core.measure(["angle"], exact=False, step=u, previous=v)["angle"]
    # The cosine is known to 2⁻⁵³, the angle near 0 and 180 degrees to its root.
    assert found == pytest.approx(degrees, abs=2e-6)


def test_below_noise_is_strict_and_exact() -> None:
    m = [np.float32([1.0, -1.0, 0.0, 0.0])]
    v = [np.float32([1.0, np.nextafter(np.float32(1), np.float32(2)), 0.0, 1e-38])]
    assert core.measure(["below_noise"], m=m, v=v) == {"below_noise": 0.5}


def test_instruments_are_sets_of_quantities() -> None:
    for names in core.INSTRUMENTS.values():
        assert set(names) <= {*core.QUANTITIES, *core.PROFILES, *core.ACTIVATIONS}
    assert core.select(["motion", "loss", "step_size"])[-1] == "loss"
    assert core.select([]) == ()


def test_names_are_refused() -> None:
    with pytest.raises(ValueError, match="epoch = 'gradnorm': did you mean 'grad_norm'"):
        core.select(["gradnorm"], "epoch")
    with pytest.raises(TypeError, match="step = 'loss': allowed are sequences of names"):
        core.select("loss", "step")
    with pytest.raises(TypeError, match="epoch with 3: allowed are names"):
        core.select([3], "epoch")  # type: ignore[list-item]
    with pytest.raises(TypeError, match="previous is missing: angle cannot be measured without"):
        core.measure(["angle"], step=[np.ones(2)])


def test_quantities_tell_what_they_need() -> None:
    assert core.vectors(["loss", "lr"]) == frozenset()
    assert core.vectors(["distance"]) == {"displacement"}
    assert core.vectors(["angle"]) == {"step", "previous"}
    assert core.vectors(["below_noise"]) == {"m", "v"}


def test_a_row() -> None:
    row = core.exact_row(
        {"epoch": 3},
        core.Chosen.of("epoch", ["loss", "lr", "step_size"]),
        {"step": [np.float32([3.0]), np.float32([4.0])]},
        GIVEN,
        {"a": {"lr": 0.25}, "b": {"lr": 0.5}},
    )
    layers = {"a": {"lr": 0.25, "step_size": 3.0}, "b": {"lr": 0.5, "step_size": 4.0}}
    assert row == {"epoch": 3, "loss": 1.5, "lr": 0.25, "step_size": 5.0, "layers": layers}
    loss = core.Chosen.of("epoch", ["loss"])
    assert core.exact_row({"epoch": 1}, loss, {}, GIVEN, {"a": {}}) == {"epoch": 1, "loss": 1.5}
