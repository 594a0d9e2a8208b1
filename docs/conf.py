"""Sphinx configuration: `make docs`."""

import inspect
import re
import sys
import types
from pathlib import Path

from sphinx.util import logging

import optstudy_core

sys.path.insert(0, str(Path(__file__).parent))

from _extensions import algorithm_pages, curves, docstrings, equations, expected

# Pages use the short public paths (optstudy_core.geometry), wherever the file is.
for short in optstudy_core.__all__:
    if isinstance(thing := getattr(optstudy_core, short), types.ModuleType):
        sys.modules[f"optstudy_core.{short}"] = thing

algorithm_pages.write()
curves.draw(Path(__file__).parent / "_generated" / "schedules.svg")
expected.write(Path(__file__).parent / "_generated" / "differences.md")
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
    "_generated/differences.md",
    "performance_notes.md",
    "gpu_notes.md",
    "status.md",
]
html_theme = "furo"
html_title = f"optstudy {version}"
html_show_copyright = False
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
    """Typeset each indented block of a module's docstring, its equations; link the sources."""
    if what == "module":
        lines[:] = equations.with_directives("\n".join(lines)).split("\n")
    lines[:] = [docstrings.linked(line) for line in lines]


def readable_signature(app, what, name, obj, options, signature, returned):
    """Write defaults as one would in Python."""
    if signature is not None:
        signature = re.sub(r"<class '([\w.]+)'>", r"\1", signature).replace("<factory>", "{}")
    return signature, returned


def skip_fields(app, what, name, obj, skip, options):
    """Leave out the fields of named tuples, which the docstring of the class explains."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def check_docstrings(app, env):
    """Warn of public names whose docstring lacks something, and of those that no page has."""
    log = logging.getLogger(__name__)
    names = docstrings.public(p.read_text(encoding="utf-8") for p in Path(app.srcdir).glob("*.md"))
    documented = {name.rpartition(".")[2] for name in env.get_domain("py").objects}
    for name, thing in names.items():
        for fault in docstrings.faults(name, thing):
            log.warning(fault)
        has_a_page = inspect.ismodule(thing) or docstrings.is_made(thing)
        if not has_a_page and name.rpartition(".")[2] not in documented:
            log.warning(f"{name}: on no page")


def setup(app):
    """Register what is defined here."""
    app.connect("env-check-consistency", check_docstrings)
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("autodoc-skip-member", skip_fields)
    app.add_directive("equations", equations.Equations)
    app.connect("autodoc-process-docstring", typeset_equations)
