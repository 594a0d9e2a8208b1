"""What is trained: one file, one problem, with its data, its model in both frameworks and its loss.

Each file has a function ``study(seed)`` that returns a :class:`~studies.study.Study`; the file's
name is the name on the command line (:mod:`.table`).
"""
