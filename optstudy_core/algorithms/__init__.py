"""The algorithms: one file, one algorithm, nothing else. ``adam.py`` is what a paper cites.

The folder is the table: each file here is an entry of ``optstudy_core.ALGORITHMS``, under its name.
"""
