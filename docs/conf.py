"""Sphinx configuration: `make docs`."""

import sys
from pathlib import Path

import optstudy_core

sys.path.insert(0, str(Path(__file__).parent))

from _extensions import algorithm_pages, equations

algorithm_pages.write()
equations.write_font()

project = "optstudy"
author = "The optstudy developers"
version = release = optstudy_core.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
]
exclude_patterns = [
    "_build",
    "_extensions",
    "_generated/algorithms/table.md",
    "performance_notes.md",
]
html_theme = "furo"
html_title = f"optstudy {version}"
html_static_path = ["_static", "_generated/static"]
html_css_files = ["optstudy.css"]
bibtex_bibfiles = ["../optstudy_core/references.bib"]
bibtex_reference_style = "author_year"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Napoleon writes attributes of named tuples that autodoc documents too.
napoleon_use_ivar = True


def typeset_equations(app, what, name, obj, options, lines):
    """Typeset each indented block of a module's docstring: its equations."""
    if what == "module":
        lines[:] = equations.with_directives("\n".join(lines)).split("\n")


def setup(app):
    """Register what is defined here."""
    app.add_directive("equations", equations.Equations)
    app.connect("autodoc-process-docstring", typeset_equations)
