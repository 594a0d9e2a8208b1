"""Measurements of a training: quantities, and instruments, which are named sets of quantities.

θ are the parameters after a step (or at the end of an epoch), Δ is the step, Δ₋₁ the step before
it, θ₀ the parameters at the start of the training, g the gradient, and m and v the moments of an
optimizer like Adam, as stored (without bias correction). Each of them is one vector over all
layers, or the vector of one layer.

A **quantity** is a pure function of a few sums over elements of these vectors. It gets the sums
from a :class:`Measured`. The caller chooses exact sums of :mod:`optstudy_core.geometry`
(:class:`Exact`), or plain float64 sums of any library, on any device, also inside ``jit``
(:class:`Sums`). A vector of norm 0 has no direction: its angles are NaN.

An **instrument** is a named set of quantities that are recorded together.

>>> import numpy as np
>>> measure(("step_size", "angle"), step=[np.array([0.0, 2.0])], previous=[np.array([3.0, 0.0])])
{'step_size': 2.0, 'angle': 90.0}
"""

from __future__ import annotations

from .activations import ACTIVATIONS as ACTIVATIONS
from .activations import activation_quantities as activation_quantities
from .activations import activation_sums as activation_sums
from .alerts import Alert as Alert
from .alerts import Alerts as Alerts
from .clock import Clock as Clock
from .clock import check_samples as check_samples
from .clock import process_peak as process_peak
from .curvature import hessian_trace as hessian_trace
from .curvature import largest_eigenvalue as largest_eigenvalue
from .curvature import step_alpha as step_alpha
from .divergence import Divergence as Divergence
from .divergence import first_difference as first_difference
from .measured import EMPTY as EMPTY
from .measured import REDUCE as REDUCE
from .measured import Exact as Exact
from .measured import Measured as Measured
from .measured import Reduction as Reduction
from .measured import Sums as Sums
from .noise import MicroBatches as MicroBatches
from .options import Chosen as Chosen
from .options import Options as Options
from .options import only as only
from .profiles import PROFILES as PROFILES
from .profiles import Target as Target
from .profiles import histogram as histogram
from .profiles import profile as profile
from .profiles import quantiles as quantiles
from .profiles import spectrum as spectrum
from .profiles import targets as targets
from .quantities import INSTRUMENTS as INSTRUMENTS
from .quantities import OF_THE_WHOLE as OF_THE_WHOLE
from .quantities import OF_WRAPPERS as OF_WRAPPERS
from .quantities import QUANTITIES as QUANTITIES
from .quantities import given as given
from .quantities import reductions as reductions
from .quantities import select as select
from .quantities import vectors as vectors
from .rows import Vectors as Vectors
from .rows import by_layer as by_layer
from .rows import exact_row as exact_row
from .rows import measure as measure
from .rows import plain_rows as plain_rows
from .rows import plain_sums as plain_sums
from .rows import with_activations as with_activations
from .rows import with_metrics as with_metrics
