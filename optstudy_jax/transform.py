"""optax transformations around the pure functions of the core."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optstudy_core import ALGORITHMS, Algorithm
from optstudy_core.arrays.leaves import Leaves, Scalars, map_leaves
from optstudy_core.arrays.numbers import is_number, nearest
from optstudy_core.catalogue.algorithm import INPUTS
from optstudy_core.catalogue.docstring import meaning, with_arguments
from optstudy_core.catalogue.table import find

from ._array import JAX, OUTSIDE, PLAIN, Node, isolate, leaving, outside, repeated, rounded

BACKEND = JAX()


class TransformState(NamedTuple):
    """State of a transformation.

    Attributes:
        count: steps taken, int32; what a learning-rate schedule is called with.
        inner: the algorithm's own state, e.g. ``AdamState``; fields are trees like the parameters,
            in float32 or, for float64 parameters, float64, and what is a scalar for each leaf
            (bias corrections) is a :class:`PerLeaf`.
    """

    count: Any
    inner: Any


class PerLeaf(NamedTuple):
    """A scalar for each leaf, side by side in the order of ``jax.tree.leaves``.

    Compilers make one loop of them, instead of some for each leaf.

    Attributes:
        float32: vector with those of the leaves that are computed in float32; None if none is.
        float64: vector with those of the leaves that are computed in float64; None if none is.

    >>> import jax.numpy as jnp
    >>> state = from_core("adam")().init({"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)})
    >>> state.inner.c1.value.float32.shape
    (2,)
    """

    float32: Any
    float64: Any

    def tree(self, params: Any) -> Any:
        """Return the scalars as a tree like the parameters.

        Args:
            params: the parameters of that state, or anything with their structure and dtypes.

        Returns:
            the tree; its leaves have shape ().
        """
        leaves, treedef = jax.tree.flatten(params)
        dtypes = [working_dtype(jnp.result_type(x)) for x in leaves]
        places = enumerate(_places(dtypes))
        return jax.tree.unflatten(treedef, [self._of(dtypes[i])[k] for i, k in places])

    @classmethod
    def of(cls, tree: Any) -> PerLeaf:
        """Return the scalars of a tree side by side.

        Args:
            tree: of arrays of shape (), each in the working dtype of its leaf.
        """
        leaves = list(map(jnp.asarray, jax.tree.leaves(tree)))
        columns = [[x for x in leaves if x.dtype.name == name] for name in cls._fields]
        return cls(*(jnp.stack(column) if column else None for column in columns))

    def _of(self, dtype: Any) -> Any:
        return getattr(self, jnp.dtype(dtype).name)


def by_leaf(inner: Any, params: Any) -> Any:
    """Return an algorithm's state with every :class:`PerLeaf` as a tree like the parameters.

    Args:
        inner: of a :class:`TransformState`.
        params: the parameters of that state, or anything with their structure and dtypes.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
    >>> by_leaf(from_core("adam")().init(params).inner, params).c1.value["w"].shape
    ()
    """
    return jax.tree.map(
        lambda x: x.tree(params) if isinstance(x, PerLeaf) else x,
        inner,
        is_leaf=lambda x: isinstance(x, PerLeaf),
    )


def side_by_side(trees: Any, like: Any) -> Any:
    """Undo :func:`by_leaf`.

    Args:
        trees: an algorithm's state, every field a tree like the parameters.
        like: the state whose form it takes.

    Returns:
        the state, of arrays of the shapes of ``like``.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
    >>> inner = from_core("adam")().init(params).inner
    >>> side_by_side(by_leaf(inner, params), inner).c1.value.float32.shape
    (2,)
    """
    return jax.tree.map(
        lambda x, tree: PerLeaf.of(tree) if isinstance(x, PerLeaf) else tree,
        like,
        trees,
        is_leaf=lambda x: isinstance(x, PerLeaf),
    )


def _places(dtypes: Sequence[Any]) -> list[int]:
    """Return the place of each leaf among those of its dtype."""
    seen: dict[str, int] = {}
    places = []
    for dtype in dtypes:
        name = jnp.dtype(dtype).name
        places.append(seen.get(name, 0))
        seen[name] = places[-1] + 1
    return places


def working_dtype(dtype: Any) -> Any:
    """Return the dtype in which a parameter's step is computed and its state kept.

    Raises:
        TypeError: if there is none.
    """
    if dtype == jnp.float64:
        return jnp.float64
    if dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        return jnp.float32
    raise TypeError(f"dtype {dtype}: allowed are float32, float64, bfloat16 and float16")


def _transformation(
    algorithm: Algorithm,
    hyperparameters: dict[str, Any],
    schedule: Callable[[Any], Any] | None,
    mask: Any,
    step_dtype: str | None,
) -> optax.GradientTransformationExtraArgs:
    def groups(params_like: Any, treedef: Any) -> list[tuple[list[int], dict[str, Any]]]:
        """Return the leaves and the hyperparameters of each group (two with a mask)."""
        everything = list(range(treedef.num_leaves))
        if mask is None or not everything:
            return [(everything, hyperparameters)]
        tree = mask(params_like) if callable(mask) else mask
        prefix = jax.tree.leaves(
            jax.tree.map(lambda m, sub: jax.tree.map(lambda _: bool(m), sub), tree, params_like)
        )
        decayed = [i for i in everything if prefix[i]]
        others = [i for i in everything if not prefix[i]]
        return [
            (decayed, hyperparameters),
            (others, hyperparameters | {"weight_decay": 0.0}),
        ]

    def init(params: Any) -> TransformState:
        leaves, treedef = jax.tree.flatten(params)
        if any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves):
            return jax.eval_shape(init, params)
        dtypes = [working_dtype(jnp.result_type(x)) for x in leaves]
        parts = []
        for indices, values in groups(params, treedef):
            work = [outside(leaves[i], dtypes[i]) for i in indices]
            parts.append((indices, algorithm.start(Leaves(work, BACKEND), values)))
        # Within one jit the first update must not be simplified for a state of known zeros.
        merged = _merge(parts, algorithm.skeleton(hyperparameters), treedef, dtypes)
        inner = jax.lax.optimization_barrier(merged)
        return TransformState(jnp.zeros((), jnp.int32), inner)

    def update(
        updates: Any, state: TransformState, params: Any = None, **extra: Any
    ) -> tuple[Any, TransformState]:
        grads, treedef = jax.tree.flatten(updates)
        if not isinstance(state, TransformState) or type(state.inner) is not algorithm.state_type:
            found = type(getattr(state, "inner", state)).__name__
            raise TypeError(
                f"state of type {found}: allowed for {algorithm.name} is "
                f"{algorithm.state_type.__name__}"
            )
        # What else there is belongs to other transformations in the chain.
        given = {k: extra[k] for k in algorithm.inputs if extra.get(k) is not None}
        algorithm.check_inputs(given, f": call update(grads, state, params, {_shown(algorithm)})")
        trees = {k: _leaves_like(k, given.pop(k), treedef) for k in [*given] if INPUTS[k]}
        param_leaves = (
            [None] * len(grads) if params is None else _leaves_like("params", params, treedef)
        )
        dtypes = [_check("gradient", g, p) for g, p in zip(grads, param_leaves, strict=True)]
        for name, leaves in trees.items():
            for x, g in zip(leaves, grads if params is None else param_leaves, strict=True):
                _check(name, x, g)
        given = {k: jnp.asarray(x) for k, x in given.items()}
        count = jnp.asarray(state.count)
        rate = {} if schedule is None else {"lr": schedule(count)}
        skeleton = algorithm.skeleton(hyperparameters)
        parts, steps = [], [None] * len(grads)
        for indices, values in groups(updates if params is None else params, treedef):
            values = {
                name: _everywhere(name, v, [dtypes[i] for i in indices])
                if _is_array(v)
                else v.item()  # of a schedule in NumPy
                if isinstance(v, np.generic)
                else v
                for name, v in (values | rate | given).items()
            }
            values |= {
                name: Leaves([outside(leaves[i], dtypes[i]) for i in indices], BACKEND)
                for name, leaves in trees.items()
            }
            values |= dict.fromkeys(algorithm.inputs.keys() - values.keys())
            own = _select(state.inner, skeleton, treedef, dtypes, indices, algorithm.name)
            work = [outside(grads[i], dtypes[i]) for i in indices]
            known = params is not None
            thetas = (
                Leaves([outside(param_leaves[i], dtypes[i]) for i in indices], BACKEND)
                if known
                else None
            )
            new, step = algorithm.update(own, Leaves(work, BACKEND), thetas, **values)
            parts.append((indices, new))
            for i, node in zip(indices, step.values, strict=True):
                target = jnp.result_type(param_leaves[i] if known else grads[i])
                if step_dtype == "float32" and jnp.finfo(target).bits < 32:
                    target = jnp.float32
                steps[i] = rounded(isolate(node.value), target)
        new_state = TransformState(
            count=optax.safe_increment(count), inner=_merge(parts, skeleton, treedef, dtypes)
        )
        return jax.tree.unflatten(treedef, steps), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def _is_array(value: Any) -> bool:
    """Tell whether a hyperparameter is an array (traced, injected), not a number."""
    return isinstance(value, jax.Array | np.ndarray)


def _scalar(name: str, value: Any, dtype: Any) -> Node:
    if jnp.shape(value) != ():
        raise ValueError(f"{name} has shape {jnp.shape(value)}: allowed are numbers and 0-d arrays")
    return Node(isolate(jnp.asarray(value).astype(dtype)), PLAIN)


def _everywhere(name: str, value: Any, dtypes: Sequence[Any]) -> Leaves:
    """Return an array of the caller as a scalar for each leaf."""
    if len(dtypes) < 2 or len(set(dtypes)) > 1:
        return Leaves([_scalar(name, value, dtype) for dtype in dtypes], BACKEND)
    return Scalars(repeated(_scalar(name, value, dtypes[0]), len(dtypes)), len(dtypes), BACKEND)


def _shown(algorithm: Algorithm) -> str:
    return ", ".join(f"{name}=…" for name in algorithm.inputs)


def _leaves_like(name: str, tree: Any, treedef: Any) -> list[Any]:
    try:
        return list(treedef.flatten_up_to(tree))
    except ValueError as error:
        raise ValueError(
            f"{name} and the gradients have different structures: {jax.tree.structure(tree)} "
            f"and {treedef}"
        ) from error


def _check(name: str, grad: Any, param: Any) -> Any:
    """Refuse a gradient, or what is like it, that does not fit its parameter.

    Returns:
        the working dtype.
    """
    own = jnp.result_type(grad)
    if param is None:
        try:
            return working_dtype(own)
        except TypeError as error:
            raise TypeError(f"{name} of {error}") from None
    dtype = working_dtype(jnp.result_type(param))
    if not jnp.issubdtype(own, jnp.floating) or jnp.finfo(own).bits > jnp.finfo(dtype).bits:
        raise TypeError(
            f"{name} of dtype {own} for a parameter of dtype {jnp.result_type(param)}: allowed "
            f"are real dtypes that {jnp.dtype(dtype)} holds"
        )
    if jnp.shape(grad) != jnp.shape(param):
        raise ValueError(f"{name} of shape {jnp.shape(grad)}: allowed is {jnp.shape(param)}")
    return dtype


# A state of trees is, for the core, one of Leaves.


def _is_scalar(template: Leaves) -> bool:
    """Tell whether a field is a scalar for each leaf, by the field of a matrix."""
    return np.shape(template.values[0]) == ()


def _merge(
    parts: list[tuple[list[int], Any]], skeleton: Any, treedef: Any, dtypes: Sequence[Any]
) -> Any:
    """Return a state of trees from the states of groups of leaves."""
    groups: list[list[Leaves]] = []
    for _, state in parts:
        fields: list[Leaves] = []
        map_leaves(fields.append, state)
        groups.append(fields)
    taken: set[int] = set()

    def own(x: Any) -> Any:
        # An array that is two fields could not be donated.
        if id(x) in taken:
            x = jnp.copy(x)
        taken.add(id(x))
        return x

    number = iter(range(len(groups[0])))

    def merged(template: Leaves) -> Any:
        k = next(number)
        fields = [(indices, group[k]) for (indices, _), group in zip(parts, groups, strict=True)]
        if _is_scalar(template):
            return jax.tree.map(own, _vectors(fields, dtypes))
        column: list[Any] = [None] * treedef.num_leaves
        for indices, field in fields:
            for i, node in zip(indices, field.values, strict=True):
                column[i] = own(leaving(node))
        return jax.tree.unflatten(treedef, column)

    return map_leaves(merged, skeleton)


def _vectors(fields: list[tuple[list[int], Leaves]], dtypes: Sequence[Any]) -> Any:
    """Return the :class:`PerLeaf` of the scalars of all leaves."""
    if not dtypes:
        # optax.tree_map_params asks for the state of a tree without leaves, and lays it over one
        # with leaves: it has what that one has, or a leaf in the place of the vectors.
        nothing = jnp.zeros((0,), jnp.float32)
        return nothing if jnp.result_type(float) == jnp.float64 else PerLeaf(nothing, None)
    kinds = [jnp.dtype(d).name for d in dtypes]
    filled = [(indices, field) for indices, field in fields if indices]
    if len(filled) == 1 and len(set(kinds)) == 1 and filled[0][1].vector is not None:
        whole = leaving(filled[0][1].vector)
        return PerLeaf(*(whole if name == kinds[0] else None for name in PerLeaf._fields))
    found: dict[int, Any] = {}
    for indices, field in filled:
        found |= dict(zip(indices, map(leaving, field.values), strict=True))
    columns = [[found[i] for i, k in enumerate(kinds) if k == name] for name in PerLeaf._fields]
    return PerLeaf(*(jnp.stack(column) if column else None for column in columns))


def _select(
    state: Any,
    skeleton: Any,
    treedef: Any,
    dtypes: Sequence[Any],
    indices: list[int],
    algorithm: str,
) -> Any:
    """Return the state of some of the leaves."""
    places = _places(dtypes)

    def refuse(name: str, part: Any, allowed: Any) -> ValueError:
        found = part if part is None else jax.tree.structure(part)
        return ValueError(f"state of {algorithm} with {name} of structure {found}: {allowed}")

    def scalars(part: Any, name: str) -> Leaves:
        if not dtypes:
            return Leaves([], BACKEND)
        counts = {k: sum(jnp.dtype(d).name == k for d in dtypes) for k in PerLeaf._fields}
        shapes = {k: (n,) if n else None for k, n in counts.items()}
        if not isinstance(part, PerLeaf) or any(
            (None if x is None else jnp.shape(x)) != shapes[k]
            for k, x in zip(PerLeaf._fields, part, strict=True)
        ):
            raise refuse(name, part, f"allowed is a PerLeaf of vectors of shapes {shapes}")
        if len(indices) == len(dtypes) > 1 and len(set(dtypes)) == 1:
            vector = jnp.asarray(part._of(dtypes[0]))
            return Scalars(Node(vector, OUTSIDE, scalars=True), len(dtypes), BACKEND)
        return Leaves(
            [Node(jnp.asarray(part._of(dtypes[i])[places[i]]), OUTSIDE) for i in indices], BACKEND
        )

    def walk(template: Any, part: Any, name: str) -> Any:
        if isinstance(template, Leaves):
            if _is_scalar(template):
                return scalars(part, name)
            try:
                leaves = treedef.flatten_up_to(part)
            except ValueError as error:
                raise refuse(name, part, f"allowed is {treedef}") from error
            return Leaves([Node(jnp.asarray(leaves[i]), OUTSIDE) for i in indices], BACKEND)
        if template is None:
            if part is not None:
                raise ValueError(
                    f"state of {algorithm} with {name}: allowed is a state without, as the "
                    "hyperparameters are"
                )
            return None
        return type(template)(*map(walk, template, part, template._fields))

    return walk(skeleton, state, "state")


# Functions.

_FUNCTIONS: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {}
_POSITIONAL = ("lr", "momentum", "b1", "b2", "eps")  # what has one place in optax and here
_RATE_ALONE = (
    "dadapt_adamw",
    "lars",
    "optimistic_adam",
    "prodigy",
    "schedule_free_adamw",
    "schedule_free_sgd",
)
"""Algorithms whose functions in optax take something else after the rate."""


def _is_absent(value: Any) -> bool:
    """Tell whether a default leaves a term out.

    As an array, which optax.inject_hyperparams makes of every number, it would not.
    """
    return is_number(value) and value == 0


def _signature(algorithm: Algorithm) -> inspect.Signature:
    parameter = inspect.Parameter
    kind: Any = parameter.POSITIONAL_OR_KEYWORD
    differing = algorithm.differing()
    positional = ("lr",) if algorithm.name in _RATE_ALONE else _POSITIONAL
    parameters = []
    for name, value in algorithm.defaults(algorithm.default_dialect).items():
        if name not in positional:
            kind = parameter.KEYWORD_ONLY
        parameters.append(
            parameter(
                "learning_rate" if name == "lr" else name,
                kind,
                default=None if name in differing or _is_absent(value) else value,
            )
        )
    kind = parameter.KEYWORD_ONLY
    extra: dict[str, Any] = {"dialect": algorithm.default_dialect, "step_dtype": None}
    if "weight_decay" in algorithm.defaults() and not algorithm.has_global_sums:
        extra = {"mask": None} | extra  # leaves of two groups would not be one vector
    parameters += [parameter(name, kind, default=value) for name, value in extra.items()]
    return inspect.Signature(parameters, return_annotation=optax.GradientTransformationExtraArgs)


_TORCH = {
    "lr": ("learning_rate",),
    "betas": ("b1", "b2", "b3"),
    "etas": ("etaminus", "etaplus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}
"""What the arguments of torch's classes are called here."""

_OPTAX = {
    "beta": ("b1", "momentum"),
    "bias_correction": ("correct_bias",),
    "clipping_threshold": ("d",),
    "decay": ("alpha",),
    "eps_in_sqrt": ("eps_in_root",),
    "eta_minus": ("etaminus",),
    "eta_plus": ("etaplus",),
    "max_learning_rate": ("max_lr",),
    "max_step_size": ("step_size_max",),
    "min_step_size": ("step_size_min",),
    "multiply_by_parameter_scale": ("scale_parameter",),
    "ns_coeffs": ("ns_coefficients",),
    "scaling": ("learning_rate",),
    "weight_decay_mask": ("mask",),
    "weight_decay_rate": ("weight_decay",),
}
"""What those arguments of optax's functions are called here that have another name."""

_OPTAX_ONLY = dict.fromkeys(
    ("accumulator_dtype", "dtype_momentum", "mu_dtype", "state_dtype"),
    "the state is float32, or float64 for float64 parameters",
) | {"nesterov": "Adam with it is nadam, and AdamW nadamw"}
"""Why there are no such arguments here."""

_MEANINGS = {
    "learning_rate": "a number, or a schedule: a function of the number of steps.",
    "mask": "a tree of truth values, or a function of the parameters that makes one: which leaves "
    "decay.",
    "dialect": "whose mathematics and defaults you get; an argument of ``None`` is the dialect's.",
    "step_dtype": '``"float32"``: float32 updates for bfloat16 and float16 parameters, so that '
    "``optax.apply_updates`` rounds the sum only.",
}
"""What the arguments mean that are the functions' own."""
_RETURNS = "the optax transformation; its updates hold the learning rate and the sign."
_ERRORS = """TypeError: for an argument of the wrong kind, or one that the algorithm does not have.
ValueError: for a value that is not allowed."""


def _documented(algorithm: Algorithm, signature: inspect.Signature) -> str:
    """Return the docstring of a function: the equations, and what each argument means."""
    source = inspect.getmodule(algorithm.update)
    text = inspect.getdoc(algorithm.update) or ""
    meanings = {n: _MEANINGS.get(n) or meaning(text, n) for n in signature.parameters}
    equations = source.__doc__ if source else None
    return with_arguments(equations, meanings, Returns=_RETURNS, Raises=_ERRORS)


def _make_function(algorithm: Algorithm) -> Callable[..., optax.GradientTransformationExtraArgs]:
    signature = _signature(algorithm)

    def function(*args: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        for name in kwargs.keys() - signature.parameters.keys():
            names = (_TORCH | _OPTAX).get(name, ())
            own = [n for n in names if n in signature.parameters]
            known = f"it is called {' and '.join(map(repr, own))} here" if own else None
            known = known or _OPTAX_ONLY.get(name)
            raise TypeError(
                f"{algorithm.name} has no argument {name!r}: "
                f"{known or nearest(name, signature.parameters)}"
            )
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        dialect = given.pop("dialect")
        mask = given.pop("mask", None)
        step_dtype = given.pop("step_dtype")
        if step_dtype not in (None, "float32"):
            raise ValueError(f"step_dtype = {step_dtype!r}: allowed are None and 'float32'")
        schedule = None
        if "learning_rate" in given:
            rate = given.pop("learning_rate")
            if callable(rate):
                schedule = rate
            else:
                given["lr"] = rate
        return _transformation(
            algorithm, algorithm.resolve(dialect, given), schedule, mask, step_dtype
        )

    ours = ALGORITHMS.get(algorithm.name) is algorithm
    function.__name__ = function.__qualname__ = algorithm.name
    function.__module__ = "optstudy_jax" if ours else algorithm.update.__module__
    function.__doc__ = _documented(algorithm, signature) if ours else algorithm.update.__doc__
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


def from_core(
    algorithm: str | Algorithm,
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """Return the function that makes an optax transformation of an algorithm.

    Its arguments are the algorithm's hyperparameters under optax's names (``learning_rate``, a
    number or a schedule, ``b1``, ``b2``, ``eps``, …) and

    - ``mask``: where there is weight decay (and no sum over all leaves), a tree of truth values,
      or a function of the parameters that makes one: which leaves decay;
    - ``dialect``: whose mathematics and defaults (see ``optstudy_core.defaults``);
    - ``step_dtype``: ``"float32"`` makes float32 updates for bfloat16 and float16 parameters, so
      that ``optax.apply_updates`` rounds the sum only, instead of the step first.

    The updates hold the learning rate and the sign: ``optax.apply_updates`` adds them.

    Args:
        algorithm: a name of ``optstudy_core.ALGORITHMS``, or an ``Algorithm`` of your own.

    Raises:
        ValueError: if the name is unknown.

    >>> import jax.numpy as jnp, optax
    >>> tx = from_core("sgd")(learning_rate=0.5)
    >>> params = jnp.ones(2)
    >>> updates, state = tx.update(2 * params, tx.init(params), params)
    >>> optax.apply_updates(params, updates).tolist()
    [0.0, 0.0]
    """
    algorithm = find(algorithm)
    if ALGORITHMS.get(algorithm.name) is not algorithm:
        return _make_function(algorithm)
    if algorithm.name not in _FUNCTIONS:
        _FUNCTIONS[algorithm.name] = _make_function(algorithm)
    return _FUNCTIONS[algorithm.name]
