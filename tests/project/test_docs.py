"""The documentation: it builds without a warning, no link is dead, nothing comes from a network."""

import fcntl
import html.parser
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
import types
import urllib.parse

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from harness import ROOT, slow_unless_quick

import optstudy_core
import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS
from optstudy_core.catalogue.citation import entries, field

pytestmark = pytest.mark.usefixtures("compiled_quickly")

DOCS = ROOT / "docs"


class Page(html.parser.HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, file: pathlib.Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag in {"img", "script"} and values.get("src"):
            self.loaded.append(values["src"])
        elif tag == "link" and values.get("rel") == "stylesheet":
            self.loaded.append(values["href"])


@pytest.fixture(scope="module")
def site():
    """The site: built once for all parts and processes of a test run, then brought up to date."""
    pytest.importorskip("furo")
    out = DOCS / "_build" / "tested"
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q"]
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [*command, "-b", "html", str(DOCS), str(out)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_no_link_is_dead(site):
    pages = {file: Page(file) for file in site.rglob("*.html")}
    assert len(pages) > len(ALGORITHMS)
    dead = []
    for file, page in pages.items():
        for link in page.links + page.loaded:
            address = urllib.parse.urlsplit(link)
            if address.scheme or address.netloc:
                continue
            path = urllib.parse.unquote(address.path)
            target = (file.parent / path).resolve() if path else file
            if not target.exists():
                dead.append((file.name, link))
            elif address.fragment and target in pages:
                anchor = urllib.parse.unquote(address.fragment)
                if anchor not in pages[target].anchors:
                    dead.append((file.name, link))
    assert not dead


@pytest.mark.slow
def test_pages_need_no_network(site):
    for file in site.rglob("*.html"):
        outside = [link for link in Page(file).loaded if urllib.parse.urlsplit(link).netloc]
        assert not outside, file
    styles = "".join(f.read_text(encoding="utf-8") for f in site.rglob("*.css"))
    assert not re.search(r"@import|url\([\"']?https?:", styles)


@pytest.mark.slow
def test_every_algorithm_has_a_whole_page(site):
    for name in ALGORITHMS:
        file = site / "_generated" / "algorithms" / f"{name}.html"
        text = file.read_text(encoding="utf-8")
        source = inspect.getsource(inspect.getmodule(ALGORITHMS[name].update))
        lines = source.count("\n")
        assert f'id="L-{lines}"' in text
        assert 'id="update"' in text
        assert f"optstudy-{name}-{optstudy_core.__version__}" in text
        for key in ALGORITHMS[name].bibtex:
            assert field(key, "year") in text
        assert (site / "_images" / f"{name}.svg").is_file()


# In a browser.

LOOK = """() => {
  const shown = e => e.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const rgba = text => {
    const numbers = text.match(/[\\d.]+/g).map(Number);
    return numbers.length === 3 ? [...numbers, 1] : numbers;
  };
  const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) =>
    0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] > 0.99) return colour;
    }
    return [255, 255, 255, 1];
  };
  const contrast = e => {
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(ground(e))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const texts = [...document.querySelectorAll(
    "article :is(p, li, td, th, h1, h2, h3, math, pre, pre span, code, summary, figcaption)")]
    .filter(e => shown(e) && e.textContent.trim());
  return {
    wide: document.documentElement.scrollWidth - innerWidth,
    cut: [...document.querySelectorAll(".table-wrapper")]
      .filter(e => e.scrollWidth > e.clientWidth + 8).length,
    ground: light(ground(document.querySelector("article"))),
    faint: texts.map(e => [contrast(e), e.className, e.textContent.trim().slice(0, 40)])
      .filter(([found]) => found < 4.5),
    flat: [...document.querySelectorAll("math")].filter(shown)
      .map(e => e.getBoundingClientRect()).filter(r => r.width < 3 || r.height < 3).length,
    broken: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),
    fonts: [...document.fonts].filter(f => f.status === "error").map(f => f.family),
  };
}"""
LOOKED_AT = (
    *("index", "start", "numerics", "porting", "schedules", "groups", "epoch_methods"),
    *("around", "instruments", "gallery", "compare", "diverge", "glossary", "digests"),
    *("own_optimizer", "recording", "trainers", "devices"),
    *("algorithms", "conformance", "performance", "api", "references"),
    *(f"_generated/algorithms/{name}" for name in ("adam", "adafactor", "cocob", "soap")),
)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_can_be_read(site, browser, scheme, width):
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    for name in LOOKED_AT:
        tab.goto((site / f"{name}.html").as_uri())
        tab.wait_for_function("document.fonts.status === 'loaded'")
        seen = tab.evaluate(LOOK)
        assert seen["wide"] <= 0, f"{name} scrolls sideways"
        assert width < 1280 or not seen["cut"], f"{name} has a table that does not fit"
        assert (seen["ground"] < 0.1) == (scheme == "dark"), name
        assert not seen["faint"], (name, seen["faint"][:5])
        assert [seen["flat"], seen["broken"], seen["fonts"]] == [0, [], []], name
    tab.close()


@pytest.mark.slow
def test_search_finds_pages_without_a_server(site, browser):
    tab = browser.new_page()
    tab.goto((site / "search.html").as_uri() + "?q=nadam")
    found = tab.locator("#search-results li a")
    found.first.wait_for()
    assert "_generated/algorithms/nadam.html" in {
        link.get_attribute("href").partition("?")[0].partition("#")[0] for link in found.all()
    }
    tab.close()


# What the pages are made of.


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_says_what_the_page_needs(name):
    algorithm = ALGORITHMS[name]
    module = inspect.getmodule(algorithm.update)
    assert "\n    " in module.__doc__  # equations
    assert "Source: " in module.__doc__
    assert all(key in module.__doc__ for key in algorithm.bibtex)
    assert algorithm.init.__doc__
    text = inspect.getdoc(algorithm.update)
    assert "Returns:" in text
    arguments = text.partition("Args:")[2].partition("Returns:")[0]
    for argument in ("grad", *algorithm.defaults()):
        assert re.search(rf"^    {argument}: ", arguments, re.MULTILINE), argument
    state = "".join(inspect.getdoc(kind) or "" for kind in algorithm.state_type.__mro__)
    for field_name in algorithm.state_type._fields:
        assert re.search(rf"^    {field_name}: ", state, re.MULTILINE), field_name


@pytest.fixture(scope="module")
def docstrings():
    """The rules for docstrings, which the site is built with."""
    sys.path.insert(0, str(DOCS))
    try:
        yield importlib.import_module("_extensions.docstrings")
    finally:
        sys.path.remove(str(DOCS))


def test_docstrings_of_public_names_are_whole(docstrings):
    names = docstrings.public(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    assert len(names) > 300
    assert {
        "optstudy_torch.AdamW",
        "optstudy_jax.adamw",
        "optstudy_core.eigen",
    } < names.keys()
    assert "optstudy_torch.lr_scheduler.CarefulLR.step" not in names  # its base class has it
    assert "optstudy_torch.CoreOptimizer.step" in names
    assert not [fault for name, x in names.items() for fault in docstrings.faults(name, x)]


WHOLE = """Return the sum.

Args:
    x: array of any shape.
    *rest: more of them, like ``x``.
    scale: a factor.

Raises:
    ValueError: if there is nothing.
"""


def made(docstring: str):
    def function(x: np.ndarray, *rest: np.ndarray, scale: float = 1.0) -> np.ndarray:
        def inside() -> None:
            raise TypeError("of another function")

        if not rest:
            raise ValueError("nothing")
        return scale * sum(rest, x)

    function.__doc__ = docstring
    return function


def test_a_docstring_that_lacks_something_is_found(docstrings):
    def lacking(old: str, new: str) -> list[str]:
        assert old in WHOLE
        return docstrings.faults("f", made(WHOLE.replace(old, new)))

    assert docstrings.faults("f", made(WHOLE)) == []
    assert docstrings.faults("f", made("")) == ["f: no docstring"]
    assert lacking("Return the sum", "Sum") == ["f: does not say what it returns"]
    assert lacking("    scale: a factor.\n", "") == ["f: does not say what scale is"]
    assert lacking("    *rest: more of them, like ``x``.\n", "") == ["f: does not say what rest is"]
    assert lacking("array of any shape", "what is added") == ["f: does not say which shape x has"]
    assert lacking("a factor", "above |L|") == ["f: has |L| outside a literal"]
    assert lacking("a factor", "above ``|L|``") == []
    assert lacking("ValueError", "KeyError") == ["f: does not name the ValueError it raises"]
    assert docstrings.faults("f", made("Return it.\n\nArgs and errors as for :func:`g`.")) == []
    module = types.ModuleType("rule", "A rule (`kingma2015adan`).")
    module.BIBTEX = ()
    assert docstrings.faults("m", module) == [
        "m: no source",
        "m: kingma2015adan is not in references.bib",
    ]


def test_sources_are_links(docstrings):
    assert docstrings.linked("(A 2015, `kingma2015adam`), (`you2017large`), ``x``, `y`") == (
        "(A 2015, :cite:p:`kingma2015adam`), :cite:p:`you2017large`, ``x``, `y`"
    )


@pytest.mark.parametrize("name", ["adam", "adamw", "muon", "rprop"])
def test_help_explains_every_argument(name):
    """Of what the adapters make, where the meanings come from the formula's file."""
    own = inspect.getdoc(getattr(optstudy_torch, ALGORITHMS[name].title))
    for argument in inspect.signature(getattr(optstudy_torch, ALGORITHMS[name].title)).parameters:
        assert re.search(rf"^    {argument}: ..", own, re.MULTILINE), argument
    other = inspect.getdoc(getattr(optstudy_jax, name))
    for argument in inspect.signature(getattr(optstudy_jax, name)).parameters:
        assert re.search(rf"^    {argument}: ..", other, re.MULTILINE), argument


def test_every_reference_is_whole():
    for key, text in entries().items():
        assert field(key, "author"), key
        assert field(key, "title"), key
        assert re.fullmatch(r"(18|19|20)\d\d", field(key, "year")), key
        assert key[-1].isalpha(), key
        assert field(key, "year") in key, key
        where = ("journal", "booktitle", "eprint", "institution", "howpublished", "school", "url",
                 "publisher", "note")  # fmt: skip
        assert any(field(key, name) for name in where), f"{key}: {text}"


def test_a_citation_names_the_very_file():
    text = optstudy_core.citation("adam", implementation=True)
    assert "@inproceedings{kingma2015adam" in text
    assert f"@misc{{optstudy-adam-{optstudy_core.__version__}," in text
    other = optstudy_core.citation("lion", implementation=True)
    assert (
        re.search(r"SHA-256 of the file begins with (\w+)", text)[1]
        != re.search(r"SHA-256 of the file begins with (\w+)", other)[1]
    )


IN_USE = ("adam", "polyak_sgd", "sophia", "cocob")  # one for each form that the blocks have


@pytest.mark.parametrize("name", slow_unless_quick([n for n in ALGORITHMS if n != "muon"], IN_USE))
def test_the_beginning_of_a_page_runs(name, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    usage = importlib.import_module("_extensions.usage")
    model = torch.nn.Linear(3, 2)
    loss, before = (model(torch.ones(4, 3)) ** 2).mean(), model.weight.detach().clone()
    exec(usage.torch_code(ALGORITHMS[name]), {"model": model, "loss": loss})
    net = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    kernel = jnp.copy(net.kernel[...])

    def loss_of(params):
        return jnp.mean((jnp.ones((4, 3)) @ params["kernel"][...] + params["bias"][...]) ** 2)

    loss, gradients = jax.value_and_grad(loss_of)(nnx.state(net, nnx.Param))
    given = {"model": net, "loss": loss, "loss_of": loss_of, "key": jax.random.key(0)}
    exec(usage.jax_code(ALGORITHMS[name]), {**given, "gradients": gradients})
    still = name in {"adopt", "soap"}  # the first gradient only starts their averages
    assert torch.equal(model.weight, before) == still
    assert jnp.array_equal(net.kernel[...], kernel) == still


def test_the_page_of_muon_begins_with_a_section_of_the_guide(monkeypatch):
    pytest.importorskip("pygments")
    monkeypatch.syspath_prepend(DOCS)
    pages = importlib.import_module("_extensions.algorithm_pages")
    shown = pages.page(ALGORITHMS["muon"], [])
    assert "optstudy_torch.Muon(" in shown
    assert "optax.multi_transform(rules" in shown
    usage = importlib.import_module("_extensions.usage")
    monkeypatch.setitem(usage.GUIDES, "sgd", "glossary.md")
    with pytest.raises(ValueError, match=r"glossary\.md does not begin with two blocks"):
        pages.page(ALGORITHMS["sgd"], [])


@pytest.mark.parametrize("name", ["shampoo", "yogi"])
def test_tables_of_a_page_have_no_roles_of_docstrings(name, monkeypatch):
    pytest.importorskip("pygments")
    monkeypatch.syspath_prepend(DOCS)
    shown = importlib.import_module("_extensions.algorithm_pages").page(ALGORITHMS[name], [])
    table = [line for line in shown.splitlines() if line.startswith("| ")]
    assert any("read by `init`" in line for line in table)
    assert not any(":func:" in line for line in table)
