"""The problems: the same model in both frameworks, and batches."""

import numpy as np
import pytest
from harness import slow
from trainings import BACKENDS, learner_of

from studies.problems.table import QUICK, STUDIES, load
from studies.study import NnxLeaf

pytest.importorskip("torch")
pytest.importorskip("flax")
pytest.importorskip("sklearn")


LARGE = ("allcnn", "allcnn_xy", "ddplus_kernel", "ddplus", "digits_cnn")


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
    # weight changes the first digit. DDplus has up to twenty layers, one after the other. torch
    # adds the gradient of AllCNN's bias over events and bins in float32: on some CPUs it is
    # 2700 2**-24 from the float64 gradient.
    roundings = {"allcnn": 2**13, "ddplus": 2**15}.get(name.partition("_")[0], 256)
    outputs = [side.outputs(parameters, batch.inputs) for side in (ours, theirs)]
    scale = np.abs(outputs[0]).max()
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=0, atol=roundings * 2**-24 * scale)
    assert ours.loss(parameters, batch) == pytest.approx(theirs.loss(parameters, batch), rel=1e-5)
    gradients = [side.gradients(parameters, batch) for side in (ours, theirs)]
    for layer, gradient in gradients[0].items():
        assert gradient.shape == study.initial[layer].shape
        assert np.abs(gradient).max() > 0
        np.testing.assert_allclose(
            gradient, gradients[1][layer], rtol=0, atol=roundings * 2**-24 * np.abs(gradient).max()
        )


def test_the_layers_of_pv_finder_are_the_same_in_both_frameworks(study_of):
    """DDplus has those of AllCNN too."""
    study = study_of("ddplus")
    outputs = [
        learner_of(backend, study).outputs(dict(study.initial), study.test.inputs[:1])
        for backend in BACKENDS
    ]
    assert outputs[0].shape == (1, 4000)
    assert np.ptp(outputs[0]) > 0
    # As above.
    np.testing.assert_allclose(*outputs, rtol=0, atol=256 * 2**-24 * outputs[0].max())


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
