"""The engine: runs a pure function as a loop or a kernel.

::

    pure function (optstudy_core)            the definition
        │
        ├─ traced once (trace.py) ──► program (program.py): nodes in phases (phases.py)
        │                                │
        │      ┌─────────────────────────┴─────────────────────────┐
        │  for leaves of any shape                          for leaves of one shape
        │  dispatch.py: the parameters of a group           shaped.py: values of all leaves in
        │  and their states as flat units                   the arrays of memory.py; moves,
        │  (stages.py, units.py, scalars.py,                 products, branches and cycles
        │  arguments.py, addresses.py)
        │      │                                                   │
        │      ├─ kernels_in_c, one loop, CPU                      ├─ shapes_in_c, loops, CPU
        │      ├─ kernels_in_triton, one kernel, GPU               └─ shapes_in_triton, GPU
        │      ├─ blockwise, NumPy in blocks, CPU
        │      └─ operations, torch's, any device
        │
        └─ as written, where a shape decides and there are no kernels
               ├─ threaded_numpy, CPU
               └─ eager, torch's operations, any device

    host_numbers.py      scalars computed from hyperparameters and step counts, in double
    rounding.py          the one place that knows how torch rounds
    exact_sums.py        torch's operations, any device; exact_sums_in_c.py, CPU, and
                         exact_sums_in_triton.py, GPU, write passes from sum_lines.py;
                         joined_sums.py for tensors sharded over several processes
    source.py            code shared by C and Triton; c_source.py writes C, c_compiler.py
                         compiles and loads C, cache.py stores it; triton_source.py writes Triton
    alike.py             arrays of one shape, and their addresses
    integer_products.py  products of 20 bits on integer tensor cores of a GPU
    kernels_of_shape.py  code shared by shapes_in_c and shapes_in_triton
    threads.py           the same number of threads as torch
    errors.py            missing kernels, and the warning of slow steps

In every case each operation is rounded once, in the written order, so the bits are those of NumPy.
A missing C compiler or Triton costs speed, but the bits are the same.
"""
