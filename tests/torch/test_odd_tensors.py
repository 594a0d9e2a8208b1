"""Tensors that are not what their memory holds: computed as if it were so, or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from harness import slow

from optstudy_core import ALGORITHMS
from optstudy_torch import AdamW, from_core, geometry

OF_EVERY_KIND = ("adam", "lamb", "adafactor", "sophia", "polyak_sgd")

KINDS = (
    (None, "sgd"),
    (None, "adam"),
    (None, "muon"),
    slow(True, "muon"),
    (True, "adafactor"),
    *((False, name) if name in OF_EVERY_KIND else slow(False, name) for name in ALGORITHMS),
)
"""How, and with which algorithm."""


def plain(values: torch.Tensor) -> torch.Tensor:
    return values.clone()


def negative(values: torch.Tensor) -> torch.Tensor:
    """The negative of memory that holds the negatives."""
    return torch._neg_view(-values)


def strided(values: torch.Tensor) -> torch.Tensor:
    """Every second number of such memory, from its second on."""
    base = torch.full((*values.shape[:-1], 2 * values.shape[-1] + 1), 7.0, dtype=values.dtype)
    view = torch._neg_view(base)[..., 1::2]
    view.copy_(values)
    return view


def imaginary(values: torch.Tensor) -> torch.Tensor:
    """The imaginary part of a conjugate."""
    view = torch.complex(torch.zeros_like(values), torch.zeros_like(values)).conj().imag
    view.copy_(values)
    return view


def transposed(values: torch.Tensor) -> torch.Tensor:
    return torch._neg_view(-values.mT.contiguous()).mT


VIEWS = negative, strided, imaginary, transposed
SHAPES = ((3, 4), (2, 5))


def draw(seed: int, dtype: torch.dtype, shapes: Sequence[Any]) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random, dtype=dtype) for shape in shapes]


def trained(
    name: str,
    compiled: bool | None,
    params: list[torch.Tensor],
    of_gradients: Callable[[torch.Tensor], torch.Tensor],
    steps: int = 2,
    **arguments: Any,
) -> Any:
    """Take steps; return the optimizer."""
    algorithm = ALGORITHMS[name]
    optimizer = from_core(name)(params, lr=0.1, compile=compiled, **arguments)
    shapes = [p.shape for p in params]
    given: dict[str, Any] = {}
    if "value" in algorithm.inputs:
        given["value"] = 1.25
    for step in range(steps):
        for p, grad in zip(params, draw(step, params[0].dtype, shapes), strict=True):
            p.grad = of_gradients(grad)
        if "hessian" in algorithm.inputs:
            drawn = draw(50 + step, params[0].dtype, shapes)
            given["hessian"] = [of_gradients(h.abs()) for h in drawn]
        optimizer.step(**given)
    return optimizer


def same(a: Any, b: Any) -> bool:
    """Tell whether two optimizers hold the same states, and their parameters are the same."""
    for p, q in zip(a.param_groups[0]["params"], b.param_groups[0]["params"], strict=True):
        if not torch.equal(p, q):
            return False
        if not all(torch.equal(x, b.state[q][n]) for n, x in a.state[p].items()):
            return False
    return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("compiled", "name"), KINDS)
def test_views_that_are_negative(compiled: bool | None, name: str, dtype: torch.dtype) -> None:
    drawn = draw(9, dtype, SHAPES)
    expected = trained(name, compiled, [*map(plain, drawn)], plain)
    views = VIEWS if name in {"sgd", "adam", "muon"} else (strided, imaginary)
    cases = [(view, plain) for view in views] + [(plain, view) for view in views]
    for of_params, of_gradients in [*cases, (strided, imaginary)]:
        params = [*map(of_params, drawn)]
        assert of_params is plain or all(p.is_neg() for p in params)
        assert same(expected, trained(name, compiled, params, of_gradients)), (
            of_params.__name__,
            of_gradients.__name__,
        )
        assert not torch.equal(params[0], drawn[0])


@pytest.mark.usefixtures("torch_operations")
@pytest.mark.parametrize("name", ["sgd", "lamb", "muon", "adafactor", "rprop", "sophia"])
def test_views_in_operations_of_torch(name: str) -> None:
    drawn = draw(9, torch.float32, SHAPES)
    expected = trained(name, None, [*map(plain, drawn)], plain)
    for view in VIEWS:
        assert same(expected, trained(name, None, [*map(view, drawn)], view))


@pytest.mark.parametrize("compiled", [None, False])
@pytest.mark.parametrize("name", ["adam", "lamb", "adafactor"])
def test_views_beside_others(name: str, compiled: bool | None) -> None:
    """Small leaves that share a unit, leaves of other dtypes, some negative."""
    drawn = draw(4, torch.float32, [(5,), (6,), (4,), (3,), (2, 3)])
    ways = [plain, negative, plain, strided, imaginary]
    params = [way(x) for way, x in zip(ways, drawn, strict=True)]
    expected = trained(name, compiled, [*map(plain, drawn)], plain)
    assert same(expected, trained(name, compiled, params, negative))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compiled", [None, False])
@pytest.mark.parametrize("step_dtype", [None, "float32"])
def test_views_of_less_precision(
    dtype: torch.dtype, compiled: bool | None, step_dtype: str | None
) -> None:
    drawn, given = draw(4, dtype, SHAPES), {"step_dtype": step_dtype}
    expected = trained("adam", compiled, [*map(plain, drawn)], plain, **given)
    for view in negative, strided:
        assert same(expected, trained("adam", compiled, [*map(view, drawn)], view, **given))


@pytest.mark.parametrize("compiled", [None, False])
@pytest.mark.parametrize("name", ["adam", "muon"])
def test_states_that_are_negative(name: str, compiled: bool | None) -> None:
    drawn = draw(5, torch.float32, SHAPES)
    both = [trained(name, compiled, [*map(plain, drawn)], plain) for _ in range(2)]
    for state in both[1].state.values():
        for field, x in state.items():
            state[field] = negative(x)
    for made in both:
        for p in made.param_groups[0]["params"]:
            p.grad = torch.full_like(p, 0.3)
        made.step()
    assert same(*both)


@pytest.mark.parametrize("compiled", [None, False])
@pytest.mark.parametrize("name", ["adam", "muon"])
def test_a_parameter_that_becomes_negative(name: str, compiled: bool | None) -> None:
    """The address, the shape and the strides stay."""
    params = [torch.ones(3, 4), torch.ones(3, 4)]
    made = trained(name, compiled, params, plain)
    ends = [x.clone() for x in params]
    params[0].data = torch._neg_view(params[0].data)
    other = copy.deepcopy(made.state_dict())
    twin = from_core(name)([-ends[0], ends[1]], lr=0.1, compile=compiled)
    twin.load_state_dict(other)
    for one in made, twin:
        for p in one.param_groups[0]["params"]:
            p.grad = torch.full_like(p, 0.3)
        one.step()
    assert same(made, twin)


@pytest.mark.parametrize("view", [negative, strided, imaginary])
def test_sums_and_angles(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    u, v = draw(1, torch.float32, [(40,), (40,)])
    for function in geometry.dot, geometry.angle, geometry.cosine:
        assert function(view(u), v) == function(u, v) == function(u, view(v))
    assert geometry.total(view(u)) == geometry.total(u)
    assert geometry.norm([view(u), v]) == geometry.norm([u, v])


# Types that say themselves how they compute.


class Elsewhere(torch.Tensor):
    """Numbers that are not where the memory of the tensor is."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_subclass(cls, torch.zeros_like(numbers))
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError("not to be computed with")


class Without(torch.Tensor):
    """Numbers without memory of the tensor's own."""

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> Without:
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype)

    __torch_dispatch__ = Elsewhere.__torch_dispatch__


class Called(torch.Tensor):
    """Plain memory under another name."""


@pytest.mark.parametrize("kind", [Elsewhere, Without])
@pytest.mark.parametrize("compiled", [None, False])
@pytest.mark.parametrize("name", ["sgd", "lamb", "muon", "sophia"])
def test_other_types_are_refused_by_name(name: str, compiled: bool | None, kind: Any) -> None:
    first, second = torch.ones(2, 3), torch.ones(2, 3)
    first.grad = torch.ones(2, 3)
    second.grad = kind(torch.ones(2, 3))
    made = from_core(name)([("w", first), ("layer.bias", second)], lr=0.1, compile=compiled)
    message = f"gradient of parameter 'layer.bias' of type {kind.__name__}: allowed are tensors"
    with pytest.raises(TypeError, match=message):
        made.step()
    assert torch.equal(first, torch.ones(2, 3))  # a step that is refused changes nothing
    assert not made.state[first]
    third = kind(torch.ones(2, 3))
    third.grad = torch.ones(2, 3)
    made = from_core(name)([first, third], lr=0.1, compile=compiled)
    with pytest.raises(TypeError, match=f"parameter 1 of type {kind.__name__}: allowed are"):
        made.step()


def test_another_type_as_an_input_is_refused() -> None:
    p = torch.ones(3)
    p.grad = torch.ones(3)
    with pytest.raises(TypeError, match="hessian of type Elsewhere: allowed are tensors"):
        from_core("sophia")([p]).step(hessian=[Elsewhere(torch.ones(3))])


@pytest.mark.parametrize("compiled", [None, False])
def test_a_type_with_plain_memory(compiled: bool | None) -> None:
    drawn = draw(5, torch.float32, SHAPES)
    expected = trained("adam", compiled, [*map(plain, drawn)], plain)
    params = [x.clone().as_subclass(Called) for x in drawn]
    assert same(expected, trained("adam", compiled, params, lambda x: x.as_subclass(Called)))


def test_complex_numbers_are_refused_conjugate_or_not() -> None:
    for number in torch.ones(3, dtype=torch.complex64), torch.ones(3, dtype=torch.complex64).conj():
        with pytest.raises(TypeError, match=r"parameter of dtype torch\.complex64"):
            AdamW([number])
