"""The experiments: training runs with the project's optimizers, measured epoch by epoch.

``python -m studies run linear_regression`` trains, records and draws; see ``studies.__main__``.
A study is one file that describes its data, its model in both frameworks and its loss
(:class:`studies.study.Study`); training, measuring, recording and drawing are shared.
"""

from .study import Batch, Dropout, NnxLeaf, Study, layers

__all__ = ["Batch", "Dropout", "NnxLeaf", "Study", "layers"]
