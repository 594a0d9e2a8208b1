"""The class of each algorithm, with arguments under the names of torch, and a docstring."""

from __future__ import annotations

import inspect
from typing import Any

from optstudy_core import Algorithm
from optstudy_core.arrays.numbers import nearest
from optstudy_core.catalogue.table import find

from ._arguments import ELSEWHERE, documented, is_ours, signature_of
from .optimizer import CoreOptimizer

_CLASSES: dict[str, type[CoreOptimizer]] = {}


def _make_class(algorithm: Algorithm) -> type[CoreOptimizer]:
    dialect = algorithm.default_dialect
    signature = signature_of(algorithm, dialect)

    def __init__(self: CoreOptimizer, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        for name in kwargs.keys() - signature.parameters.keys():
            own = ELSEWHERE.get(name)
            known = f"it is called {own!r} here" if own in signature.parameters else None
            raise TypeError(
                f"{algorithm.title} has no argument {name!r}: "
                f"{known or nearest(name, signature.parameters)}"
            )
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        CoreOptimizer.__init__(self, **bound.arguments)

    __init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *signature.parameters.values(),
        ]
    )
    return type(
        algorithm.title,
        (CoreOptimizer,),
        {
            "__init__": __init__,
            "__doc__": documented(algorithm, signature),
            "__module__": "optstudy_torch" if is_ours(algorithm) else algorithm.update.__module__,
            "algorithm": algorithm,
        },
    )


def from_core(algorithm: str | Algorithm) -> type[CoreOptimizer]:
    """Return the ``torch.optim.Optimizer`` class of an algorithm.

    The arguments of the class are the hyperparameters of the algorithm. As in torch.optim, some are
    joined in a tuple (``b1`` and ``b2`` in ``betas``). Each is a number or a schedule. A schedule
    is one of ``optstudy_core.schedules``, which has the same bits in ``optstudy_jax``, or any
    function of the step count. After each step it sets the value in the group for the next step,
    and overwrites changes. Further arguments:

    - ``dialect``: the library or source of the formulas and defaults (see
      ``optstudy_core.defaults``);
    - ``compile`` (also ``fused``): run the step as one kernel for all parameters, with the same
      bits. On the CPU this is a loop in C, compiled by the C compiler of the machine (``cc``, or
      ``$CC``) and kept in ``$XDG_CACHE_HOME/optstudy`` or ``~/.cache/optstudy``. On a GPU it is a
      Triton kernel. A rule that depends on the shape of a parameter has several kernels for each
      shape. ``None``: use a kernel if possible; ``True``: use a kernel, or raise an error;
      ``False``: use operations of NumPy on the CPU, and of torch elsewhere;
    - ``step_dtype``: ``"float32"`` adds the float32 step to a bfloat16 or float16 parameter
      with one rounding, instead of rounding the step first;
    - ``amsgrad`` and ``decoupled_weight_decay``, if torch.optim has them: run the algorithm that
      torch.optim runs;
    - ``capturable``: allow a CUDA graph to capture the step. Rates that change must be tensors on
      the device, and an earlier step must have made the states. ``differentiable``: let autograd
      go through the step, for parameters that are no leaves. Both use operations of torch, with
      the same bits. Rules that do not support them are refused;
    - ``foreach``: accepted, without effect.

    A parameter group accepts the same arguments. ``None`` stands for the value of the dialect of
    the group. A group may name its algorithm (see :meth:`CoreOptimizer.add_param_group`).

    Args:
        algorithm: a name of ``optstudy_core.ALGORITHMS``, or an ``Algorithm`` of your own.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if a rule of your own has a common mistake (see ``Algorithm.check_formula``).

    >>> from_core("adam").__name__
    'Adam'
    """
    algorithm = find(algorithm)
    if not is_ours(algorithm):
        algorithm.check_formula()
        return _make_class(algorithm)
    if algorithm.name not in _CLASSES:
        _CLASSES.setdefault(algorithm.name, _make_class(algorithm))  # one for all threads
    return _CLASSES[algorithm.name]
