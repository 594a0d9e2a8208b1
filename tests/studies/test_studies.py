"""The studies: the same model twice, measurements, twins, figures and the command line."""

import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from harness import ROOT, slow, slow_unless_quick

from optstudy_core import ALGORITHMS
from optstudy_core.records import Run
from studies import figures, pairs, records
from studies.__main__ import main
from studies.comparisons import table, twins
from studies.figures import landscape
from studies.learners import training
from studies.learners.epochs import EpochMeter
from studies.learners.methods import METHODS
from studies.problems.table import QUICK, STUDIES, load
from studies.study import NnxLeaf, Study

torch = pytest.importorskip("torch")
pytest.importorskip("flax")
pytest.importorskip("sklearn")

BACKENDS = tuple(training.BACKENDS)
RUN_FILES = {"config.json", "records.sqlite", "checkpoints", "tensorboard", "lock"}


@pytest.fixture(scope="module")
def study_of():
    made: dict[str, Study] = {}

    def get(name: str) -> Study:
        if name not in made:
            made[name] = load(name, seed=7, events={"allcnn": 8, "ddplus": 4}.get(name))
        return made[name]

    return get


@pytest.fixture(autouse=True)
def coarse_landscapes(monkeypatch):
    window = landscape._window
    monkeypatch.setattr(
        landscape, "_window", lambda *a, **words: window(*a, **words | {"grid": 21})
    )


def learner_of(backend: str, study: Study, algorithm: str = "adam", lr: float | None = None):
    return training.make_learner(backend, study, training.Optimizer.of(study, algorithm, lr, None))


def same_bits(a, b) -> bool:
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


# The same model in both frameworks.


LARGE = ("allcnn", "ddplus", "digits_cnn")  # networks that take tens of seconds


@pytest.mark.parametrize("name", [slow(n) if n in LARGE else n for n in STUDIES])
def test_models_agree(study_of, name):
    study = study_of(name)
    batch = next(study.batches(1))
    rng = np.random.default_rng(3)
    # Away from the start: no symmetric or zero weights that could hide a wrong map.
    parameters = {
        n: (v + rng.normal(0, 0.1, v.shape)).astype(np.float32) for n, v in study.initial.items()
    }
    ours, theirs = (learner_of(b, study) for b in BACKENDS)
    # Dot products of at most 4000 terms, of which rounding errors add up like a random walk, in a
    # few layers: some hundred 2**-24 of the largest magnitude, while a transposed or permuted
    # weight changes the first digit.
    outputs = [side.outputs(parameters, batch.inputs) for side in (ours, theirs)]
    scale = np.abs(outputs[0]).max()
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=0, atol=256 * 2**-24 * scale)
    assert ours.loss(parameters, batch) == pytest.approx(theirs.loss(parameters, batch), rel=1e-5)
    gradients = [side.gradients(parameters, batch) for side in (ours, theirs)]
    for layer, gradient in gradients[0].items():
        assert gradient.shape == study.initial[layer].shape
        assert np.abs(gradient).max() > 0
        np.testing.assert_allclose(
            gradient, gradients[1][layer], rtol=0, atol=256 * 2**-24 * np.abs(gradient).max()
        )


def test_linear_regression_against_the_formula(study_of):
    study = study_of("linear_regression")
    batch = next(study.batches(1))
    x, y = (v.astype(np.float64) for v in batch[:2])
    m, b = (float(study.initial[n]) for n in "mb")
    residual = m * x + b - y
    for backend in BACKENDS:
        side = learner_of(backend, study)
        gradients = side.gradients(dict(study.initial), batch)
        # float32 sums of 20 terms that do not cancel.
        assert side.loss(dict(study.initial), batch) == pytest.approx((residual**2).sum(), rel=1e-5)
        assert gradients["m"] == pytest.approx((2 * residual * x).sum(), rel=1e-5)
        assert gradients["b"] == pytest.approx((2 * residual).sum(), rel=1e-5)


def test_weight_map_is_its_own_inverse():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    leaf = NnxLeaf(("conv", "kernel"), axes=(2, 3, 1, 0))  # PyTorch's convolutions in nnx
    assert leaf.to_nnx(kernel).shape == (4, 5, 3, 2)
    assert (leaf.from_nnx(leaf.to_nnx(kernel)) == kernel).all()


@pytest.mark.parametrize("name", QUICK)
def test_batches_are_drawn_once(study_of, name):
    study = study_of(name)
    epoch = list(study.batches(2))
    assert len(epoch) == study.steps_per_epoch
    targets = np.sort(np.concatenate([b.targets for b in epoch]))
    assert (targets == np.sort(study.train.targets)).all()
    again, other = next(load(name, 7).batches(2)), next(study.batches(3))
    assert (again.inputs == epoch[0].inputs).all()
    assert (other.inputs != epoch[0].inputs).any()


def test_digits_holds_a_part_out(study_of):
    study = study_of("digits")
    assert len(study.train.targets) + len(study.test.targets) == 1797
    assert study.train.inputs.min() == 0
    assert study.train.inputs.max() == 1
    assert len(set(study.showcase.targets.tolist())) == 8


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


def test_epochs_of_a_diverged_run_raise_nothing():
    meter = EpochMeter({"w": np.float32([1, 1])})
    meter.close([1.0], {"w": np.float32([np.inf, 1])})
    row = meter.close([np.inf, -np.inf], {"w": np.float32([np.inf, np.nan])})
    assert math.isnan(row["loss"])
    assert math.isnan(row["step_size"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", QUICK)
def test_measuring_changes_nothing(study_of, tmp_path, name, backend):
    study = study_of(name)
    plain = learner_of(backend, study)
    for _ in training.run_epochs(study, plain, 2):
        pass
    watched = learner_of(backend, study)
    with Run.create(tmp_path / "run", {}, tensorboard=False) as writer:
        training.record(study, watched, 2, writer)
    assert same_bits(plain.parameters(), watched.parameters())
    run = records.read(tmp_path / "run")
    assert same_bits(run.parameters, watched.parameters())
    points = 1 + 2 * (study.steps_per_epoch if study.path_every == "step" else 1)
    assert len(run.path) == points
    assert same_bits(run.path[0], dict(study.initial))
    assert same_bits(run.path[points - 1], run.parameters)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pure_methods_leave_the_training_alone(study_of, backend):
    study = study_of("digits")
    batches = list(study.batches(1))[:3]
    plain, used = learner_of(backend, study), learner_of(backend, study)
    for batch in batches:
        plain.step(batch)
        here = used.parameters()
        used.loss(here, batch)
        used.gradients(here, batch)
        used.outputs(here, study.test.inputs)
        for value in here.values():
            value[...] = 0  # a copy
        used.step(batch)
    assert same_bits(plain.parameters(), used.parameters())


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


# Twins.


@pytest.mark.parametrize("algorithm", slow_unless_quick(ALGORITHMS))
@pytest.mark.parametrize("name", QUICK)
def test_the_optimizers_never_part(study_of, name, algorithm):
    study = study_of(name)
    optimizer = training.Optimizer.of(study, algorithm, None, None)
    for gradients, fed_alike in twins.walk(study, optimizer, 2):
        assert gradients.steps == study.steps_per_epoch
        assert gradients.relative < 1e-4  # roundings, not another gradient
        assert fed_alike.differing == 0
        assert fed_alike.ulp == 0.0
    assert fed_alike.elements == sum(v.size for v in study.initial.values())


@pytest.mark.parametrize("method", [slow("direction"), "careful_rollback"])
def test_kernels_are_not_transposed_for_a_method_either(study_of, method):
    """Muon's rows and columns are those of PyTorch, also where a method makes the optimizer."""
    study = study_of("digits")
    optimizer = training.Optimizer.of(study, "muon", 1e-2, None, method)
    torch_side, jax_side = (training.make_learner(b, study, optimizer) for b in ("torch", "jax"))
    gradients = torch_side.gradients(study.initial, next(iter(study.batches(1))))
    for loss in (1.0, 2.0):  # which rises: the second epoch is undone, if the method does that
        for side in (torch_side, jax_side):
            side.apply(gradients, loss)
            side.end_epoch(loss, study.train)
        assert same_bits(torch_side.parameters(), jax_side.parameters())


def test_another_optimizer_is_seen(study_of, monkeypatch):
    study = study_of("linear_regression")
    optimizer = training.Optimizer.of(study, "adam", 1e-2, None)
    make = training.make_learner

    def nudged(backend, study, optimizer):
        lr = optimizer.lr * (1 + 1e-6 * (backend == "jax"))
        return make(backend, study, training.Optimizer(optimizer.algorithm, lr))

    monkeypatch.setattr(twins, "make_learner", nudged)
    ((_, fed_alike),) = twins.walk(study, optimizer, 1)
    assert fed_alike.differing > 0
    pair = pair_of(optimizer=fed_alike)
    assert "the optimizers part as well" in twins.conclude([pair])


def pair_of(parted=0, gradients=0, optimizer=None, by=1e-7) -> pairs.EpochPair:
    return pairs.EpochPair(
        epoch=1,
        distance=0.0,
        angle=0.0,
        loss_difference=0.0,
        parameters=pairs.Difference(9, parted, float(parted)),
        gradients=pairs.Gradients(5, gradients, gradients or None, by, 0.0, 0.0),
        optimizer=optimizer or pairs.Difference(9, 0, 0.0),
    )


def test_the_conclusion_says_what_was_measured():
    assert twins.conclude([pair_of()]).startswith("The two trainings do not part")
    because = twins.conclude([pair_of(parted=2, gradients=3)])
    assert "part in epoch 1 because of their gradients" in because
    assert "step 3 of epoch 1" in because
    assert "in an order of its own" in because
    assert "more than rounding" in twins.conclude([pair_of(parted=2, gradients=3, by=0.1)])
    assert "identical gradients" in twins.conclude([pair_of(parted=2)])


def test_ulps():
    one = np.float32(1)
    a = np.float32([1, 0, -0.0, np.nan, np.inf, np.inf, 1, -1e-45])
    b = np.float32([1 + 2**-23, -0.0, 0, np.nan, np.inf, 1, np.nan, 1e-45])
    assert pairs.ulps(a, b).tolist() == [1, 0, 0, 0, 0, np.inf, np.inf, 2]
    assert pairs.ulps(one, np.nextafter(one, np.float32(2))) == 1


# Records.


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


# The command line, from end to end.


def assert_figures(folder: pathlib.Path, names: set[str]) -> None:
    for form in figures.FORMATS:
        assert {f.stem for f in folder.glob(f"*.{form}")} == names
    for file in folder.glob("*.png"):
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size > 10_000


@pytest.mark.parametrize("name", [slow(n) if n == "digits" else n for n in QUICK])
def test_end_to_end(tmp_path, capsys, name):
    out = tmp_path / "out"
    arguments = ["run", name, "--algorithm", "adam", "--epochs", "2", "--out", str(out)]
    arguments += ["--backend", "both"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    expected = {"predictions", "parameters", "epoch_steps", "training_loss", "layers"}
    expected |= {"surface"} if name == "linear_regression" else set()
    for backend in BACKENDS:
        folder = out / name / "adam" / backend
        assert {f.name for f in folder.iterdir()} == RUN_FILES | {"figures"}
        assert_figures(folder / "figures", expected)
        assert str(folder) in said
        run = records.read(folder)
        assert len(run.rows) == 2
        assert run.config["hyperparameters"]["b1"] == 0.9
    assert_figures(out / name, {"overview"})
    assert_figures(out / name / "adam", {"twins"})
    table = json.loads((out / name / "adam" / "twins.json").read_text())
    assert [e["optimizer"]["differing"] for e in table["epochs"]] == [0, 0]
    assert table["conclusion"] in (out / name / "adam" / "twins.md").read_text()
    assert "0 ulp" in table["conclusion"]
    if name == "digits":
        assert "test accuracy" in said
    # Once more: refused, and nothing is touched.
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear_regression", "digits"])
def test_a_diverging_run_ends_with_figures(tmp_path, capsys, name):
    arguments = ["run", name, "--algorithm", "sgd", "--epochs", "3", "--lr", "1e30"]
    arguments += ["--backend", "torch", "--out", str(tmp_path)]
    assert main(arguments) == 0
    folder = tmp_path / name / "sgd" / "torch"
    assert not np.isfinite(records.read(folder).column("loss")).any()
    assert len(list((folder / "figures").glob("*.png"))) >= 5


def test_a_run_that_stands_still_ends_with_figures(tmp_path):
    arguments = ["run", "linear_regression", "--algorithm", "sgd", "--epochs", "1", "--lr", "0"]
    assert main([*arguments, "--backend", "jax", "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.rglob("figures/*.png"))) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "linear"], "study = 'linear': did you mean 'linear_regression'?"),
        (["run", "digits", "--algorithm", "adm"], "algorithm = 'adm': did you mean 'adam'"),
        (
            ["run", "digits", "--algorithm", "adam", "--dialect", "torhc"],
            "dialect = 'torhc' for 'adam': did you mean 'torch'?",
        ),
        (["run", "digits", "--backend", "jaxx"], "backend = 'jaxx': did you mean 'jax'?"),
        (["run", "digits", "--epochs", "0"], "epochs = 0: allowed are whole numbers >= 1"),
        (["run", "digits", "--epochs", "two"], "epochs = two: allowed are whole numbers >= 1"),
        (["run", "digits", "--lr", "-1"], "lr = -1: allowed are finite numbers >= 0"),
        (["run", "digits", "--lr", "nan"], "lr = nan: allowed are finite numbers >= 0"),
        (["run", "digits", "--lr", "inf"], "lr = inf: allowed are finite numbers >= 0"),
        (["run", "digits", "--lr", "fast"], "lr = fast: allowed are finite numbers >= 0"),
        (["all", "--seed", "-3"], "seed = -3: allowed are whole numbers >= 0"),
        ([], "COMMAND"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    where = ["--out", str(tmp_path / "out")] if arguments else []
    assert main([*arguments, *where]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["", "linear_regression", "linear_regression/adam/torch"])
def test_out_may_not_be_a_file(tmp_path, capsys, place):
    out = tmp_path / "out"
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    (out / place).write_text("")
    arguments = ["run", "linear_regression", "--algorithm", "adam", "--out", str(out)]
    assert main(arguments) == 2
    assert f"{str(out / place)!r}: is a file; allowed are folders" in capsys.readouterr().err


def test_a_framework_that_is_not_installed(capsys, monkeypatch):
    monkeypatch.setattr("studies.__main__.installed_backends", lambda: ["torch"])
    assert main(["run", "linear_regression", "--backend", "both"]) == 2
    said = capsys.readouterr().err
    assert "backend = 'both': jax or optax or flax is not installed; allowed are 'torch'" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "absent"), [("torch", ("jax", "jaxlib", "optax", "flax")), ("jax", ("torch",))]
)
def test_one_framework_is_enough(tmp_path, backend, absent):
    script = f"""
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {absent!r}:
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Without, sys.meta_path)
from studies.__main__ import main
sys.exit(main(["run", "linear_regression", "--backend", {backend!r}, "--algorithm", "sgd",
               "--epochs", "1", "--out", {str(tmp_path)!r}]))
"""
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "linear_regression" / "sgd" / backend / "figures" / "surface.png").exists()


# Epoch methods.


def test_what_was_undone_is_no_direction():
    meter = EpochMeter({"w": np.float32([0, 0])})
    meter.close([1.0], {"w": np.float32([1, 0])})
    meter.moved({"w": np.float32([5, 0])}, undone=False)
    assert meter.close([2.0], {"w": np.float32([5, 3])})["angle"] == 90.0
    meter.moved({"w": np.float32([5, 0])}, undone=True)
    row = meter.close([1.0], {"w": np.float32([7, 0])})  # to the first epoch, not the second
    assert (row["angle"], row["step_size"]) == (0.0, 2.0)


def trained(study: Study, backend: str, method: str, epochs: int = 4, lr: float | None = None):
    optimizer = training.Optimizer.of(study, "adam", lr, None, method)
    learner = training.make_learner(backend, study, optimizer)
    ended = list(training.run_epochs(study, learner, epochs))
    return learner, ended


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_does_what_it_says(study_of, method, backend):
    study = study_of("linear_regression")
    plain, _ = trained(study, backend, "plain")
    # At this rate epochs 3 and 4 overshoot.
    lr = 1.0 if METHODS[method].kind == "careful" else None
    learner, ended = trained(study, backend, method, lr=lr)
    kind = METHODS[method].kind
    if kind == "plain":
        assert same_bits(learner.parameters(), plain.parameters())
        return
    assert not same_bits(learner.parameters(), plain.parameters())
    rates = "direction" in method or "careful" in method
    assert any(e.lr_factor != 1 for e in ended) == rates
    assert any(e.undone for e in ended) == (method == "careful_rollback")
    assert all(e.evaluations > 0 for e in ended) == (kind == "eve")
    assert any(e.s > 0 for e in ended) == (kind == "eve")


def test_an_epoch_with_rollback_is_undone(study_of):
    study = study_of("linear_regression")
    learner = training.make_learner(
        "torch", study, training.Optimizer.of(study, "adam", 1.0, None, "careful_rollback")
    )
    before = learner.parameters()
    undone = 0
    for ended in training.run_epochs(study, learner, 5):
        assert same_bits(before, learner.parameters()) == ended.undone
        undone += ended.undone
        before = learner.parameters()
    assert undone > 0


COMPARE = ["compare", "linear_regression", "--jobs", "1"]


@pytest.mark.parametrize("backends", [("torch",), slow(BACKENDS)])
def test_compare(tmp_path, capsys, backends):
    arguments = [*COMPARE, "--vary", "method=plain,careful-rollback,eve_grid", "--seeds", "2"]
    arguments += ["--lr", "1", "--epochs", "3", "--out", str(tmp_path)]
    arguments += ["--backend", "both" if len(backends) > 1 else backends[0]]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "linear_regression" / "compare"
    assert_figures(
        folder / "adam_figures",
        {"overview", "evaluations", "paths", "careful_rate_rollback", "eve_grid"},
    )
    table = (folder / "adam.md").read_text()
    for method, label in {
        "plain": "plain",
        "careful_rollback": "careful rate, rollback",
        "eve_grid": "EVE, grid",
    }.items():
        assert table.count(f"| {label} |") == len(backends)
        name = "adam" if method == "plain" else f"adam_{method}"
        for backend in backends:
            for seed in (2021, 2022):
                run = records.read(folder / name / f"seed_{seed}" / backend)
                assert len(run.rows) == 3
                assert run.config["seed"] == seed
                asked = sum(row["method"]["evaluations"] for row in run.rows)
                assert asked == 18 * (method == "eve_grid")
    assert "Linear regression, Adam, learning rate 1" in said
    # What is done is not done again; other numbers are refused; an interrupted run is made anew.
    rows = sorted(folder.rglob("records.sqlite"))
    before = {file: file.stat().st_mtime_ns for file in rows}
    gone = folder / "adam" / "seed_2022" / "torch"
    shutil.rmtree(gone / "checkpoints")
    assert main(arguments) == 0
    assert f"{len(rows) - 1} of {len(rows)} trainings are there already" in capsys.readouterr().out
    after = {file: file.stat().st_mtime_ns for file in rows}
    assert {file.parent for file in rows if before[file] != after[file]} == {gone}
    assert (folder / "adam.md").read_text() == table
    assert main([*arguments, "--epochs", "4"]) == 2
    assert "holds a run with epochs = 3, not 4; --overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_varies_all_that_can_be(tmp_path, capsys):
    vary = ["--vary", "algorithm=adam,sgd", "--vary", "lr=0.001,0.01", "--epochs", "2"]
    assert main([*COMPARE, *vary, "--backend", "torch", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "linear_regression" / "compare"
    rates = {}
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text())
        rates[config["algorithm"], config["lr"]] = file
    assert set(rates) == {(a, lr) for a in ("adam", "sgd") for lr in (0.001, 0.01)}
    assert "| SGD, learning rate 0.01 | PyTorch |" in (folder / "all.md").read_text()
    for bad, message in {
        "method=eve": "method = 'eve': did you mean",
        "lr=0": "lr = 0: allowed are finite numbers > 0",
        "speed=1": "vary = 'speed'",
        "lr": "vary = 'lr': allowed are key=value",
        "algorithm=adamm": "algorithm = 'adamm': did you mean 'adam'",
    }.items():
        assert main([*COMPARE, "--vary", bad, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_compare_in_processes(tmp_path):
    losses = []
    for jobs in ("1", "2"):
        arguments = ["compare", "linear_regression", "--vary", "method=plain,careful", "--lr", "1"]
        arguments += ["--backend", "torch", "--epochs", "2", "--jobs", jobs]
        assert main([*arguments, "--out", str(tmp_path / jobs)]) == 0
        folders = (tmp_path / jobs / "linear_regression" / "compare").glob("*/*/torch")
        losses.append({f.parts[-3]: records.read(f).column("loss").tolist() for f in folders})
    assert losses[0] == losses[1]
    assert set(losses[0]) == {"adam", "adam_careful"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear_regression", "digits"])
def test_compare_has_a_rate_at_which_careful_acts(tmp_path, name):
    arguments = ["compare", name, "--vary", "method=plain,careful", "--vary", "lr_factor=1,16"]
    arguments += ["--backend", "torch", "--jobs", "1", "--epochs", "14", "--out", str(tmp_path)]
    assert main(arguments) == 0
    factors = {}
    for at_rate in ("", "_lr_factor_16"):
        plain, careful = (
            records.read(tmp_path / name / "compare" / f"adam{m}{at_rate}" / "seed_2021" / "torch")
            for m in ("", "_careful")
        )
        factors[at_rate] = careful.column("method/lr_factor")[-1]
        same = plain.column("loss").tolist() == careful.column("loss").tolist()
        assert same == (factors[at_rate] == 1)
    assert factors[""] == 1
    assert factors["_lr_factor_16"] < 1


def test_spread():
    spread = table.Spread.of([3.0, math.nan, 1.0])
    assert (spread.median, spread.low, spread.high) == (3.0, 1.0, math.inf)
    assert spread.text(".3g") == "3 (1 – inf)"
    assert table.Spread.of([2.0]).text(".3g") == "2"


def test_evaluations_count_what_was_asked_before():
    rows = [{"epoch": e, "method": {"evaluations": 6}} for e in (1, 2, 3)]
    run = records.Run(pathlib.Path(), {}, rows, None, None, None)
    assert figures.evaluations(run).tolist() == [1, 8, 15]


# A user's own pair.


def own_pair() -> str:
    """Return README's file of a user's own pair."""
    text = (ROOT / "README.md").read_text()
    start = text.index("# my_pair.py")
    return text[start : text.index("```", start)]


@pytest.mark.slow
def test_twins_of_a_users_own_pair(tmp_path, capsys):
    file = tmp_path / "own.py"
    file.write_text(own_pair())
    assert main(["twins", str(file), "--out", str(tmp_path / "out")]) == 0
    assert "part" in capsys.readouterr().out
    folder = tmp_path / "out" / "my_pair" / "adam"
    pair = json.loads((folder / "twins.json").read_text())
    assert [epoch["optimizer"]["differing"] for epoch in pair["epochs"]] == [0, 0, 0]
    assert_figures(folder, {"twins"})
    # The same file for the other commands.
    assert main(["run", str(file), "--backend", "jax", "--out", str(tmp_path / "run")]) == 0
    assert not list((tmp_path / "run").rglob("predictions.*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("x = 1", "has no function study(seed)"),
        ("def study(seed): return seed", "its function study returned 2021, not a Study"),
    ],
)
def test_a_users_file_that_is_none(tmp_path, capsys, text, message):
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    assert main(["twins", str(file), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_with_a_method(tmp_path, capsys):
    arguments = ["run", "linear_regression", "--algorithm", "sgd", "--method", "careful"]
    arguments += ["--method", "plain", "--epochs", "2", "--backend", "torch"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert "sgd_careful, torch" in capsys.readouterr().out
    for name, method in (("sgd", "plain"), ("sgd_careful", "careful")):
        run = records.read(tmp_path / "linear_regression" / name / "torch")
        assert run.config["method"] == method


# Figures.


def test_the_plane_of_two_parameters_is_theirs(study_of, tmp_path):
    study = study_of("linear_regression")
    learner = learner_of("torch", study)
    with Run.create(tmp_path, {}, tensorboard=False) as writer:
        training.record(study, learner, 2, writer)
    around = figures.Landscape.around(study, learner, records.read(tmp_path))
    assert around.exact
    assert around.labels == ("m", "b")
    assert around.path[0].tolist() == [float(study.initial["m"]), float(study.initial["b"])]
    # Row i is v (b), column j is u (m): against the formula, in double.
    m, b = around.u[5], around.v[11]
    x, y = (v.astype(np.float64) for v in study.train[:2])
    expected = ((m * x + b - y) ** 2).sum()
    assert around.losses[11, 5] == pytest.approx(expected, rel=1e-4)  # float32 sum of 120


def test_the_projected_plane_holds_the_path(study_of, tmp_path):
    study = study_of("digits")
    learner = learner_of("torch", study)
    with Run.create(tmp_path, {}, tensorboard=False) as writer:
        training.record(study, learner, 1, writer)
    around = figures.Landscape.around(study, learner, records.read(tmp_path))
    # A path of two points lies on its plane, the last one at the origin.
    assert around.path[-1].tolist() == [0.0, 0.0]
    start, end = around.path
    assert start[1] == pytest.approx(0.0, abs=1e-9)
    assert end[0] < start[0]
    row = int(np.argmin(np.abs(around.v)))
    column = int(np.argmin(np.abs(around.u - start[0])))
    assert around.losses[row, column] == pytest.approx(around.heights[0], rel=0.05)


def test_probabilities_of_huge_outputs():
    assert figures.softmax(np.float32([[3e38, 0.0]])).tolist() == [[1.0, 0.0]]
    assert np.isnan(figures.softmax(np.float32([[np.nan, 0.0]]))).all()


def test_filter_normalised_directions(study_of):
    study = study_of("digits")
    parameters = dict(study.initial)
    directions = landscape.filter_normalised(study, parameters)
    assert np.array_equal(directions, landscape.filter_normalised(study, parameters))
    for direction in directions:
        part = landscape._unflatten(direction, study.initial)
        for name, value in parameters.items():
            if value.ndim == 1:
                assert not part[name].any()
            else:  # float32 on the way back
                lengths = [np.linalg.norm(array, axis=1) for array in (part[name], value)]
                np.testing.assert_allclose(*lengths, rtol=1e-6)
    cosine = directions[0] @ directions[1] / np.prod(np.linalg.norm(directions, axis=1))
    assert abs(cosine) < 0.1  # 2368 random numbers: a standard deviation of 0.02


@pytest.mark.slow
def test_everything_side_by_side(tmp_path, capsys):
    assert main(["all", "--backend", "torch", "--jobs", "2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for name, title in (("linear_regression", "Linear regression"), ("digits", "Handwritten")):
        assert f"{title}" in said
        for run in ("sgd", "adam"):
            assert records.read(tmp_path / name / run / "torch").parameters is not None
        folder = tmp_path / name / "compare"
        assert_figures(
            folder / "adam_figures", {f.stem for f in (folder / "adam_figures").iterdir()}
        )
        assert (folder / "adam_lr_factor_16.md").is_file()
    assert main(["all", "--backend", "torch", "--out", str(tmp_path)]) == 2
    assert "holds a run already" in capsys.readouterr().err
