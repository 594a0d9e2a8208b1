"""The learners: what an epoch is measured by, and what its end does."""

import math
from dataclasses import replace

import numpy as np
import pytest
from harness import slow, slow_unless_quick
from trainings import BACKENDS, learner_of, own_pair, same_bits

from optstudy_core import ALGORITHMS
from optstudy_core.records import Run
from optstudy_core.schedules import one_cycle
from studies import records
from studies.learners import epochs, training
from studies.learners.epochs import EpochMeter, Stopwatch
from studies.learners.methods import METHODS
from studies.problems.table import QUICK, load
from studies.study import Study

torch = pytest.importorskip("torch")
pytest.importorskip("flax")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def own_study(tmp_path_factory):
    """A user's own study: one layer, a kernel and a bias."""
    file = tmp_path_factory.mktemp("own") / "own.py"
    file.write_text(own_pair())
    return load(str(file), seed=7)


# Measurements.


def test_epochs_by_hand():
    meter = EpochMeter({"w": np.float32([0, 0]), "b": np.array(0, np.float32)})
    first = meter.close([3.0, 1.0], {"w": np.float32([2, 0]), "b": np.array(1, np.float32)})
    assert first["epoch"] == 1
    assert first["steps"] == 2
    assert first["loss"] == 2.0
    assert first["step_size"] == math.sqrt(5)
    assert first["layers"]["w"]["step_size"] == 2.0
    assert math.isnan(first["angle"])
    assert math.isnan(first["layers"]["b"]["angle"])
    # The steps are (2, 0, 1) and (0, 3, 1): a cosine of 1/√50; w turns by 90°, b not at all.
    second = meter.close([1.0, 1.0], {"w": np.float32([2, 3]), "b": np.array(2, np.float32)})
    assert second["angle"] == pytest.approx(math.degrees(math.acos(1 / math.sqrt(50))), abs=1e-12)
    assert second["layers"]["w"]["angle"] == 90.0
    assert second["layers"]["b"]["angle"] == 0.0
    # A step of zero has no direction, and the next angle has none to compare with.
    still = meter.close([1.0], {"w": np.float32([2, 3]), "b": np.array(2, np.float32)})
    assert still["step_size"] == 0.0
    assert math.isnan(still["angle"])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_stopwatch_leaves_out_what_happens_while_stopped(monkeypatch, device):
    now = iter([10.0, 13.0, 20.0, 24.0, 30.0, 31.5])
    used = "process_time" if device == "cpu" else "perf_counter"
    monkeypatch.setattr(epochs.time, used, lambda: next(now))
    watch = Stopwatch(device)  # at 10
    with watch.stopped():  # from 13 to 20
        pass
    assert watch.seconds() == 3.0 + 4.0
    watch.restart()
    assert watch.seconds() == 1.5


def test_epochs_of_a_diverged_run_raise_nothing():
    meter = EpochMeter({"w": np.float32([1, 1])})
    meter.close([1.0], {"w": np.float32([np.inf, 1])})
    row = meter.close([np.inf, -np.inf], {"w": np.float32([np.inf, np.nan])})
    assert math.isnan(row["loss"])
    assert math.isnan(row["step_size"])


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        slow(name, backend) if (name, backend) == ("digits", "jax") else (name, backend)
        for name in QUICK
        for backend in BACKENDS
    ],
)
def test_measuring_changes_nothing(study_of, tmp_path, name, backend):
    study = replace(study_of(name), epochs=2)
    plain = learner_of(backend, study)
    for _ in training.run_epochs(study, plain):
        pass
    watched = learner_of(backend, study)
    with Run.create(tmp_path / "run", {}, tensorboard=False) as writer:
        training.record(study, watched, writer)
    assert same_bits(plain.parameters(), watched.parameters())
    run = records.read(tmp_path / "run")
    assert same_bits(run.parameters, watched.parameters())
    points = 1 + 2 * (study.steps_per_epoch if study.path_every == "step" else 1)
    assert len(run.path) == points
    assert same_bits(run.path[0], dict(study.initial))
    assert same_bits(run.path[points - 1], run.parameters)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pure_methods_leave_the_training_alone(own_study, backend):
    study = own_study
    batches = list(study.batches(1))[:3]
    plain, used = learner_of(backend, study), learner_of(backend, study)
    for batch in batches:
        plain.step(batch)
        here = used.parameters()
        used.loss(here, batch)
        used.gradients(here, batch)
        used.outputs(here, study.train.inputs)
        for value in here.values():
            value[...] = 0  # a copy
        used.step(batch)
    assert same_bits(plain.parameters(), used.parameters())


# Steps.


@pytest.mark.parametrize("algorithm", slow_unless_quick(ALGORITHMS))
def test_a_step_is_gradients_and_optimizer(study_of, algorithm):
    study = study_of("digits")
    whole, parts = (learner_of("torch", study, algorithm) for _ in range(2))
    for batch in list(study.batches(1))[:3]:
        whole.step(batch)
        here = parts.parameters()
        given = (f(here, batch) for f in (parts.gradients, parts.loss, parts.hessian))
        parts.apply(*given)
    assert same_bits(whole.parameters(), parts.parameters())


def test_torch_keeps_its_settings(study_of):
    from studies.learners.torch_learner import subnormals_flushed, threads

    def flushes() -> bool:
        return bool(torch.full((), 2.0**-126) * 0.5 == 0)

    before = torch.get_num_threads()
    with threads(1), subnormals_flushed():
        assert torch.get_num_threads() == 1
        assert flushes()
    assert torch.get_num_threads() == before
    assert not flushes()


def kernels_are_not_transposed(study: Study, method: str) -> None:
    """Muon's rows and columns are those of PyTorch, also where a method makes the optimizer."""
    optimizer = training.Optimizer.of(study, "muon", 1e-2, None, method)
    torch_side, jax_side = (training.make_learner(b, study, optimizer) for b in ("torch", "jax"))
    gradients = torch_side.gradients(study.initial, next(iter(study.batches(1))))
    for loss in (1.0, 2.0):  # which rises: the second epoch is undone, if the method does that
        for side in (torch_side, jax_side):
            side.apply(gradients, loss)
            side.end_epoch(loss, study.train)
        assert same_bits(torch_side.parameters(), jax_side.parameters())


# Epoch methods.


def test_what_was_undone_is_no_direction():
    meter = EpochMeter({"w": np.float32([0, 0])})
    meter.close([1.0], {"w": np.float32([1, 0])})
    meter.moved({"w": np.float32([5, 0])}, undone=False)
    assert meter.close([2.0], {"w": np.float32([5, 3])})["angle"] == 90.0
    meter.moved({"w": np.float32([5, 0])}, undone=True)
    row = meter.close([1.0], {"w": np.float32([7, 0])})  # to the first epoch, not the second
    assert (row["angle"], row["step_size"]) == (0.0, 2.0)


@pytest.mark.parametrize("method", [slow("plain"), slow("direction"), "careful_rollback"])
def test_kernels_are_not_transposed_for_a_method_either(own_study, method):
    kernels_are_not_transposed(own_study, method)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["direction", "careful_rollback"])
def test_kernels_of_two_layers_are_not_transposed_either(study_of, method):
    kernels_are_not_transposed(study_of("digits"), method)


def trained(study: Study, backend: str, method: str, epochs: int = 4, lr: float | None = None):
    optimizer = training.Optimizer.of(study, "adam", lr, None, method)
    learner = training.make_learner(backend, study, optimizer)
    ended = list(training.run_epochs(replace(study, epochs=epochs), learner))
    return learner, ended


@pytest.fixture(scope="module")
def plain(study_of):
    """What a training without a method ends on, by its framework."""
    study = study_of("linear_regression")
    return {b: trained(study, b, "plain")[0].parameters() for b in BACKENDS}


@pytest.mark.parametrize(
    ("method", "backend"),
    [
        slow(m, b) if (m, b) == ("direction_centred", "jax") else (m, b)
        for m in METHODS
        for b in BACKENDS
    ],
)
def test_a_method_does_what_it_says(study_of, plain, method, backend):
    study = study_of("linear_regression")
    # At this rate epochs 3 and 4 overshoot.
    lr = 1.0 if METHODS[method].kind == "careful" else None
    learner, ended = trained(study, backend, method, lr=lr)
    kind = METHODS[method].kind
    if kind == "plain":
        assert same_bits(learner.parameters(), plain[backend])
        return
    assert not same_bits(learner.parameters(), plain[backend])
    rates = "direction" in method or "careful" in method
    assert any(e.lr_factor != 1 for e in ended) == rates
    assert any(e.undone for e in ended) == (method == "careful_rollback")
    assert all(e.evaluations > 0 for e in ended) == (kind == "eve")
    assert any(e.s > 0 for e in ended) == (kind == "eve")


@pytest.mark.parametrize("method", ["plain", "direction"])
def test_a_rate_that_a_schedule_moves_is_the_same_in_both_frameworks(study_of, method):
    study = replace(study_of("linear_regression"), schedule=one_cycle, epochs=2)
    steps = 2 * study.steps_per_epoch
    learners = []
    for backend in BACKENDS:
        optimizer = training.Optimizer.of(study, "adam", 0.1, None, method)
        learners.append(training.make_learner(backend, study, optimizer))
    random = np.random.default_rng(0)
    for _ in range(steps):
        gradients = {n: np.float32(random.normal(size=v.shape)) for n, v in study.initial.items()}
        before = learners[0].parameters()
        for learner in learners:
            learner.apply(gradients, 1.0)
        assert same_bits(*(learner.parameters() for learner in learners))
    # The last rate is 1/250,000 of the peak.
    moved = max(np.abs(v - before[n]).max() for n, v in learners[0].parameters().items())
    assert 0 < moved < 1e-5
    assert study.rate(0.1)(0) == 0.1 / 25


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_loss_of_all_examples_may_be_computed_in_parts(study_of, backend):
    study = study_of("linear_regression")
    size = len(study.train.targets)
    whole, parts = (
        trained(replace(study, at_once=at_once), backend, "eve_grid", epochs=2)
        for at_once in (None, size // 3)
    )
    assert [e.s for e in whole[1]] == [e.s for e in parts[1]]
    at = whole[0].parameters()
    for row, other in zip(
        whole[0].outputs(at, study.train.inputs),
        parts[0].outputs(at, study.train.inputs),
        strict=True,
    ):
        np.testing.assert_allclose(row, other, rtol=1e-6)  # another shape, another order of sums
    with pytest.raises(ValueError, match=f"at_once = 7: allowed are divisors of {size}"):
        replace(study, at_once=7)


def test_an_epoch_with_rollback_is_undone(study_of):
    study = study_of("linear_regression")
    learner = training.make_learner(
        "torch", study, training.Optimizer.of(study, "adam", 1.0, None, "careful_rollback")
    )
    before = learner.parameters()
    undone = 0
    for ended in training.run_epochs(replace(study, epochs=5), learner):
        assert same_bits(before, learner.parameters()) == ended.undone
        undone += ended.undone
        before = learner.parameters()
    assert undone > 0
