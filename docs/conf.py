"""The documentation site: ``sphinx-build -W -q -b html docs docs/_build/html``."""

import inspect
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import metarl
from metarl.envs import ENVIRONMENTS


DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from signatures import as_written  # noqa: E402


project = "metarl"
author = "The metarl contributors"
copyright = "the metarl contributors"
version = release = metarl.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
smartquotes = False  # two hyphens stay two hyphens

html_theme = "furo"
html_title = f"metarl {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
templates_path = ["_templates"]
SIDEBAR = ("brand", "search", "scroll-start", "navigation", "scroll-end")
html_sidebars = {"**": [f"sidebar/{name}.html" for name in SIDEBAR]}
html_sidebars["**"].insert(1, "repository.html")
settings = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())
html_context = {"repository": settings["project"]["urls"]["Repository"]}
html_theme_options = {
    "source_repository": html_context["repository"],
    "source_branch": "main",
    "source_directory": "docs/",
}
html_math_renderer = "mathml"  # browsers render it without scripts
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

myst_enable_extensions = ["dollarmath"]
myst_update_mathjax = False
myst_heading_anchors = 3  # anchors of headings as on GitHub
nb_execution_mode = "off"

autodoc_typehints = "none"  # signatures.py adds them
python_maximum_signature_line_length = 80
autodoc_member_order = "bysource"
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False


class Environments(SphinxDirective):
    """The docstrings of all registered environments, which are Markdown."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each environment."""
        found: list[nodes.Node] = []
        for row in ENVIRONMENTS:
            text = re.sub(r"(?m)^#+ (.+)$", r"**\1**", inspect.getdoc(row.scalar()) or "")
            text = re.sub(r":\w+:`", "`", text)
            title = nodes.title(text=row.id)
            section = nodes.section("", title, ids=[nodes.make_id(row.id)], names=[row.id.lower()])
            self.state.nested_parse(StringList(text.splitlines()), self.content_offset, section)
            found.append(section)
        return found


def keep_symbols(*event: Any) -> None:
    """Escape asterisks and bars, which docstrings use in (*batch, actions) and π(a|s)."""
    lines = event[-1]
    for number, line in enumerate(lines):
        parts = line.split("``")  # every second part is a literal
        parts[::2] = [re.sub(r"(\*(?=\w+[,)])|\|(?=\w))", r"\\\1", part) for part in parts[::2]]
        lines[number] = "``".join(parts)


def separate(app: Sphinx, doctree: nodes.document) -> None:
    """Write a colon between a parameter and its description, where Sphinx writes two hyphens."""
    for text in [*doctree.findall(nodes.Text)]:
        if text == " -- ":
            text.parent.replace(text, nodes.Text(": "))


def inline_math(writer: Any, node: nodes.math) -> None:
    """Write a formula inside of a sentence as MathML."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block_math(writer: Any, node: nodes.math_block) -> None:
    """Write a displayed formula as MathML."""
    writer.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the docstring hook with Sphinx."""
    app.add_directive("environments", Environments)
    app.connect("autodoc-process-docstring", keep_symbols)
    app.connect("doctree-read", separate)
    app.connect("autodoc-process-signature", as_written)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    return {"parallel_read_safe": True}
