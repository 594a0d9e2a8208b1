"""The algorithms, one in each file. A paper cites a file, such as ``adam.py``.

Each file of this folder is an entry of ``optstudy_core.ALGORITHMS`` under the name of the file.
"""
