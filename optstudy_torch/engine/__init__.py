"""The engine: from a pure function to the loop or kernel that runs it.

::

    pure function (optstudy_core)            the definition
        │
        ├─ traced once (trace.py) ──► program: nodes in phases (program.py)
        │                                │
        │      ┌─────────────────────────┴─────────────────────────┐
        │  for leaves of any shape                          for leaves of one shape
        │  dispatch.py: the parameters of a group           shaped.py: values of all leaves in
        │  and their states as flat units                   the arrays of memory.py; moves,
        │  (stages.py, units.py)                            products, branches and cycles
        │      │                                                   │
        │      ├─ kernels_in_c, one loop, CPU                      ├─ shapes_in_c, loops, CPU
        │      ├─ kernels_in_triton, one kernel, GPU               └─ shapes_in_triton, GPU
        │      ├─ blockwise, NumPy in blocks, CPU
        │      └─ operations, torch's, any device
        │
        └─ as written, where a shape decides and there are no kernels
               ├─ threaded_numpy, CPU
               └─ eager, torch's operations, any device

    host_numbers.py      what is formed of hyperparameters and step counts, in double
    rounding.py          the one place that knows what torch does to a rounding
    exact_sums.py        torch's operations, any device; exact_sums_in_c.py, CPU, and
                         exact_sums_in_triton.py, GPU, write passes from sum_lines.py;
                         joined_sums.py over what several processes hold together
    source.py            what C and Triton share; c_source.py writes C, c_compiler.py compiles
                         and loads it, cache.py keeps it; triton_source.py writes Triton
    alike.py             arrays of one shape, and where they lie
    kernels_of_shape.py  what shapes_in_c and shapes_in_triton share
    threads.py           as many threads as torch has
    errors.py            what the engine cannot do, and what that costs

Whatever runs, every operation is rounded once, in the order in which it is written, so the bits
are NumPy's. What a machine lacks (a C compiler, Triton) costs speed, never bits.
"""
