"""Sphinx configuration: `make docs`."""

from pathlib import Path

import optstudy_core

# A section for each algorithm, from the table.
generated = Path(__file__).parent / "_generated"
generated.mkdir(exist_ok=True)
(generated / "algorithms.md").write_text(
    "".join(
        f"### {algorithm.title}\n\n"
        "```{eval-rst}\n"
        f".. automodule:: optstudy_core.{name}\n"
        f"   :members: {algorithm.state_type.__name__}, init, update\n"
        "```\n\n"
        for name, algorithm in sorted(optstudy_core.ALGORITHMS.items())
    ),
    encoding="utf-8",
)

project = "optstudy"
author = "The optstudy developers"
version = release = optstudy_core.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "_generated", "performance_notes.md"]
html_theme = "furo"
html_title = f"optstudy {version}"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Napoleon writes attributes of named tuples that autodoc documents too.
napoleon_use_ivar = True


def show_equations_as_written(app, what, name, obj, options, lines):
    """Make a literal block of each indented block of a module's docstring: its equations."""
    if what == "module":
        for i in range(len(lines) - 1, 0, -1):
            if lines[i].startswith("    ") and not lines[i - 1].strip():
                lines[i:i] = ["::", ""]


def setup(app):
    """Register what is defined here."""
    app.connect("autodoc-process-docstring", show_equations_as_written)
