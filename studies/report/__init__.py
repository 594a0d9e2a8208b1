"""Write recorded runs to one page: ``python -m studies report DIR… --out report.html``.

The page is one HTML file with the data, Plotly and a script, and needs no network. ``runs`` finds
and reads the runs. ``extras`` adds results that need a model: the loss around a path, and predicted
histograms. ``page`` assembles the file.
"""

from .page import Report

__all__ = ["Report"]
