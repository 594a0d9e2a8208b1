"""The experiments: training runs with the optimizers of optstudy, measured in each epoch.

``python -m studies run linear_regression`` trains, records and draws; see ``studies.__main__``.
A study is one file with its data, its model in both frameworks and its loss
(:class:`studies.study.Study`). All studies share the code that trains, measures, records and draws.
"""

from .study import Batch, Dropout, NnxLeaf, Study, layers

__all__ = ["Batch", "Dropout", "NnxLeaf", "Study", "layers"]
