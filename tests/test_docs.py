"""The documentation: it builds without a warning, no link is dead, nothing comes from a network."""

import html.parser
import inspect
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest

import optstudy_core
from optstudy_core import ALGORITHMS
from optstudy_core._citation import entries, field

DOCS = pathlib.Path(__file__).parents[1] / "docs"


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
def site(tmp_path_factory):
    pytest.importorskip("furo")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q"]
    done = subprocess.run(
        [*command, "-b", "html", str(DOCS), str(out)], capture_output=True, text=True, check=False
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
    *("index", "start", "numerics", "porting", "howto", "epoch_methods", "instruments", "gallery"),
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
        assert (seen["ground"] < 0.1) == (scheme == "dark"), name
        assert not seen["faint"], (name, seen["faint"][:5])
        assert [seen["flat"], seen["broken"], seen["fonts"]] == [0, [], []], name
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


def test_public_names_have_a_docstring():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"\.\. auto(?:module|function|class):: ([\w.]+)\n((?:   :.*\n)*)", text)
    assert len(named) > 10
    for place, options in named:
        owner, _, last = place.rpartition(".")
        try:
            thing = __import__(place, fromlist=["_"])
        except ImportError:
            thing = getattr(__import__(owner, fromlist=["_"]), last)
        assert inspect.getdoc(thing), place
        members = re.search(r":members: (.+)", options)
        for member in members[1].split(", ") if members else ():
            assert inspect.getdoc(getattr(thing, member.strip())), f"{place}.{member}"


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
    assert f"@software{{optstudy-adam-{optstudy_core.__version__}," in text
    other = optstudy_core.citation("lion", implementation=True)
    assert (
        re.search(r"SHA-256 of the file: (\w+)", text)[1]
        != re.search(r"SHA-256 of the file: (\w+)", other)[1]
    )
