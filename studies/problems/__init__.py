"""The studies, one in each file: data, a model in both frameworks, and a loss.

Each file has a function ``study(seed)`` that returns a :class:`~studies.study.Study`. The name of
the file is the name on the command line (:mod:`.table`).
"""
