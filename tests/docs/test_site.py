"""The built site in a browser: layout, copied commands, formulas, search and API pages.

Set ``SITE`` to a folder that ``sphinx-build`` wrote to check this folder instead of a new build.
"""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

import metarl
from tests.support import ROOT
from tests.support.browser import Browser


WIDTHS = (1280, 390)
# Every element that is wider than the window, unless a box around it scrolls.
OVERFLOWING = """(() => {
  const page = document.scrollingElement, found = [];
  if (page.scrollWidth > innerWidth) found.push(`page: ${page.scrollWidth} > ${innerWidth}`);
  const scrolls = e => e && (/auto|scroll/.test(getComputedStyle(e).overflowX)
    ? e : scrolls(e.parentElement));
  for (const e of document.querySelectorAll('article :is(table, pre, math, img)'))
    if (e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e))
      found.push(`${e.tagName}: ${e.textContent.trim().slice(0, 60)}`);
  return found;
})()"""
# Flags with a line break after one of their hyphens.
DIVIDED = """[...document.querySelectorAll('article code .pre')]
  .filter(e => e.textContent.startsWith('--') && e.getClientRects().length > 1)
  .map(e => e.textContent)"""
# Code with dashes, and flags anywhere whose two hyphens became a dash.
DASHES = """(() => {
  const text = document.querySelector('article')?.textContent ?? '';
  const code = [...document.querySelectorAll('pre, code')].map(e => e.textContent);
  return [...code.filter(text => /[\\u2010-\\u2015]/.test(text)),
    ...text.match(/.{0,20}[\\u2013\\u2014][a-z]+/g) ?? []];
})()"""
# Click every copy button and collect what arrives in the clipboard.
COPIED = """(() => {
  const copied = [];
  document.addEventListener('copy', () => copied.push(document.activeElement.value));
  document.querySelectorAll('button.copybtn').forEach(button => button.click());
  return copied;
})()"""
ICONS = """[...document.querySelectorAll('.header-right svg')].map(e => e.getBoundingClientRect())
  .filter(box => box.width).map(box => ({left: box.left, right: box.right}))"""
REQUESTED = """performance.getEntriesByType('resource').map(entry => entry.name)
  .filter(name => !/^(file|data|blob):/.test(name))"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site with warnings as errors; parallel workers share one build."""
    if built := os.environ.get("SITE"):
        return Path(built)
    for package in ("furo", "myst_nb", "sphinx_copybutton", "latex2mathml"):
        pytest.importorskip(package, reason="building the site needs: pip install -e '.[docs]'")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", ROOT / "docs", folder]
    with FileLock(f"{folder}.lock"):
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("opening the pages needs Chromium: apt-get install chromium")
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def pages(site: Path) -> dict[str, Path]:
    """Return the pages of the site by name, without the source of modules."""
    found = {path.relative_to(site).as_posix(): path for path in sorted(site.rglob("*.html"))}
    return {name: path for name, path in found.items() if not name.startswith("_modules/")}


def test_every_page_fits_the_window_and_needs_no_network(site: Path, browser: Browser) -> None:
    assert len(pages(site)) > 30
    problems = {}
    for name, path in pages(site).items():
        browser.open(path.as_uri())
        found = browser.run(DASHES) + browser.run(REQUESTED)
        for width in WIDTHS:
            browser.resize(width)
            found += [
                f"at {width} px, {text}" for text in browser.run(OVERFLOWING) + browser.run(DIVIDED)
            ]
        if found:
            problems[name] = found
    assert problems == {}


def test_icons_in_the_header_of_a_phone_do_not_touch(site: Path, browser: Browser) -> None:
    browser.resize(390)
    browser.open((site / "quickstart.html").as_uri())
    boxes = browser.run(ICONS)
    assert len(boxes) == 2
    assert boxes[1]["left"] - boxes[0]["right"] >= 8


def test_copied_blocks_are_the_text_of_the_page(site: Path, browser: Browser) -> None:
    browser.open((site / "scaling.html").as_uri())
    source = (ROOT / "docs/scaling.md").read_text()
    copied = browser.run(COPIED)
    assert any(" --" in text for text in copied)
    assert [text for text in copied if text not in source] == []


def test_formulas_are_written_as_mathml(site: Path) -> None:
    formulas = {
        name: re.findall("<math.*?</math>", path.read_text(), re.DOTALL)
        for name, path in pages(site).items()
    }
    assert formulas["methods/maml.html"]
    assert [name for name, found in formulas.items() if any("\\" in text for text in found)] == []


@cache
def text_of(path: Path) -> str:
    """Return the text of a page as a reader sees it."""
    (article,) = re.findall(r'<article role="main".*?</article>', path.read_text(), re.DOTALL)
    return html.unescape(re.sub("<[^>]+>", "", article))


def test_api_pages_show_types_readable_defaults_and_source(site: Path) -> None:
    api = [path for name, path in pages(site).items() if re.match("api/(?!index)", name)]
    assert len(api) > 4
    for path in api:
        text = text_of(path)
        assert not re.search(r" at 0x|<factory>|<function|<class '|Annotated\[", text), path.name
        assert "[source]" in text, path.name
        names = re.findall(r"^([\w.]+)\(", text, re.MULTILINE)
        assert [name for name in names if re.search(r"(^|\.)_[a-z]", name)] == []
    assert re.search(r"loss: LossFn,\s*optimizer: InnerOptimizer", text_of(site / "api/core.html"))


def test_every_page_shows_the_version_and_the_repository(site: Path) -> None:
    for name in ("index.html", "methods/maml.html"):
        text = (site / name).read_text()
        assert f"metarl {metarl.__version__}" in text, name
        assert 'class="repository"><a href="https://' in text, name


@pytest.mark.parametrize(
    ("word", "stem", "page"),
    [
        ("predict", "predict", "use-a-trained-model"),
        ("inference", "infer", "use-a-trained-model"),
        ("deploy", "deploy", "use-a-trained-model"),
        ("reward", "reward", "environment"),
        ("video", "video", "guide|quickstart"),
    ],
)
def test_search_ranks_the_right_page_first(site: Path, word: str, stem: str, page: str) -> None:
    """Words of headings rank above words of the text."""
    text = (site / "searchindex.js").read_text().strip()
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    found = index["titleterms"].get(stem, [])
    names = [index["docnames"][n] for n in ([found] if isinstance(found, int) else found)]
    assert any(re.search(page, name) for name in names), f"{word}: {names}"
