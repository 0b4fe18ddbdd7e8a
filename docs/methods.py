"""Generate blocks of the pages in docs/methods/ from the package and from docs/results/.

::

    python docs/methods.py write
    python docs/methods.py check

The text between ``<!-- NAME -->`` and ``<!-- /NAME -->`` is generated. The block ``flags`` lists
the settings of a method, ``measured`` the results of its runs in docs/results/*.json (selected by
their commands), and ``table`` is a table of the index. ``check`` fails if a block is not up to
date.
"""

import json
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any


DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import results  # noqa: E402

from metarl.commands import cli  # noqa: E402
from metarl.commands.methods import policies  # noqa: E402
from metarl.commands.usage import flag  # noqa: E402
from metarl.experiments import OTHERS, experiments  # noqa: E402
from metarl.supervised.methods import METHODS  # noqa: E402


PAGES = DOCS / "methods"
BLOCK = re.compile(r"<!-- (flags|measured|table) -->\n.*?<!-- /\1 -->", re.DOTALL)
# Variants that `metarl methods` lists as flags of maml-trpo have separate pages.
VARIANTS = {
    "maml-trpo --first-order": "fomaml",
    **{f"maml-trpo --inner {name}": name for name in ("meta-sgd", "lslr", "meta-curvature")},
    "maml-trpo --inner-loss dice": "maml-trpo",
    "maml-trpo --inner-steps 0": "pretrained",
}
HEAD = (
    "| task | run | metric | first step | last step | published | seeds |",
    "|---|---|---|---:|---:|---:|---:|",
)
NO_RESULTS = "[results.md](../results.md) contains no runs of this method."


def page_names() -> list[str]:
    """Return the names of the pages: every supervised method and every meta-RL method."""
    ours = [name for name in experiments() if name not in OTHERS]
    return list(dict.fromkeys([*METHODS, *ours]))


def page_of(command: str) -> str | None:
    """Return the page of a training command, or ``None`` for commands of other packages."""
    _, _, *words = shlex.split(command)
    if words[0] == "sb3":
        return None
    config: Any = cli.parse_train(words).config
    if words[0] in OTHERS:
        return str(config.method)
    if config.inner_steps == 0 and words[0] != "rl2":
        return "oracle" if config.observe_task else "pretrained"
    if words[0] == "maml-trpo" and config.first_order:
        return "fomaml"
    learned = words[0] == "maml-trpo" and config.inner in METHODS
    return str(config.inner) if learned else words[0]


@cache
def measured() -> dict[str, list[str]]:
    """Return the rows of the table of every page."""
    found: dict[str, list[str]] = {}
    for path in sorted(results.SOURCES.glob("*.json")):
        result = json.loads(path.read_text())
        for row in result["rows"]:
            page = page_of(row["train"])
            if page and "--checkpoint 0" not in row["evaluate"]:  # checkpoint 0 is not trained
                found.setdefault(page, []).append(_line(path.stem, result, row))
    return found


def _line(name: str, result: dict[str, Any], row: dict[str, Any]) -> str:
    """Return a table row with the results after the first and the last step."""
    link = f"[{result['title']}](../{results.link_to(name, result['title'])})"
    measure = results.UNITS[row.get("measure", "return")]
    seeds = str(len(row["seeds"]))
    if "accuracies" in row:
        mean = f"{100 * row['mean'][-1]:.1f} %, mean of {', '.join(row['accuracies'])}"
        return results._line([link, row["method"], "accuracy", mean, "", "", seeds])
    steps = result.get("steps") or list(range(len(row["mean"])))
    known = [step for step in steps if step < len(row["mean"])]
    chosen = sorted({*known[1:2], known[-1]} - ({0} if len(known) > 1 else set()))
    numbers = [f"{_number(row, k)} ({k} step{'s' if k != 1 else ''})" for k in chosen]
    printed = result["published"].get(row["method"], [])
    place = steps.index(chosen[0])
    published = printed[place] if place < len(printed) else ""
    cells = [link, row["method"], measure, numbers[0], "".join(numbers[1:]), published, seeds]
    return results._line(cells)


def _number(row: dict[str, Any], step: int) -> str:
    return re.sub(r"-(?=\d)", "−", results._cell(row, step))


def block(name: str, page: str) -> str:
    """Return the text of a block."""
    if name == "flags":
        flags = flags_of(METHODS[page].values)
        return f"`--method {page}` sets `{flags}`. All other settings are those of MAML.\n"
    if name == "table":
        return tables()
    lines = measured().get(page, [])
    return "\n".join([*HEAD, *lines] if lines else [NO_RESULTS]) + "\n"


def flags_of(values: dict[str, Any]) -> str:
    """Return the settings of a method as flags."""
    named = [(flag(name), value) for name, value in values.items()]
    return " ".join(name if value is True else f"{name} {value}" for name, value in named)


def tables() -> str:
    """Return the tables of the index."""
    lines = ["| `--method` | paper | what is different | flags |", "|---|---|---|---|"]
    for name, method in METHODS.items():
        flags = flags_of(method.values)
        code = f"`{flags}`" if flags else "MAML's"
        lines.append(f"| [`{name}`]({name}.md) | {method.paper} | {method.summary} | {code} |")
    lines += ["", "| `metarl train` | paper | what is different |", "|---|---|---|"]
    for name, paper, summary in policies():
        lines.append(f"| [`{name}`]({VARIANTS.get(name, name)}.md) | {paper} | {summary} |")
    return "\n".join(lines) + "\n"


def text_of(path: Path) -> str:
    """Return the up-to-date text of a page."""
    return re.sub(
        BLOCK,
        lambda found: f"<!-- {found[1]} -->\n{block(found[1], path.stem)}<!-- /{found[1]} -->",
        path.read_text(),
    )


def main(argv: list[str]) -> None:
    """Write or check the blocks of all pages."""
    for path in sorted(PAGES.glob("*.md")):
        text = text_of(path)
        if argv == ["check"] and text != path.read_text():
            sys.exit(f"docs/methods/{path.name} is out of date: python docs/methods.py write")
        if argv == ["write"]:
            path.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
