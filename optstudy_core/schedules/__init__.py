"""Schedules: a learning rate, or another hyperparameter, as a pure function of the step count.

PyTorch and JAX share one definition, in double precision. The values have the same bits in both,
also under ``jit``. Pass a schedule as ``lr=`` to a class of ``optstudy_torch``, or as
``learning_rate=`` to a function of ``optstudy_jax``. For any other optimizer of torch,
``optstudy_torch.lr_scheduler.ScheduleLR`` turns a schedule into an ``LRScheduler``. For optax,
``optstudy_jax.schedule`` turns it into a schedule of optax.

>>> rate = joined(Linear(0.0, 1e-3, 100), Cosine(1e-3, 0.0, 900), at=[100])
>>> [rate(0), rate(50), rate(100), rate(1000)]
[0.0, 0.0005, 0.001, 0.0]

The curves are classes, so that a schedule can be printed, compared, copied and pickled. After its
end a curve keeps its last value. Curves of torch and optax with the same name agree up to rounding,
except for those in :data:`~optstudy_core.schedules.combined.DIALECTS`.
"""

from __future__ import annotations

from .combined import DIALECTS as DIALECTS
from .combined import Chained as Chained
from .combined import Joined as Joined
from .combined import PerEpoch as PerEpoch
from .combined import Restarts as Restarts
from .combined import joined as joined
from .combined import one_cycle as one_cycle
from .combined import one_cycle_momentum as one_cycle_momentum
from .combined import warmup_stable_decay as warmup_stable_decay
from .curves import Constant as Constant
from .curves import Cosine as Cosine
from .curves import Exponential as Exponential
from .curves import InverseRoot as InverseRoot
from .curves import Linear as Linear
from .curves import Milestones as Milestones
from .curves import Polynomial as Polynomial
from .curves import Steps as Steps
from .schedule import Schedule as Schedule
