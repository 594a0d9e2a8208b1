"""What goes around any algorithm and gives another one: one file, one wrapper.

The folder is the table: each file here is an entry of ``optstudy_core.WRAPPERS``, under its name.
"""
