"""Every property × every algorithm and wrapper × both adapters: what one can rely on.

Read this file first. A property is a function below ``# Properties``: what it says holds for every
rule, in every dialect, through ``optstudy_torch`` and ``optstudy_jax``. :data:`EXCEPT` lists what
it does not apply to, and why; the list is checked: an entry that would pass is an error.

`make test` takes one rule of each kind (:data:`QUICK`), in its default dialect; `make test-all`
takes them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import torch
from adapters import ADAPTERS, RULES, JaxRun, Run, TorchRun, reference
from harness import draw, inputs_for, same, start, to_numpy, to_torch
from home import every_tool_takes_its_state, switches_of_jax_find_nothing
from quickly import compiling_quickly

from optstudy_torch import _plans

SHAPES = [(), (1,), (0,), (7,), (4, 5), (2, 3, 2)]
STEPS = 4
STATE_DTYPES = {np.dtype(np.float32), np.dtype(np.int32)}

QUICK = {
    "elementwise": ["adamw"],
    "with sums": ["lamb"],
    "of rows and columns": ["sm3"],
    "with another input": ["sophia"],
    "wrapper": ["lookahead(adam)"],
}
"""The rules that `make test` takes, by kind."""


def kind(name: str) -> str:
    """Return the kind of a rule."""
    rule = RULES[name]
    if "(" in name:
        return "wrapper"
    if rule.leafwise:
        return "of rows and columns"
    if rule.inputs:
        return "with another input"
    return "with sums" if rule.has_sums else "elementwise"


ELEMENT_WISE_ONLY = "one element that is not finite spoils the sums of all"
NO_PATH = "the class of a wrapped rule is made while the program runs: pickle does not find it"
OPTAX_HAS_NONE = "in optax a leaf without a gradient is left out by optax.masked"
NO_GROUPS = "groups are optax.multi_transform's: see `wrappers of optax`"
NOT_WRITABLE = "arrays of JAX cannot be written to"
ONE_LAYOUT = "arrays of JAX have no strides that one can choose"
NOT_ITS_OWN = "the state of JAX's arrays may share memory: nobody writes to it"
REFUSES = "torch's step refuses an input that no rule asks for"
OF_JAX = "tools and switches of JAX are of its own"
OPTAX = "wrappers of optax go around transformations of optax"

EXCEPT: dict[tuple[str, str, str], str] = {
    ("a gradient may be missing", "jax", "*"): OPTAX_HAS_NONE,
    ("groups are optimizers of their own", "jax", "*"): NO_GROUPS,
    ("gradients are not written to", "jax", "*"): NOT_WRITABLE,
    ("memory may be laid out in any way", "jax", "*"): ONE_LAYOUT,
    ("state is memory of its own", "jax", "*"): NOT_ITS_OWN,
    ("wrappers of optax go around it", "torch", "*"): OPTAX,
    ("switches of jax find nothing", "torch", "*"): OF_JAX,
    ("every tool takes its state", "torch", "*"): OF_JAX,
    ("unknown inputs are ignored", "torch", "*"): REFUSES,
    ("a pickle goes on", "torch", "wrapper"): NO_PATH,
}
"""What a property does not apply to: property, adapter, a rule or a kind or all, and the reason."""


# Properties.


def gradients(
    name: str, dialect: str | None, steps: int = STEPS, seed: int = 0, shapes: Any = SHAPES
) -> Any:
    """Return gradients from 1e-6 to 1e3 with exact zeros, but for rules that have no ε."""
    grads = draw(shapes, steps, seed=seed)
    if RULES[name].defaults(dialect).get("eps") == 0:
        return [[np.where(g == 0, np.float32(0.5), g) for g in row] for row in grads]
    return grads


def trained(run: Run, grads: Any) -> Run:
    for g in grads:
        run.step(g)
    return run


def assert_same(found: Any, expected: Any) -> None:
    for i, (x, y) in enumerate(zip(found, expected, strict=True)):
        assert same(x, y), f"leaf {i}"


def assert_same_runs(run: Run, other: Run) -> None:
    assert_same(run.ends(), other.ends())
    assert_same_states(run.states(), other.states())


def assert_same_states(found: Any, expected: Any) -> None:
    for i, (own, wanted) in enumerate(zip(found, expected, strict=True)):
        assert own.keys() == wanted.keys()
        for key in own:
            assert same(own[key], wanted[key]), f"{key} of leaf {i}"


def parameters_and_state_have_the_bits_of_numpy(make: Any, name: str, dialect: str | None) -> None:
    begin, grads = start(SHAPES), gradients(name, dialect)
    run = trained(make(name, dialect, begin), grads)
    ends, states = reference(name, dialect, begin, grads)
    assert_same(run.ends(), ends)
    assert_same_states(run.states(), states)


def dtypes_and_shapes_stay(make: Any, name: str, dialect: str | None) -> None:
    """Also of bfloat16 and float16 parameters, whose state is in float32."""
    for dtype in (np.float32, ml_dtypes.bfloat16, np.float16):
        shapes = [(3,), (2, 2), ()]
        begin, grads = start(shapes, dtype=dtype), draw(shapes, 2, dtype=dtype)
        if make is JaxRun:
            _types_stay_in_jax(name, dialect, begin, grads[0])
            continue
        run = make(name, dialect, begin)
        kinds = []
        for g in grads:
            run.step(g)
            kinds.append([{k: (x.dtype, x.shape) for k, x in own.items()} for own in run.states()])
        assert kinds[0] == kinds[1]
        assert {d for own in kinds[0] for d, _ in own.values()} <= STATE_DTYPES
        assert {x.dtype for x in run.ends()} == {np.dtype(dtype)}


def _types_stay_in_jax(name: str, dialect: str | None, begin: Any, grads: Any) -> None:
    """Without a compilation, under strict promotion: dtypes, shapes and weak types."""
    tx = JaxRun(name, dialect, begin[:0]).tx

    def step(params: Any, grads: Any) -> Any:
        state = tx.init(params)
        updates, new = tx.update(grads, state, params, **inputs_for(RULES[name], params))
        return state, new, updates

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        state, new, updates = jax.eval_shape(step, begin, grads)
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), x) for x in (state, new)]
    assert kinds[0] == kinds[1]
    assert [u.dtype for u in updates] == [g.dtype for g in grads]


def a_step_is_made_once(make: Any, name: str, dialect: str | None) -> None:
    """No compilation after the first steps, whatever the gradients and the rate."""
    run, grads = make(name, dialect, start(SHAPES)), gradients(name, dialect, 6, seed=1)
    trained(run, grads[:2])
    made = len(run.traced) if isinstance(run, JaxRun) else len(_plans._MACHINES)
    for t, g in enumerate(grads[2:]):
        if isinstance(run, TorchRun) and "lr" in run.optimizer.param_groups[0]:
            run.optimizer.param_groups[0]["lr"] = 0.01 / (1 + t)
        run.step(g)
    assert made == (len(run.traced) if isinstance(run, JaxRun) else len(_plans._MACHINES))


def a_saved_state_goes_on(make: Any, name: str, dialect: str | None) -> None:
    grads = gradients(name, dialect, 6)
    run = trained(make(name, dialect, start(SHAPES)), grads[:3])
    other = run.saved_and_loaded()
    assert_same_runs(trained(other, grads[3:]), trained(run, grads[3:]))


def a_copy_goes_on(make: Any, name: str, dialect: str | None, how: str = "copy") -> None:
    grads = gradients(name, dialect, 6)
    run = trained(make(name, dialect, start(SHAPES)), grads[:3])
    other = run.copied(how)
    before = run.ends()
    trained(other, grads[3:])
    assert_same(run.ends(), before)  # the copy has memory of its own
    assert_same_runs(other, trained(run, grads[3:]))


def a_pickle_goes_on(make: Any, name: str, dialect: str | None) -> None:
    a_copy_goes_on(make, name, dialect, "pickle")


def a_gradient_may_be_missing(make: Any, name: str, dialect: str | None) -> None:
    """A parameter without one stands still, and the others step as if it were not there."""
    begin, grads = start(SHAPES), gradients(name, dialect, 5)
    run = make(name, dialect, begin)
    without = [g[:3] + g[4:] for g in grads]
    alone = trained(make(name, dialect, begin[:3] + begin[4:]), without[:3])
    for g in grads[:3]:
        run.step([*g[:3], None, *g[4:]])
    assert same(run.ends()[3], begin[3])
    assert not run.states()[3]
    assert_same(run.ends()[:3] + run.ends()[4:], alone.ends())
    run.step(grads[3])  # it starts late, at a step of its own, which moves nothing of some rules
    assert bool(run.states()[3]) == bool(run.states()[0])
    late = trained(make(name, dialect, begin[3:4]), [grads[3][3:4]])
    if not RULES[name].has_global_sums and not RULES[name].inputs:
        assert_same(run.ends()[3:4], late.ends())


def groups_are_optimizers_of_their_own(make: Any, name: str, dialect: str | None) -> None:
    begin, grads = start(SHAPES), gradients(name, dialect)
    cut = slice(0, 3), slice(3, None)
    together = trained(make(name, dialect, begin, groups=cut), grads)
    parts = [trained(make(name, dialect, begin[c]), [g[c] for g in grads]) for c in cut]
    assert_same(together.ends(), [x for part in parts for x in part.ends()])


def memory_may_be_laid_out_in_any_way(make: Any, name: str, dialect: str | None) -> None:
    """Transposed, sliced, expanded parameters and gradients: the same bits, the same strides."""
    begin, grads = start([(4, 6)]), draw([(4, 6)], 3)
    plain = trained(make(name, dialect, begin), grads)
    layouts: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda x: x.t().contiguous().t(),
        lambda x: torch.stack([x, x], -1)[..., 0],
    ]
    for of_param, of_grad in (layouts, layouts[::-1]):
        run = make(name, dialect, begin)
        run.params[0].data = of_param(to_torch(begin[0]))
        strides = run.params[0].stride()
        for (g,) in grads:
            run.params[0].grad = of_grad(to_torch(g))
            run.take()
        assert run.params[0].stride() == strides
        assert_same_runs(run, plain)
    ones = np.full((4, 6), 0.25, np.float32)
    one = trained(make(name, dialect, begin), [[ones]])
    run = make(name, dialect, begin)
    run.params[0].grad = torch.full((), 0.25).expand(4, 6)
    run.take()
    assert_same_runs(run, one)


def gradients_are_not_written_to(make: Any, name: str, dialect: str | None) -> None:
    run = make(name, dialect, start(SHAPES))
    for grads in gradients(name, dialect, 2):
        run.give(grads)
        before = [(p.grad, p.grad._version) for p in run.params]
        run.take()
        for p, (grad, version), g in zip(run.params, before, grads, strict=True):
            assert p.grad is grad
            assert grad._version == version
            assert to_numpy(grad).tobytes() == g.tobytes()


def state_is_memory_of_its_own(make: Any, name: str, dialect: str | None) -> None:
    """No field is a gradient, a parameter or another field."""
    run = make(name, dialect, start([(5,), (3, 4)]))
    for grads in draw([(5,), (3, 4)], 2):
        run.step(grads)
        for p in run.params:
            state = [x for x in run.optimizer.state[p].values() if x.numel()]
            pointers = [x.data_ptr() for x in (p, p.grad, *state)]
            assert len(set(pointers)) == len(pointers)


def what_is_not_finite_propagates(make: Any, name: str, dialect: str | None) -> None:
    """As in NumPy, without an error, and to the same elements; nothing else is touched."""
    bad = np.array([np.nan, np.inf, -np.inf, 1.0, 0.5, -0.0, 2.0], np.float32)
    begin, grads = start(SHAPES), gradients(name, dialect, 3)
    grads[1][3] = bad
    run = trained(make(name, dialect, begin), grads)
    ends, _ = reference(name, dialect, begin, grads)
    assert_same(run.ends(), ends)
    if not RULES[name].has_sums and not RULES[name].inputs and not RULES[name].leafwise:
        assert np.isfinite(ends[3][3:5]).all()
        assert np.isfinite(ends[4]).all()


def unknown_inputs_are_ignored(make: Any, name: str, dialect: str | None) -> None:
    """They are for others in an ``optax.chain``."""
    begin = start([(3,)])
    tx = optax.chain(make(name, dialect, begin).tx, optax.identity())
    more = inputs_for(RULES[name], begin)
    jax.eval_shape(
        lambda p: tx.update(p, tx.init(p), p, value_fn=None, unknown=jnp.ones(()), **more), begin
    )


def wrappers_of_optax_go_around_it(make: Any, name: str, dialect: str | None) -> None:
    """Each gives what the transformation alone gives.

    One kind is enough for what XLA rounds in a larger program; the others compile quickly.
    """
    with nullcontext() if kind(name) == "elementwise" else compiling_quickly():
        _wrappers_of_optax_go_around_it(make, name, dialect)


def _wrappers_of_optax_go_around_it(make: Any, name: str, dialect: str | None) -> None:
    rule, alone = RULES[name], make(name, dialect, []).tx
    shapes = [(2, 3), (), (0,)]
    params, (g1, g2) = start(shapes), gradients(name, dialect, 2, 3, shapes)

    def runner(tx: Any) -> Callable[..., list[Any]]:
        update = jax.jit(tx.update)

        def run(*grads: Any, theta: Any = params) -> list[Any]:
            state, steps = tx.init(theta), []
            for g in grads:
                step, state = update(g, state, theta, **inputs_for(rule, theta))
                steps.append(step)
            return steps

        return run

    def without(x: Any) -> Any:
        return [x[0], x[2]]

    first, second = runner(alone)(g1, g2)
    finite = runner(optax.chain(optax.identity(), optax.apply_if_finite(alone, 3)))
    skipped, *after = finite([g + np.float32(np.inf) for g in g1], g1, g2)
    assert not any(np.any(u) for u in skipped)
    assert_same(jax.tree.leaves(after), [*first, *second])

    waiting, mean = runner(optax.MultiSteps(alone, 2))(g1, g1)
    assert not any(np.any(u) for u in waiting)
    assert_same(mean, first)  # of two equal gradients

    labels = ["ours", "still", "ours"]
    several = optax.multi_transform(
        {"ours": alone, "still": optax.set_to_zero()}, labels, mask_compatible_extra_args=True
    )
    three = [without(u) for u in (first, second)]
    if rule.has_global_sums:
        three = runner(alone)(*map(without, (g1, g2)), theta=without(params))
    for own, step in zip(three, runner(several)(g1, g2), strict=True):
        assert_same(without(step), own)
        assert not np.any(step[1])


PROPERTIES = {
    function.__name__.replace("_", " "): function
    for function in (
        parameters_and_state_have_the_bits_of_numpy,
        dtypes_and_shapes_stay,
        a_step_is_made_once,
        a_saved_state_goes_on,
        a_copy_goes_on,
        a_pickle_goes_on,
        a_gradient_may_be_missing,
        groups_are_optimizers_of_their_own,
        memory_may_be_laid_out_in_any_way,
        gradients_are_not_written_to,
        state_is_memory_of_its_own,
        what_is_not_finite_propagates,
        unknown_inputs_are_ignored,
        wrappers_of_optax_go_around_it,
        switches_of_jax_find_nothing,
        every_tool_takes_its_state,
    )
}


# The table.


def reason(prop: str, adapter: str, name: str) -> str | None:
    """Return why a property does not apply, if it does not."""
    for whom in ("*", kind(name), name):
        if (prop, adapter, whom) in EXCEPT:
            return EXCEPT[prop, adapter, whom]
    return None


def cells() -> Iterator[Any]:
    quick = {name for names in QUICK.values() for name in names}
    for name, rule in RULES.items():
        for dialect in rule.dialects:
            ordinary = name in quick and dialect == rule.default_dialect
            for adapter in ADAPTERS:
                for prop in PROPERTIES:
                    if reason(prop, adapter, name) is None:
                        yield pytest.param(
                            prop,
                            adapter,
                            name,
                            dialect,
                            marks=[] if ordinary else [pytest.mark.slow],
                            id=f"{name}-{dialect}-{adapter}-{prop.replace(' ', '_')}",
                        )


@pytest.mark.parametrize(("prop", "adapter", "name", "dialect"), list(cells()))
def test_it_holds(prop: str, adapter: str, name: str, dialect: str) -> None:
    PROPERTIES[prop](ADAPTERS[adapter], name, dialect)


def test_every_kind_has_a_rule_that_is_always_tested() -> None:
    assert {kind(name) for name in RULES} == QUICK.keys()
    for expected, names in QUICK.items():
        assert {kind(name) for name in names} == {expected}


@pytest.mark.parametrize(("prop", "adapter", "whom"), list(EXCEPT))
def test_an_exception_is_one(prop: str, adapter: str, whom: str) -> None:
    """What the list leaves out would fail: else it does not belong there."""
    assert prop in PROPERTIES
    names = [name for names in QUICK.values() for name in names]
    name = next(n for n in names if whom in ("*", kind(n), n))
    with pytest.raises(Exception):  # noqa: B017, PT011  (of any kind: there is no such thing)
        PROPERTIES[prop](ADAPTERS[adapter], name, RULES[name].default_dialect)
