"""The documentation site: ``sphinx-build -W -q -b html docs docs/_build/html``."""

import inspect
import re
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import metarl
from metarl.envs import ENVIRONMENTS


project = "metarl"
author = "The metarl contributors"
copyright = "the metarl contributors"
version = release = metarl.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "results/*"]  # results/introduction.md is included in results.md
html_theme = "furo"
html_title = "metarl"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # anchors of headings as on GitHub
nb_execution_mode = "off"

# Type annotations are in the source. The string annotations of jaxtyping cannot be linked.
autodoc_typehints = "none"
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


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the docstring hook with Sphinx."""
    app.add_directive("environments", Environments)
    app.connect("autodoc-process-docstring", keep_symbols)
    return {"parallel_read_safe": True}
