"""The engine: from a pure function to the loop or kernel that runs it.

::

    pure function (optstudy_core)            the definition
        │
        ├─ traced once ──► program           lines, sums, outputs (program.py)
        │                     │
        │                  machine           runs it on stages (machines.py): the parameters of a
        │                     │              group and their states as flat units (stages, units)
        │     ┌───────────────┼───────────────┬──────────────────┐
        │  blockwise       operations      c_kernels         triton_kernels
        │  NumPy, in       torch's,        one loop in C,    one kernel, GPU
        │  blocks, CPU     any device      CPU
        │                                     └──── text.py ────┘   what C and Triton share
        │                                     │
        │                                  c.py, cache.py           the compiler, what it made
        │
        └─ as written, where shapes decide   (Adafactor, Muon, Shampoo, SM3, SOAP)
              ├─ deferred, c_loops           operations of large trees are loops in C
              ├─ threaded_numpy              NumPy in threads, without a compiler
              └─ eager                       torch's operations, any device

    rounding.py        the one place that knows what torch does to a rounding
    sums.py, c_sums.py exact sums: torch's operations on any device, loops in C on the CPU
    threads.py         as many threads as torch has
    errors.py          what the engine cannot do

Whatever runs, every operation is rounded once, in the order in which it is written, so the bits
are NumPy's. What a machine lacks (a C compiler, Triton) costs speed, never bits.
"""
