"""Sphinx configuration: `make docs`."""

import optstudy_core

project = "optstudy"
author = "The optstudy developers"
version = release = optstudy_core.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"optstudy {version}"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Napoleon writes attributes of named tuples that autodoc documents too.
napoleon_use_ivar = True
