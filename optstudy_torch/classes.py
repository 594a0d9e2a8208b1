"""The class of each algorithm: its arguments under torch's names, its docstring."""

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

    Its arguments are the algorithm's hyperparameters, several of them in one tuple where
    torch.optim has one (``b1`` and ``b2`` in ``betas``), each a number or a schedule: one of
    ``optstudy_core.schedules``, which has the bits of ``optstudy_jax``, or another function of the
    number of steps. It is asked after each step for the value of the next one, which the group
    then holds, whatever has been written there. And

    - ``dialect``: which library's formulas and defaults (see ``optstudy_core.defaults``);
    - ``compile``: run the step as one kernel for all parameters (the same bits; ``fused`` means
      this too): a loop in C on the CPU, made by the machine's C compiler (``cc``, or ``$CC``) and
      kept in ``$XDG_CACHE_HOME/optstudy`` or ``~/.cache/optstudy``; on a GPU one of Triton. A rule
      that depends on the shape of a parameter takes several loops on the CPU, none on a GPU.
      ``None``: where a kernel can be made; ``True``: the same, or an error; ``False``: NumPy's
      operations on the CPU, elsewhere torch's;
    - ``step_dtype``: ``"float32"`` adds the float32 step to a bfloat16 or float16 parameter
      with one rounding, instead of rounding the step first;
    - ``amsgrad`` and ``decoupled_weight_decay``, where torch.optim has them: run the algorithm
      that torch.optim runs;
    - ``capturable``: the step can be recorded in a CUDA graph: rates that are to change are
      tensors on the device, and a step before has made the states. ``differentiable``: autograd
      goes through the step, for parameters that are no leaves. Both run as torch's operations, with
      the same bits; rules that they cannot have are refused;
    - ``foreach``: accepted, without effect.

    A group takes all of them too, under the same names. ``None`` is the value of its dialect. A
    group may name its algorithm (see :meth:`CoreOptimizer.add_param_group`).

    Args:
        algorithm: a name of ``optstudy_core.ALGORITHMS``, or an ``Algorithm`` of your own.

    Raises:
        ValueError: if the name is unknown.

    >>> from_core("adam").__name__
    'Adam'
    """
    algorithm = find(algorithm)
    if not is_ours(algorithm):
        return _make_class(algorithm)
    if algorithm.name not in _CLASSES:
        _CLASSES.setdefault(algorithm.name, _make_class(algorithm))  # one for all threads
    return _CLASSES[algorithm.name]
