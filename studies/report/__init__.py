"""Recorded runs as one page: ``python -m studies report DIR… --out report.html``.

The page is one HTML file that needs no network: the data, Plotly and the page's own script are in
it. ``runs`` finds and reads the runs, ``extras`` adds what takes a model (the loss around a path,
predicted histograms), ``page`` puts the file together.
"""

from .page import Report

__all__ = ["Report"]
