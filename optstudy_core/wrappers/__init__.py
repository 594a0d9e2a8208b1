"""The wrappers around algorithms, one in each file.

Each file of this folder is an entry of ``optstudy_core.WRAPPERS`` under the name of the file.
"""
