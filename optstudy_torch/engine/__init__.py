"""The engine: from a pure function to the loop or kernel that runs it.

::

    pure function (optstudy_core)            the definition
        │
        ├─ traced once ──► program           lines, sums, outputs (program.py)
        │                     │
        │                  dispatch          runs it on stages: the parameters of a group and their
        │                     │              states as flat units (stages.py, units.py)
        │     ┌───────────────┼────────────────┬────────────────────┐
        │  blockwise       operations      kernels_in_c      kernels_in_triton
        │  NumPy, in       torch's,        one loop in C,    one kernel, GPU
        │  blocks, CPU     any device      CPU
        │                                      └───── source.py ─────┘   what C and Triton share
        │
        └─ as written, where shapes decide   (Adafactor, Muon, Shampoo, SM3, SOAP)
              ├─ deferred, loops_in_c        operations of large trees are loops in C
              ├─ threaded_numpy              NumPy in threads, without a compiler
              └─ eager                       torch's operations, any device

    host_numbers.py      what is formed of hyperparameters and counts of steps, in double
    rounding.py          the one place that knows what torch does to a rounding
    exact_sums.py        torch's operations, any device; exact_sums_in_c.py loops in C, CPU;
                         joined_sums.py over what several processes hold together
    c_source.py          writes C; c_compiler.py compiles and loads it, cache.py keeps it
    threads.py           as many threads as torch has
    errors.py            what the engine cannot do

Whatever runs, every operation is rounded once, in the order in which it is written, so the bits
are NumPy's. What a machine lacks (a C compiler, Triton) costs speed, never bits.
"""
