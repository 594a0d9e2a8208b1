"""Profiles, noise, activations and intervals: what they are, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from optstudy_core import instruments as core
from optstudy_core.instruments import clock, only

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LIBRARIES = {"numpy": np.asarray, "torch": torch.tensor, "jax": jnp.asarray}


@pytest.fixture(params=LIBRARIES)
def array(request: pytest.FixtureRequest) -> Any:
    return lambda x: LIBRARIES[request.param](np.asarray(x, np.float32))


def numbers(x: Any) -> list[float]:
    return [float(value) for value in x]


def test_quantiles_are_elements(array: Any) -> None:
    x = np.random.default_rng(0).permutation(41).reshape(1, 41).astype(np.float32)
    assert numbers(core.quantiles(array(x))) == [0, 2, 10, 20, 30, 38, 40]
    assert numbers(core.quantiles(array([3.0]))) == [3.0] * 7
    assert math.isnan(numbers(core.quantiles(array([1.0, math.nan, 2.0])))[-1])


def test_bins_of_a_histogram(array: Any) -> None:
    labels = core.PROFILES["grad_histogram"].labels
    x = [0.0, -0.0, 1.0, 3.9, -4.0, 1e-20, 1e9, math.inf, math.nan, 2.0**-40]
    found = dict(zip(labels, numbers(core.histogram(array(x))), strict=True))
    shares = {"zero": 0.2, "-40": 0.2, "0": 0.2, "2": 0.1, "10": 0.1}
    assert {k: v for k, v in found.items() if v} == pytest.approx(shares, rel=1e-6)


def test_spectra(array: Any) -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(5, 3))
    sigma = np.linalg.svd(w, compute_uv=False)
    u, _, vt = np.linalg.svd(w, full_matrices=False)
    scaled = w / np.linalg.norm(w) * math.sqrt(3)
    away = np.linalg.norm(scaled - (scaled * (u @ vt)).sum() / 3 * (u @ vt)) / math.sqrt(3)
    expected = [sigma[0], (sigma**2).sum() / sigma[0] ** 2, away]
    assert numbers(core.spectrum(array(w))) == pytest.approx(expected, rel=1e-5)
    assert numbers(core.spectrum(array(2 * (u @ vt)))) == pytest.approx([2, 3, 0], abs=2e-3)
    zero = numbers(core.profile(("grad_spectrum", 0), [array(np.zeros((2, 2)))], 0))
    assert zero[0] == 0
    assert all(map(math.isnan, zero[1:]))
    assert all(map(math.isnan, numbers(core.spectrum(array([[1.0, math.nan]])))))


def test_profiles_of_layers_and_of_all(array: Any) -> None:
    kernel, bias = array(np.arange(6.0).reshape(1, 2, 3)), array([10.0])
    made = numbers(core.profile(("grad_quantiles", None), [kernel, None, bias], 0))
    whole = core.measure(["grad_quantiles"], grad=[np.float32([0, 1, 2, 3, 4, 5, 10])])
    assert made == list(whole["grad_quantiles"].values())
    chosen = core.Chosen.of("step", ["grad_spectrum", only("grad_quantiles", layers="b*")])
    vectors = {"grad": [kernel, array(np.zeros((0, 3))), bias]}
    found = core.targets(chosen.profiles, chosen.shows, ["kernel", "none", "bias"], vectors)
    assert found == (("grad_spectrum", 0), ("grad_quantiles", 2))
    # Of a kernel whose columns are its first axis, and of one whose columns are its last.
    first, last = (
        numbers(core.profile(("grad_spectrum", 0), [x], axis))
        for x, axis in ((kernel, 0), (array(np.arange(6.0).reshape(2, 3, 1)), -1))
    )
    assert first == pytest.approx([math.sqrt(55), 1, 0], abs=1e-3)
    assert last == pytest.approx(first, rel=1e-5, abs=1e-3)


# Noise.


def micro(grads: np.ndarray, samples: float = math.nan) -> core.MicroBatches:
    """Those of layers of two elements."""
    layers = grads.reshape(len(grads), -1, 2)
    squares, total = (layers**2).sum(axis=2), (layers.sum(axis=0) ** 2).sum(axis=1)
    return core.MicroBatches(squares, total, samples)


def of_micro(name: str, batches: core.MicroBatches) -> Any:
    return core.QUANTITIES[name](core.Sums({}, {}, {"micro": batches}))


def test_noise_is_without_bias() -> None:
    """Many draws of four micro-batches around a mean: the means of both moments are right."""
    rng = np.random.default_rng(0)
    mean, sigma = np.array([1.0, -2.0, 0.5, 0.0]), 0.7
    ratios = []
    for _ in range(4000):
        batches = micro(mean + sigma * rng.normal(size=(4, 4)), 8.0).whole()
        scale, snr = of_micro("noise_scale", batches), of_micro("grad_snr", batches)
        assert scale == pytest.approx(8.0 / snr**2)
        ratios.append(1 / scale)
    truth = 4 * sigma**2 / (mean @ mean) * 8.0
    assert 1 / np.mean(ratios) == pytest.approx(truth, rel=0.5)
    assert np.median(1 / np.array(ratios)) == pytest.approx(truth, rel=0.1)


def test_cosine_of_micro_batches() -> None:
    rng = np.random.default_rng(0)
    g = rng.normal(size=(3, 4))
    pairs = [(0, 1), (0, 2), (1, 2)]
    norms = np.linalg.norm(g, axis=1)
    expected = sum(g[i] @ g[j] for i, j in pairs) / sum(norms[i] * norms[j] for i, j in pairs)
    assert of_micro("micro_cosine", micro(g).whole()) == pytest.approx(expected)
    layers = of_micro("micro_cosine", micro(g))
    assert layers.shape == (2,)
    assert of_micro("micro_cosine", micro(np.stack([g[0], g[0]])).whole()) == pytest.approx(1)
    # Noise alone, and one micro-batch: no signal, and nothing known.
    assert of_micro("noise_scale", micro(np.stack([g[0], -g[0]])).whole()) == math.inf
    assert of_micro("grad_snr", micro(np.stack([g[0], -g[0]])).whole()) == 0
    with np.errstate(all="ignore"):
        assert np.isnan(of_micro("grad_snr", micro(g[:1]).whole()))
    assert math.isnan(of_micro("noise_scale", math.nan))  # type: ignore[arg-type]


# Activations.


def test_activations(array: Any) -> None:
    parts = [core.activation_sums(array(x)) for x in ([[0.0, 2.0], [-4.0, 0.0]], [6.0], [])]
    found = core.activation_quantities(core.ACTIVATIONS, [numbers(p) for p in parts], [])
    assert found["act_rms"] == pytest.approx(math.sqrt(56 / 5))
    assert (found["act_max"], found["act_zeros"]) == (6.0, pytest.approx(0.4))
    assert math.isnan(found["act_grad_rms"])
    assert math.isnan(found["act_grad_max"])


# What is asked for.


def test_intervals_and_layers() -> None:
    chosen = core.Chosen.of(
        "step",
        ["loss", only("angle", every=10), only("grad_norm", layers=["*.weight", "head.*"])],
        every=2,
    )
    assert chosen.at(3).names == ()
    assert not chosen.at(3).something
    assert chosen.at(4).names == ("loss", "grad_norm")
    assert chosen.at(20).names == ("loss", "angle", "grad_norm")
    assert chosen.at(20) is chosen.at(40) is chosen
    assert chosen.at(4).vectors == {"grad"}
    assert chosen.shows("grad_norm", "fc.weight")
    assert chosen.shows("grad_norm", "head.bias")
    assert not chosen.shows("grad_norm", "fc.bias")
    assert not chosen.shows("grad_norm", None)
    assert chosen.shows("angle", "fc.bias")
    both = core.Chosen.of("step", ["grad_norm", only("grad_norm", layers="a")], per_layer=False)
    assert [both.shows("grad_norm", layer) for layer in (None, "a", "b")] == [True, True, False]


def test_options_with_parts_are_written_down() -> None:
    made = core.Options.of(
        epoch=["loss", only("spectra", layers="*.weight")],
        step=[only("grad_norm", every=3), "loss"],
        per_layer=True,
        every=2,
        exact=True,
    )
    part = {"layers": ["*.weight"], "every": 1}
    spectra = [{"name": f"{u}_spectrum", **part} for u in ("grad", "step", "param")]
    assert made.config["epoch"] == ["loss", *spectra]
    assert made.config["step"] == [{"name": "grad_norm", "layers": ["*"], "every": 3}, "loss"]
    # An angle at step 10 needs the step before it.
    turning = core.Options.of(
        epoch=[], step=[only("angle", every=10)], per_layer=True, every=1, exact=True
    )
    moved = [n for n in range(1, 22) if turning.moves(n)]
    assert moved == [9, 10, 19, 20]
    assert [n for n in range(1, 22) if turning.turns(n)] == [9, 19]


def test_refused() -> None:
    with pytest.raises(ValueError, match="every = 0: allowed are whole numbers from 1"):
        only("angle", every=0)
    with pytest.raises(TypeError, match="layers = 3: allowed are patterns of names"):
        only("angle", layers=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layers = '\*': layers have no loss, only the network"):
        only("loss", layers="*")
    with pytest.raises(ValueError, match="did you mean 'grad_histogram'"):
        only("grad_histogramm")
    for name in ("noise_scale", "act_rms"):
        with pytest.raises(ValueError, match=f"epoch with '{name}': allowed in step"):
            core.Options.of(epoch=[name], step=[], per_layer=True, every=1, exact=True)
    with pytest.raises(ValueError, match="metrics with 'loss': the row already has this name"):
        core.with_metrics({"epoch": 1, "loss": 2.0}, {"loss": 3.0})
    with pytest.raises(ValueError, match="samples = 0: allowed are numbers > 0"):
        core.check_samples(0)


def test_metrics_stand_before_the_layers() -> None:
    row = core.with_metrics({"epoch": 1, "layers": {"w": {}}}, {"test_loss": 0.5})
    assert list(row) == ["epoch", "test_loss", "layers"]


def test_a_clock_counts_from_the_last_row() -> None:
    own = core.Clock()
    assert math.isnan(own.samples())
    own.add(3)
    own.add(4)
    assert own.samples() == 7
    assert 0 <= own.seconds() < 1
    own.restart()
    assert math.isnan(own.samples())
    assert core.process_peak() > 1


def test_a_peak_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux' own number may, by some pages."""
    peaks = iter([396.84, 396.6, 397.0])
    monkeypatch.setattr(clock, "_PEAKS", [0.0])
    monkeypatch.setattr(clock, "_peak_now", lambda: next(peaks))
    assert [core.process_peak() for _ in range(3)] == [396.84, 396.84, 397.0]
