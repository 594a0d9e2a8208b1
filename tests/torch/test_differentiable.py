"""Steps inside torch's own machinery: differentiated, and compiled around."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import slow

import optstudy_torch
from optstudy_core import ALGORITHMS, Algorithm
from optstudy_core.arrays import axes, eigen, matrix, reductions

SUMS = {
    "adafactor", "adamuon", "dadapt_adamw", "dog", "dowg", "fromage", "lamb", "lars", "mars",
    "momo", "momo_adam", "muon", "normuon", "novograd", "polyak_sgd", "prodigy", "shampoo", "soap",
    "stable_adamw",
}  # fmt: skip


def ends(algorithm: Algorithm, p: Any, target: Any, lr: Any) -> Any:
    """Train the parameter, two steps; a function of where it begins, the target and the rate."""
    state = algorithm.init(p)
    for _ in range(2):
        given: dict[str, Any] = {"lr": lr} if "lr" in algorithm.defaults() else {}
        if "value" in algorithm.inputs:
            given["value"] = torch.tensor(1.0)
        if "hessian" in algorithm.inputs:
            given["hessian"] = 2 + 0.1 * p * p
        state, step = algorithm.update(state, 2 * (p - target), p, **given)
        p = p + step
    return p


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_pure_function_is_differentiable_or_says_that_it_is_not(name: str) -> None:
    def draw(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(3, 2, dtype=torch.float64, generator=generator).requires_grad_()

    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    given = draw(0), draw(1), lr
    if name in SUMS:
        with pytest.raises(ValueError, match="array with requires_grad: sums, norms and products"):
            ends(ALGORITHMS[name], *given)
        with torch.no_grad():
            ends(ALGORITHMS[name], *given)
        return
    torch.autograd.gradcheck(lambda *x: ends(ALGORITHMS[name], *x), given, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "function",
    [
        reductions.leaf_norm,
        reductions.global_sum,
        lambda x: reductions.leaf_dot(torch.ones(2, 2), x),
        lambda x: axes.axis_mean(x, 0),
        lambda x: matrix.matmul(torch.ones(2, 2), x),
        matrix.gram,
        lambda x: matrix.inverse_root(x, 2),
        eigen.eigenvectors,
    ],
)
def test_what_carries_no_gradient_is_refused(function: Any) -> None:
    x = torch.eye(2, requires_grad=True)
    for given in (x, 2 * x):
        with pytest.raises(ValueError, match="array with requires_grad"):
            function(given)
        function(given.detach())
        with torch.no_grad():
            function(2 * given)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's
@pytest.mark.parametrize("name", ["adamw", slow("muon"), slow("lamb")])
def test_a_compiled_training_step_has_the_optimizers_bits(name: str) -> None:
    """``torch.compile`` of a whole step leaves the optimizer's as it is, with no recompilation."""

    def training(compiled: bool) -> Any:
        w = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(4, 3))
        optimizer = optstudy_torch.from_core(name)([w], lr=0.1)

        def step(x: Any) -> Any:
            optimizer.zero_grad()
            loss = (w * x).square().sum()
            loss.backward()
            optimizer.step()
            return loss.detach()

        run = torch.compile(step, backend="eager") if compiled else step
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        losses = []
        for i in range(4):
            losses.append(run(torch.full((4, 3), 1.0 + i)).item())
            schedule.step()
        return losses, w.detach(), optimizer.state[w]

    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = training(True)
    wanted = training(False)
    assert found[0] == wanted[0]
    assert torch.equal(found[1], wanted[1])
    for key, x in wanted[2].items():
        assert torch.equal(found[2][key], x)
