"""What is refused, where it enters, and that the message says what is allowed (DESIGN, 8)."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import optstudy_core
import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS, Algorithm

pytestmark = pytest.mark.usefixtures("compiled_quickly")

Make = Callable[..., Any]


def in_torch(name: str, **given: Any) -> Any:
    if "b1" in given or "b2" in given:
        given["betas"] = (given.pop("b1", 0.9), given.pop("b2", 0.999))
    return optstudy_torch.from_core(name)([torch.zeros(2)], **given)


def in_a_group(name: str, **given: Any) -> Any:
    if "b1" in given or "b2" in given:
        given["betas"] = (given.pop("b1", 0.9), given.pop("b2", 0.999))
    return optstudy_torch.from_core(name)([{"params": [torch.zeros(2)], **given}])


def in_jax(name: str, **given: Any) -> Any:
    if "lr" in given:
        given["learning_rate"] = given.pop("lr")
    return optstudy_jax.from_core(name)(**given)


def in_the_core(name: str, **given: Any) -> Any:
    dialect = given.pop("dialect", None)
    return ALGORITHMS[name].resolve(dialect, given)


everywhere = pytest.mark.parametrize("make", [in_torch, in_a_group, in_jax, in_the_core])
adapters = pytest.mark.parametrize("make", [in_torch, in_jax])


def refuses(error: type[Exception], *parts: Any) -> Any:
    """Expect an error whose message holds all parts."""

    class Refused:
        def __enter__(self) -> None:
            self.context = pytest.raises(error)
            self.found = self.context.__enter__()

        def __exit__(self, *exc: Any) -> Any:
            result = self.context.__exit__(*exc)
            message = str(self.found.value)
            for part in parts:
                assert str(part) in message
            return result

    return Refused()


# Values.


@everywhere
@pytest.mark.parametrize(
    ("name", "argument", "value", "allowed"),
    [
        ("adam", "lr", -1e-3, "finite numbers >= 0"),
        ("adam", "lr", math.nan, "finite numbers >= 0"),
        ("adam", "lr", math.inf, "finite numbers >= 0"),
        ("adam", "eps", -1e-8, "finite numbers >= 0"),
        ("adam", "eps_root", -1.0, "finite numbers >= 0"),
        ("adamw", "weight_decay", -0.1, "finite numbers >= 0"),
        ("adamw", "weight_decay", math.nan, "finite numbers >= 0"),
        ("adam", "b1", 1.0, "numbers from 0 to below 1"),
        ("adam", "b1", -0.1, "numbers from 0 to below 1"),
        ("amsgrad", "b2", 1.5, "numbers from 0 to below 1"),
        ("amsgrad", "b2", math.nan, "numbers from 0 to below 1"),
        ("sgd", "momentum", -0.9, "finite numbers >= 0"),
        ("sgd", "dampening", 1.5, "numbers from 0 to 1"),
    ],
)
def test_a_number_out_of_range(
    make: Make, name: str, argument: str, value: float, allowed: str
) -> None:
    with refuses(ValueError, f"{argument} = {value!r}", f"allowed are {allowed}"):
        make(name, **{argument: value})


@everywhere
@pytest.mark.parametrize(
    ("name", "argument", "value", "allowed"),
    [
        ("adam", "lr", "0.1", "finite numbers >= 0"),
        ("adam", "lr", 1j, "finite numbers >= 0"),
        ("adam", "lr", [0.1], "finite numbers >= 0"),
        ("adam", "eps", True, "finite numbers >= 0"),
        ("adam", "b1", "0.9", "numbers from 0 to below 1"),
        ("adam", "maximize", 1, "True and False"),
        ("sgd", "nesterov", "yes", "True and False"),
    ],
)
def test_a_value_of_the_wrong_kind(
    make: Make, name: str, argument: str, value: Any, allowed: str
) -> None:
    with refuses(TypeError, f"{argument} = {value!r}", f"allowed are {allowed}"):
        make(name, **{argument: value})


@everywhere
@pytest.mark.parametrize("given", [{}, {"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_without_momentum_or_with_dampening(make: Make, given: dict[str, Any]) -> None:
    with refuses(ValueError, "nesterov = True", "allowed with a momentum and with dampening 0"):
        make("sgd", nesterov=True, **given)


@everywhere
def test_an_unknown_dialect_with_the_nearest_name(make: Make) -> None:
    with refuses(ValueError, "dialect = 'troch'", "did you mean 'torch'?", "'optax', 'paper'"):
        make("adam", dialect="troch")


@pytest.mark.parametrize(
    "find",
    [
        optstudy_torch.from_core,
        optstudy_jax.from_core,
        optstudy_core.defaults,
        optstudy_core.citation,
    ],
)
def test_an_unknown_algorithm_with_the_nearest_names(find: Any) -> None:
    with refuses(ValueError, "algorithm = 'adamn'", "did you mean", "'adam' or", "'sgd'"):
        find("adamn")
    with refuses(TypeError, "algorithm = 3", "allowed are a name and an Algorithm"):
        find(3)


@pytest.mark.parametrize("make", [in_torch, in_jax, in_the_core])
def test_a_misspelt_argument_with_the_nearest_name(make: Make) -> None:
    with refuses(TypeError, "'weight_decy'", "did you mean 'weight_decay'", "'eps'"):
        make("adamw", weight_decy=0.1)


def test_the_other_frameworks_name_of_an_argument() -> None:
    """Users of one framework know its names."""
    params = [torch.zeros(2)]
    with refuses(TypeError, "AdamW has no argument 'learning_rate'", "called 'lr' here"):
        optstudy_torch.AdamW(params, learning_rate=0.1)
    with refuses(TypeError, "Rprop has no argument 'etaplus'", "called 'etas' here"):
        optstudy_torch.Rprop(params, etaplus=1.2)
    with refuses(TypeError, "adamw has no argument 'lr'", "called 'learning_rate' here"):
        optstudy_jax.adamw(lr=0.1)
    with refuses(TypeError, "adamw has no argument 'betas'", "called 'b1' and 'b2' here"):
        optstudy_jax.adamw(betas=(0.9, 0.99))
    with refuses(TypeError, "sgd has no argument 'betas'", "Allowed are"):
        optstudy_jax.sgd(betas=(0.9, 0.99))
    with refuses(ValueError, "did you mean 'nadam'? Allowed"):
        optstudy_core.citation("NAdam")
    with refuses(AttributeError, "did you mean 'AdamW'? Allowed"):
        _ = optstudy_torch.adamw


@adapters
def test_too_many_arguments(make: Make) -> None:
    function = optstudy_torch.Adam if make is in_torch else optstudy_jax.adam
    with pytest.raises(TypeError, match="too many positional arguments"):
        function(*range(20))


@adapters
def test_step_dtype(make: Make) -> None:
    with refuses(ValueError, "step_dtype = 'float64'", "allowed are None and 'float32'"):
        make("adam", step_dtype="float64")


# torch.


def test_betas_of_the_wrong_form() -> None:
    with refuses(TypeError, "betas = 0.9", "allowed are tuples of 2 numbers"):
        optstudy_torch.Adam([torch.zeros(1)], betas=0.9)
    with refuses(TypeError, "betas = (0.9,)", "allowed are tuples of 2 numbers"):
        optstudy_torch.Adam([torch.zeros(1)], betas=(0.9,))
    with refuses(TypeError, "b1 in a group", "allowed are", "betas"):
        optstudy_torch.Adam([{"params": [torch.zeros(1)], "b1": 0.5}])


def test_other_tuples_of_torch() -> None:
    with refuses(TypeError, "etas = (0.5,)", "allowed are tuples of 2 numbers"):
        optstudy_torch.Rprop([torch.zeros(1)], etas=(0.5,))
    with refuses(ValueError, "etaminus = 0.0", "allowed are numbers above 0 and below 1"):
        optstudy_torch.Rprop([torch.zeros(1)], etas=(0.0, 1.2))
    with refuses(ValueError, "etaplus = 1.0", "allowed are numbers above 1"):
        optstudy_torch.Rprop([torch.zeros(1)], etas=(0.5, 1.0))
    with refuses(ValueError, "step_size_max = -1.0", "allowed are numbers above 0"):
        optstudy_torch.Rprop([torch.zeros(1)], step_sizes=(1e-6, -1.0))
    with refuses(TypeError, "etaplus in a group", "allowed are", "etas"):
        optstudy_torch.Rprop([{"params": [torch.zeros(1)], "etaplus": 1.5}])


def test_a_flag_that_is_no_truth_value() -> None:
    with refuses(TypeError, "amsgrad = 1", "allowed are True and False"):
        optstudy_torch.Adam([torch.zeros(1)], amsgrad=1)


def test_a_flag_that_would_lose_another_argument() -> None:
    with refuses(ValueError, "amsgrad = True", "allowed without lr_in_decay = False"):
        optstudy_torch.AdamW([torch.zeros(1)], amsgrad=True, lr_in_decay=False)
    with refuses(ValueError, "amsgrad = True", "lr_in_decay = False"):
        optstudy_torch.AdamW([torch.zeros(1)], amsgrad=True, dialect="paper")


def test_a_tensor_out_of_range() -> None:
    with refuses(ValueError, "lr = -1.0", "allowed are finite numbers >= 0"):
        optstudy_torch.Adam([torch.zeros(1)], lr=torch.tensor(-1.0))
    with refuses(ValueError, "lr of shape (2,)", "allowed are numbers and tensors with one"):
        optstudy_torch.Adam([torch.zeros(1)], lr=torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool])
def test_parameters_of_a_dtype_without_steps(dtype: Any) -> None:
    with refuses(TypeError, f"parameter of dtype {dtype}", "allowed are torch.float32"):
        optstudy_torch.Adam([torch.zeros(2, dtype=dtype)])
    optimizer = optstudy_torch.Adam([torch.zeros(2)])
    with pytest.raises(TypeError, match="parameter of dtype"):
        optimizer.add_param_group({"params": [torch.zeros(2, dtype=dtype)]})
    assert len(optimizer.param_groups) == 1


def two_groups(**given: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
    good, bad = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    good.grad = torch.ones(2)
    return optstudy_torch.Adam([{"params": [good]}, {"params": [bad]}], **given), good, bad


def assert_refused_as_a_whole(optimizer: Any, good: torch.Tensor) -> None:
    """A step that is refused changes nothing, also in the groups before."""
    assert good.tolist() == [1.0, 1.0]
    assert not any(optimizer.state.values())


def test_a_sparse_gradient_in_torch() -> None:
    optimizer, good, bad = two_groups()
    with torch.sparse.check_sparse_tensor_invariants(True):  # torch warns who does not choose
        bad.grad = torch.sparse_coo_tensor([[0]], [1.0], (2,))
    with refuses(TypeError, "gradient of layout torch.sparse_coo", "allowed are dense"):
        optimizer.step()
    assert_refused_as_a_whole(optimizer, good)


def test_a_gradient_of_another_shape_in_torch() -> None:
    optimizer, good, bad = two_groups()
    bad.grad = torch.ones(2)
    bad.data = torch.ones(2, 2)
    with refuses(ValueError, "gradient of shape (2,)", "allowed is (2, 2)"):
        optimizer.step()
    assert_refused_as_a_whole(optimizer, good)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.int32])
def test_a_gradient_of_another_dtype_in_torch(dtype: Any) -> None:
    optimizer, good, bad = two_groups()
    if not hasattr(bad, "grad_dtype"):
        pytest.skip("this torch refuses such gradients itself")
    bad.grad_dtype = None  # anything
    bad.grad = torch.ones(2, dtype=dtype)
    with refuses(TypeError, f"gradient of dtype {dtype}", "torch.float32 holds"):
        optimizer.step()
    assert_refused_as_a_whole(optimizer, good)


def test_a_value_changed_later_is_refused_at_the_step() -> None:
    optimizer, good, bad = two_groups()
    bad.grad = torch.ones(2)
    optimizer.param_groups[1]["lr"] = -1.0
    with refuses(ValueError, "lr = -1.0", "allowed are finite numbers >= 0"):
        optimizer.step()
    assert_refused_as_a_whole(optimizer, good)


def test_a_state_whose_fields_do_not_fit_is_refused_at_the_step() -> None:
    optimizer, _, _ = two_groups()
    optimizer.step()
    optimizer.param_groups[0]["amsgrad"] = True
    with refuses(ValueError, "the state of amsgrad has the fields", "v_max"):
        optimizer.step()


def stepped(cls: Any, *shapes: tuple[int, ...], **given: Any) -> Any:
    params = [torch.nn.Parameter(torch.ones(s)) for s in shapes or [(2,)]]
    optimizer = cls(params, **given)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


CLASSES = [optstudy_torch.SGD, optstudy_torch.Adam, optstudy_torch.AdamW, optstudy_torch.AMSGrad]


@pytest.mark.parametrize(
    ("own", "other"),
    [(own, other) for own in CLASSES for other in CLASSES if own is not other],
)
def test_a_state_dict_of_another_class(own: Any, other: Any) -> None:
    optimizer = stepped(own)
    before = copy.deepcopy(optimizer.state_dict())
    with refuses(ValueError, "state_dict of algorithm", f"allowed for {own.__name__} is"):
        optimizer.load_state_dict(stepped(other).state_dict())
    assert str(optimizer.state_dict()) == str(before)


def test_a_state_dict_with_the_fields_of_another_algorithm() -> None:
    saved = stepped(optstudy_torch.Adam, amsgrad=True).state_dict()
    saved["param_groups"][0]["amsgrad"] = False
    with refuses(ValueError, "state_dict has the fields", "v_max", "allowed are"):
        stepped(optstudy_torch.Adam).load_state_dict(saved)


def test_a_state_dict_of_other_parameters() -> None:
    optimizer = stepped(optstudy_torch.Adam)
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        optimizer.load_state_dict(stepped(optstudy_torch.Adam, (2,), (3,)).state_dict())
    with refuses(ValueError, "state_dict has m of shape (3,)", "a parameter of shape (2,)"):
        optimizer.load_state_dict(stepped(optstudy_torch.Adam, (3,)).state_dict())
    other = optstudy_torch.Adam([{"params": [torch.zeros(2)]}, {"params": [torch.zeros(2)]}])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict(other.state_dict())


def test_a_group_of_another_class() -> None:
    group = optstudy_torch.SGD([torch.zeros(1)]).param_groups[0]
    assert optstudy_torch.Adam([group]).param_groups[0]["algorithm"] == "sgd"
    saved = optstudy_torch.SGD([torch.zeros(1)]).state_dict()
    with refuses(ValueError, "state_dict of algorithm 'sgd'", "allowed for Adam is 'adam'"):
        optstudy_torch.Adam([torch.zeros(1)]).load_state_dict(saved)


class Sum(NamedTuple):
    """The state of a rule of one's own."""

    v: Any


MISTAKES: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "a function of NumPy": (lambda s, g: (s, np.sqrt(g)), ["xp = namespace(grad)", "xp.sqrt(x)"]),
    "a norm of NumPy": (lambda s, g: (s, g / np.linalg.norm(g)), ["those of optstudy_core"]),
    "a function of torch": (lambda s, g: (s, torch.sign(g)), ["xp = namespace(grad)"]),
    "a Python number": (lambda s, g: (s, float(g)), ["xp = namespace(grad)"]),
    "the pair the other way round": (
        lambda s, g: (g, s),
        ["returned an array, Sum: allowed is the pair (state, step), here Sum and an array"],
    ),
    "no state": (lambda s, g: g, ["returned an array: allowed"]),
    "nothing": (lambda s, g: None, ["returned NoneType: allowed"]),
    "another state": (lambda s, g: ((s.v,), g), ["returned tuple, an array: allowed"]),
}


@pytest.mark.parametrize(("formula", "words"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("from_core", [optstudy_torch.from_core, optstudy_jax.from_core])
def test_a_common_mistake_in_a_rule_of_ones_own(
    from_core: Any, formula: Any, words: list[str]
) -> None:
    def update(state: Any, grad: Any, params: Any = None, *, lr: Any = 0.1) -> Any:
        return formula(state, lr * grad)

    with refuses(TypeError, "update of 'own'", *words):
        from_core(Algorithm("own", lambda params: Sum(0 * params), update))


def test_a_rule_that_needs_other_arrays_is_not_refused_before_its_step() -> None:
    def update(state: Any, grad: Any, params: Any = None, *, lr: Any = 0.1) -> Any:
        if len(grad.shape) != 3:
            raise ValueError("allowed are three axes")
        return state, -lr * grad

    assert optstudy_torch.from_core(Algorithm("own", lambda params: Sum(0 * params), update))


def test_an_algorithm_of_the_wrong_form() -> None:
    def init(params: Any) -> Any:
        return (params,)

    def without(state: Any, grad: Any, params: Any = None, *, lr: Any) -> Any:
        return state, -lr * grad

    def update(state: Any, grad: Any, params: Any = None, *, lr: Any = 0.1) -> Any:
        return state, -lr * grad

    with refuses(TypeError, "update of 'mine'", "without a default: lr"):
        Algorithm("mine", init, without)
    with refuses(ValueError, "name = 'my rule'", "allowed are Python identifiers"):
        Algorithm("my rule", init, update)
    with refuses(TypeError, "dialect 'x' of 'mine' sets 'lrr'", "did you mean 'lr'?"):
        Algorithm("mine", init, update, {"x": {"lrr": 1.0}})


# JAX.


def test_a_state_of_another_algorithm_in_jax() -> None:
    params = jnp.ones(2)
    states = {name: in_jax(name).init(params) for name in sorted(ALGORITHMS)}
    for own in states:
        for other, state in states.items():
            if own != other:
                with refuses(TypeError, type(state.inner).__name__, f"allowed for {own} is"):
                    in_jax(own).update(params, state, params)
    with refuses(TypeError, "state of type", "allowed for adam is AdamState"):
        in_jax("adam").update(params, optax.adam(0.1).init(params), params)


def test_a_state_of_other_hyperparameters_or_parameters_in_jax() -> None:
    params = {"w": jnp.ones(2)}
    with_buffer, without = in_jax("sgd", momentum=0.9), in_jax("sgd")
    with refuses(ValueError, "state of sgd with b of structure", "allowed is"):
        with_buffer.update(params, without.init(params), params)
    with refuses(ValueError, "state of sgd with b", "need a state without"):
        without.update(params, with_buffer.init(params), params)
    tx = in_jax("adam")
    with refuses(ValueError, "state of adam with m of structure", "allowed is"):
        tx.update(params, tx.init(jnp.ones(2)), params)


def test_gradients_that_do_not_fit_in_jax() -> None:
    tx = in_jax("adam")
    params = {"w": jnp.ones(2)}
    state = tx.init(params)
    with refuses(ValueError, "gradient of shape (3,)", "allowed is (2,)"):
        tx.update({"w": jnp.ones(3)}, state, params)
    with refuses(ValueError, "params and the gradients have different structures"):
        tx.update({"w": jnp.ones(2), "b": jnp.ones(2)}, state, params)
    for dtype in (jnp.complex64, jnp.int32, jnp.bool_):
        with refuses(TypeError, f"gradient of dtype {jnp.dtype(dtype)}", "allowed are real"):
            tx.update({"w": jnp.ones(2, dtype)}, state, params)
        with refuses(TypeError, f"gradient of dtype {jnp.dtype(dtype)}", "allowed are float32"):
            tx.update({"w": jnp.ones(2, dtype)}, state)
    with (
        jax.enable_x64(True),
        refuses(TypeError, "gradient of dtype float64 for a parameter of dtype float32"),
    ):
        tx.update({"w": jnp.ones(2, jnp.float64)}, state, params)


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.int32, jnp.bool_])
def test_parameters_of_a_dtype_without_steps_in_jax(dtype: Any) -> None:
    with refuses(TypeError, f"dtype {jnp.dtype(dtype)}", "allowed are float32, float64"):
        in_jax("adam").init({"w": jnp.ones(2, dtype)})


def test_hyperparameters_that_are_not_scalars_in_jax() -> None:
    params = jnp.ones(2)
    tx = in_jax("adam", lr=jnp.ones(2))
    with refuses(ValueError, "lr of shape (2,)", "allowed are numbers and 0-d arrays"):
        tx.update(params, tx.init(params), params)


# Parameters that a term needs.


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("adamw", {}),
        ("adam", {"weight_decay": 0.1}),
        ("sgd", {"weight_decay": 0.1}),
        ("amsgrad", {"weight_decay": 0.1}),
        ("amsgrad", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ],
)
def test_weight_decay_needs_the_parameters(name: str, given: dict[str, Any]) -> None:
    message = ("params = None", "weight_decay reads the parameters", "pass them to update")
    params = jnp.ones(2)
    tx = in_jax(name, **given)
    with refuses(ValueError, *message):
        tx.update(params, tx.init(params))
    own, theta = ALGORITHMS[name], np.ones(2)
    with refuses(ValueError, *message):
        own.update(own.init(theta), theta, **given)


# What is not refused.


def test_the_ends_of_the_ranges_are_allowed() -> None:
    for make in (in_torch, in_a_group, in_jax, in_the_core):
        make("adam", lr=0.0, b1=0.0, b2=0.0, eps=0.0, weight_decay=0.0)
        make("sgd", lr=10**6, momentum=2.0, dampening=1.0)


@pytest.mark.parametrize(
    ("name", "argument", "here"),
    [
        ("rmsprop", "decay", "called 'alpha' here"),
        ("rmsprop", "eps_in_sqrt", "called 'eps_in_root' here"),
        ("rprop", "min_step_size", "called 'step_size_min' here"),
        ("signum", "beta", "called 'b1' here"),
        ("muon", "beta", "called 'momentum' here"),
        ("polyak_sgd", "max_learning_rate", "called 'max_lr' here"),
        ("adam", "mu_dtype", "the state is float32"),
        ("adamw", "nesterov", "AdamW nadamw"),
        ("sgd", "accumulator_dtype", "the state is float32"),
    ],
)
def test_an_argument_that_optax_calls_otherwise(name: str, argument: str, here: str) -> None:
    function = getattr(optax, name, None) or getattr(optax.contrib, name)
    assert argument in inspect.signature(function).parameters
    with refuses(TypeError, f"{name} has no argument {argument!r}", here):
        in_jax(name, **{argument: 0.5})


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("ns_coefficients", ((3.0, -4.0, "2"),)),
        ("ns_coefficients", (3.0, -4.0)),
        ("ns_coefficients", 3.0),
        ("ns_coefficients", "cubic"),
        ("ns_coefficients", (3.0, math.nan, 2.0)),
        ("ns_steps", 2.5),
        ("ns_steps", -1),
        ("ns_steps", 100),
        ("adjust_lr_fn", "match"),
        ("output_axis", 0.5),
        ("reduction_axis", (0, "1")),
        ("split", 0),
        ("split", ()),
        ("adam_lr", -1.0),
    ],
)
def test_a_choice_of_muon_that_is_none(name: str, bad: Any) -> None:
    for make in (in_torch, in_jax, in_the_core):
        with pytest.raises(ValueError, match=rf"{name} = .*: allowed are"):
            make("muon", **{name: bad})
