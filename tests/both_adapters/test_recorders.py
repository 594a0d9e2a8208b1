"""Both recorders measure the same quantities of the same training."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS, clipped, skipping
from optstudy_core import instruments as core
from optstudy_core.instruments import only

pytestmark = pytest.mark.usefixtures("compiled_quickly")

NAMES = {"weight": "kernel", "bias": "bias"}
SHAPES = {"weight": (3, 4), "bias": (3,)}  # of torch; the kernel is the other way round
CHOSEN = ["distributions", "spectra", only("noise", every=2), "wrappers", "loss", "memory"]
RULE = skipping(clipped(ALGORITHMS["sgd"]))


def drawn(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def turned(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {NAMES[name]: jnp.asarray(x.T) for name, x in arrays.items()}


def in_torch(**options: Any) -> list[dict[str, Any]]:
    params = {n: torch.nn.Parameter(torch.from_numpy(x)) for n, x in drawn(0).items()}
    optimizer = optstudy_torch.from_core(RULE)(list(params.items()), lr=0.1)
    with optstudy_torch.Recorder(optimizer, **options) as recorder:
        for t in range(4):
            optimizer.zero_grad()
            for k in range(3):
                for name, g in drawn(10 * t + k + 1).items():
                    grad = torch.from_numpy(g)
                    own = params[name].grad
                    params[name].grad = grad if own is None else own + grad
                recorder.micro_batch(samples=16)
            optimizer.step()
            recorder.step(float(t), samples=48, metrics={"batch": t})
            if t == 2:
                recorder.end_epoch(metrics={"test_loss": torch.tensor(0.25)})
    return [*recorder.steps, *recorder.epochs]


def in_jax(**options: Any) -> list[dict[str, Any]]:
    params = turned(drawn(0))
    tx = optstudy_jax.from_core(RULE)(0.1)
    state = tx.init(params)
    recorder = optstudy_jax.Recorder(params, **options)
    for t in range(4):
        total: Any = None
        for k in range(3):
            grads = turned(drawn(10 * t + k + 1))
            recorder.micro_batch(grads, samples=16)
            total = grads if total is None else {n: total[n] + g for n, g in grads.items()}
        updates, state = tx.update(total, state, params)
        params = {n: p + updates[n] for n, p in params.items()}
        recorder.step(
            params, grads=total, state=state, value=float(t), samples=48, metrics={"batch": t}
        )
        if t == 2:
            metrics = {"test_loss": jnp.float32(0.25)}
            recorder.end_epoch(params, grads=total, state=state, metrics=metrics)
    recorder.flush()
    return [*recorder.steps, *recorder.epochs]


def flat(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found = {}
    for name, value in row.items():
        here = prefix + {"kernel": "weight"}.get(name, name)
        found |= flat(value, here + "/") if isinstance(value, dict) else {here: value}
    return found


@pytest.mark.parametrize("exact", [True, False])
def test_both_recorders_measure_the_same(exact: bool) -> None:
    options = {
        "step": CHOSEN,
        "epoch": ["param_quantiles", only("step_spectrum", layers=["weight", "kernel"])],
        "exact": exact,
    }
    rows = in_torch(**options), in_jax(**options)
    assert len(rows[0]) == 5
    for one, other in zip(*rows, strict=True):
        a, b = flat(one), flat(other)
        assert a.keys() == b.keys()
        for name in a.keys() - {"memory"}:
            # Singular values, and a share that an element on the edge of a bin changes.
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-4, nan_ok=True), name
    steps, epoch = rows[0][:4], rows[0][4]
    assert epoch["test_loss"] == 0.25
    assert list(epoch["layers"]["weight"]) == ["param_quantiles", "step_spectrum"]
    assert list(epoch["layers"]["bias"]) == ["param_quantiles"]
    assert [("noise_scale" in row) for row in steps] == [False, True, False, True]
    assert steps[1]["layers"]["bias"].keys() >= {"noise_scale", "grad_snr", "micro_cosine"}
    assert all(0 < row["clip_factor"] < 1 for row in steps)
    assert [row["skipped_steps"] for row in steps] == [0, 0, 0, 0]
    assert [row["batch"] for row in steps] == [0, 1, 2, 3]
    grads = {n: sum(drawn(10 + k + 1)[n] for k in range(3)) for n in SHAPES}
    largest = max(float(g.max()) for g in grads.values())
    assert steps[1]["grad_quantiles"]["100"] == largest
    singular = np.linalg.svd(grads["weight"], compute_uv=False)
    found = steps[1]["layers"]["weight"]["grad_spectrum"]
    assert found["largest"] == pytest.approx(singular[0], rel=1e-5)
    micro = [drawn(10 + k + 1)["bias"].astype(np.float64) for k in range(3)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    cosine = sum(micro[i] @ micro[j] for i, j in pairs) / sum(
        np.linalg.norm(micro[i]) * np.linalg.norm(micro[j]) for i, j in pairs
    )
    assert steps[1]["layers"]["bias"]["micro_cosine"] == pytest.approx(cosine, rel=1e-5)


def test_a_profile_of_the_step_leaves_the_angle_alone() -> None:
    """Differences are formed in place: the next angle sees the step, not a difference of it."""
    moves = ["step_size", "angle", "update_ratio"]
    for run in (in_torch, in_jax):
        bare = run(step=moves, epoch=moves)
        profiled = run(
            step=[*moves, "step_quantiles", "step_spectrum"], epoch=[*moves, "param_histogram"]
        )
        assert len(bare) == 5
        for one, other in zip(bare, profiled, strict=True):
            for name in moves:
                assert one[name] == pytest.approx(other[name], rel=1e-12, nan_ok=True)


def test_an_angle_at_its_own_interval() -> None:
    for run in (in_torch, in_jax):
        every = run(step=["angle", "grad_norm"], epoch=[])
        some = run(step=[only("angle", every=2), "grad_norm"], epoch=[])
        assert [row.get("angle") for row in some[:4]] == pytest.approx(
            [None, every[1]["angle"], None, every[3]["angle"]], abs=1e-5
        )
        assert [row["grad_norm"] for row in some[:4]] == [row["grad_norm"] for row in every[:4]]


def test_time_and_samples() -> None:
    for run in (in_torch, in_jax):
        *steps, epoch = run(step=[only("cost", every=2)], epoch=["cost"])
        assert [row["step"] for row in steps] == [2, 4]
        assert all(row["samples_per_second"] * row["seconds"] > 47.9 for row in steps)
        # Two steps since the last row; the second row begins with an epoch.
        assert steps[0]["samples_per_second"] * steps[0]["seconds"] == pytest.approx(96)
        assert steps[1]["samples_per_second"] * steps[1]["seconds"] == pytest.approx(48)
        assert epoch["samples_per_second"] * epoch["seconds"] == pytest.approx(144)
        assert epoch["memory"] > 1


def test_profiles_of_odd_layers() -> None:
    """Of no elements, of one, of none at all, in bfloat16, and without a gradient."""
    params = [torch.zeros(0, 2), torch.ones(()), torch.ones(2, 2).to(torch.bfloat16)]
    leaves = [torch.nn.Parameter(p) for p in params]
    optimizer = torch.optim.SGD(leaves, lr=0.5)
    with optstudy_torch.Recorder(optimizer, step=["distributions", "spectra"]) as recorder:
        leaves[2].grad = torch.full((2, 2), 0.25, dtype=torch.bfloat16)
        optimizer.step()
    (row,) = recorder.steps
    assert row["param_quantiles"]["100"] == 1.0
    assert row["grad_histogram"]["-2"] == 1.0
    layers = row["layers"]
    assert list(layers) == ["group0.2", "group0.1"]
    assert layers["group0.2"]["step_spectrum"]["largest"] == pytest.approx(0.25)
    assert "grad_quantiles" not in layers["group0.1"]
    array = {"w": jnp.ones((2, 2), jnp.bfloat16)}
    recorder = optstudy_jax.Recorder(array, epoch=["param_spectrum"], step=["param_spectrum"])
    recorder.step(array)
    for made in (recorder.end_epoch(array), recorder.steps[0]):
        assert made["layers"]["w"]["param_spectrum"]["largest"] == pytest.approx(2.0)


def test_moments_and_wrappers_are_found_in_wrapped_states() -> None:
    rule = clipped(ALGORITHMS["adam"])
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = optstudy_torch.from_core(rule)([p], lr=0.1)
    with optstudy_torch.Recorder(optimizer, step=["m_max", "clip_factor"]) as recorder:
        p.grad = torch.tensor([3.0, 4.0])
        optimizer.step()
    assert recorder.steps[0]["m_max"] == pytest.approx(0.08)
    assert recorder.steps[0]["clip_factor"] == pytest.approx(0.2)
    bare = torch.optim.SGD([p], lr=0.1)
    with optstudy_torch.Recorder(bare, step=["wrappers", "noise"]) as recorder:
        bare.step()
    assert all(math.isnan(recorder.steps[0][name]) for name in ("clip_factor", "noise_scale"))


# Activations.


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.last = (
            torch.nn.Linear(2, 3),
            torch.nn.ReLU(),
            torch.nn.Linear(3, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.relu(self.first(x)))
        return y


def test_activations_in_torch() -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x = torch.randn(5, 2)
    chosen = ["loss", only("activations", layers=["first", "relu"], every=2)]
    with optstudy_torch.Recorder(model, optimizer, epoch=[], step=chosen) as recorder:
        for t in range(4):
            model.eval()
            model(100 * x)  # an evaluation is not looked at
            model.train()
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            recorder.step(loss)
            if t == 1:
                assert recorder.end_epoch() == {"epoch": 1}
    assert [("activations" in row) for row in recorder.steps] == [False, True, False, True]
    found = recorder.steps[1]["activations"]
    assert list(found) == ["first", "relu"]
    h = model.first(x).detach().requires_grad_()
    y = model.relu(h)
    y.retain_grad()
    model.last(y).square().mean().backward()
    for name, out in (("first", h), ("relu", y)):
        grad = out.grad
        assert grad is not None
        expected = {
            "act_rms": out.square().mean().sqrt(),
            "act_max": out.abs().max(),
            "act_zeros": (out == 0).float().mean(),
            "act_grad_rms": grad.square().mean().sqrt(),
            "act_grad_max": grad.abs().max(),
        }
        assert found[name] == pytest.approx({k: v.item() for k, v in expected.items()}, rel=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_activations_in_flax() -> None:
    class Small(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return linen.Dense(1)(linen.relu(linen.Dense(3)(x)))

    model, x = Small(), jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), jnp.float32)
    import jax

    params = model.init(jax.random.key(0), x)["params"]
    _, seen = model.apply({"params": params}, x, capture_intermediates=True)
    outs = seen["intermediates"]
    names = ["act_rms", "act_max", "act_zeros"]
    recorder = optstudy_jax.Recorder(params, epoch=[], step=names)
    recorder.step(params, activations=outs)
    recorder.flush()
    found = recorder.steps[0]["activations"]
    assert set(found) == {"Dense_0", "Dense_1", "output"}
    first = np.asarray(outs["Dense_0"]["__call__"][0])
    assert found["Dense_0"]["act_rms"] == pytest.approx(float(np.sqrt((first**2).mean())), rel=1e-6)
    with pytest.raises(TypeError, match="activations is missing: act_rms"):
        recorder.step(params)
    all_of_them = optstudy_jax.Recorder(params, epoch=[], step=["activations"])
    with pytest.raises(TypeError, match="activation_grads is missing: act_grad_rms"):
        all_of_them.step(params, activations=outs)


def test_activations_that_nnx_captures() -> None:
    class Small(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.dense = nnx.Linear(2, 3, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            y = self.dense(x)
            self.sow(nnx.Intermediate, "hidden", y)
            return y.sum()

    model = Small(nnx.Rngs(0))
    x = jnp.ones((4, 2))
    recorder = optstudy_jax.Recorder(model, epoch=[], step=["act_max"])
    _, seen = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)(x)
    recorder.step(model, activations=seen)
    recorder.flush()
    found = recorder.steps[0]["activations"]
    assert set(found) == {"dense", "hidden", "output"}
    largest = float(jnp.abs(model.dense(x)).max())
    assert found["hidden"]["act_max"] == found["dense"]["act_max"] == pytest.approx(largest)


def test_refused_inside_jit() -> None:
    for name in ("grad_histogram", "seconds", "noise_scale", "act_rms"):
        with pytest.raises(ValueError, match=f"quantities with '{name}': allowed in Recorder"):
            optstudy_jax.recorder.record([name])
    with pytest.raises(ValueError, match="epoch with 'clip_factor': allowed with an optimizer"):
        optstudy_torch.Recorder(torch.nn.Linear(1, 1), epoch=["clip_factor"])
    assert core.select(["spectra"])


def test_alerts_in_both() -> None:
    for run in (in_torch, in_jax):
        told: list[str] = []
        alert = core.Alert(
            "clip_factor",
            below=1.0,
            rows=3,
            of="steps",
            call=lambda text, _, told=told: told.append(text),
        )
        rows = run(step=["clip_factor"], epoch=[], alerts=[alert])
        assert [row["step"] for row in rows if "alerts" in row] == [3]
        assert [text.partition(" (")[0] for text in told] == [
            "step 3: clip_factor below 1 in 3 steps in a row"
        ]
