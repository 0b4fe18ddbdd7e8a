"""Generate the pages docs/results-TOPIC.md and tables of headline results from docs/results/.

::

    python docs/results.py table
    python docs/results.py check

``table`` writes the pages and the blocks ``headlines`` of README.md, docs/index.md and
docs/results.md. ``check`` fails if one of them does not match the files. docs/collect.py writes the
files.
"""

import json
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np


DOCS = Path(__file__).parent
SOURCES = DOCS / "results"
TOPICS = {  # pages: the title, and the files in order, as patterns
    "navigation": ("Results: 2D navigation", ("navigation*",)),
    "half-cheetah": ("Results: half-cheetahs", ("cheetah-*-v?", "cheetah-*-equal")),
    "ants": ("Results: ants", ("ant-*",)),
    "memory": ("Results: bandits, MDPs and Meta-World", ("*bandit*", "*mdp*", "*meta-world*")),
    "sinusoids": ("Results: sinusoids", ("sinusoid*",)),
    "images": ("Results: images", ("omniglot*", "mini-imagenet*")),
    "text": ("Results: text", ("text*",)),
}
HEADLINES = (  # file, row and number of inner steps
    ("navigation", "MAML", 1),
    ("navigation", "MAML, two inner steps", 3),
    ("cheetah-dir-v0", "MAML", 1),
    ("cheetah-dir-v0", "MAML", 3),
    ("cheetah-vel-v0", "MAML", 1),
    ("cheetah-vel-v0", "MAML", 3),
    ("cheetah-dir-v1", "ProMP", 1),
    ("ant-dir", "MAML-TRPO", 1),
    ("rl2-bandit-10", "RL²", 0),
    ("sinusoid-5", "MAML", 1),
    ("sinusoid-10", "Meta-Curvature", 1),
    ("omniglot-5-way-1-shot", "MAML", 1),
    ("omniglot-5-way-1-shot", "Meta-Curvature", 1),
    ("omniglot-20-way-1-shot", "MAML", 1),
)
WITH_HEADLINES = ("README.md", "docs/index.md", "docs/results.md")
UNITS = {"return": "return", "loss": "mean squared error", "accuracy": "accuracy"}


def pages() -> dict[Path, str]:
    """Return the text of every generated page."""
    root = DOCS.parent
    names = [topic_of(path.stem) for path in SOURCES.glob("*.json")]
    return {
        **{page_path(name): _page(name) for name in TOPICS if name in names},
        **{root / name: _with_headlines((root / name).read_text()) for name in WITH_HEADLINES},
    }


def page_path(topic: str) -> Path:
    """Return the path of a topic's page."""
    return DOCS / f"results-{topic}.md"


def topic_of(name: str) -> str:
    """Return the topic of docs/results/NAME.json."""
    for topic, (_, patterns) in TOPICS.items():
        if any(fnmatch(name, pattern) for pattern in patterns):
            return topic
    raise ValueError(f"docs/results/{name}.json belongs to no page: add a pattern to TOPICS")


def _page(topic: str) -> str:
    title, patterns = TOPICS[topic]
    paths = [path for pattern in patterns for path in sorted(SOURCES.glob(f"{pattern}.json"))]
    parts = [
        _section(json.loads(path.read_text())) for path in paths if topic_of(path.stem) == topic
    ]
    top = f"# {title}\n\n[results.md](results.md) explains the tables and the intervals."
    return "\n\n".join([top, *parts]) + "\n"


def _with_headlines(text: str) -> str:
    return re.sub(
        r"<!-- headlines (\S+) -->\n.*?<!-- /headlines -->",
        lambda found: f"<!-- headlines {found[1]} -->\n{_headlines(found[1])}<!-- /headlines -->",
        text,
        flags=re.DOTALL,
    )


def _headlines(folder: str) -> str:
    """Return a table of selected results; `folder` is the path from the page to docs/."""
    head = ["task", "method", "metric", "metarl", "published", "cost per seed", "seeds"]
    lines = [_line(head), _line(["---", "---", "---", "---:", "---:", "---", "---:"])]
    for name, method, step in HEADLINES:
        result = json.loads((SOURCES / f"{name}.json").read_text())
        row = next(row for row in result["rows"] if row["method"] == method)
        unit = UNITS[row.get("measure", "return")]
        metric = f"{unit}, {step} step{'s' if step != 1 else ''}" if step else unit
        link = f"[{result['title']}]({folder}/{link_to(name, result['title'])})"
        published = [*result["published"].get(method, []), *["–"] * (step + 1)][step]
        cells = [link, method, metric, _cell(row, step).replace("-", "−"), published]
        lines.append(_line([*cells, _spent(row), str(len(row["seeds"]))]))
    return "\n".join(lines) + "\n"


def _spent(row: dict[str, Any]) -> str:
    """Return the environment steps or meta-updates of a row, and its minutes per seed."""
    steps = np.mean(row["env_steps"])
    amount = f"{steps / 1e6:.1f} M steps" if steps else f"{row['iterations']:,} updates"
    return f"{amount}, {np.mean(row['seconds']) / 60:.0f} min"


def link_to(name: str, title: str) -> str:
    """Return the page and the anchor of the section of docs/results/NAME.json."""
    anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
    return f"{page_path(topic_of(name)).name}#{anchor}"


def _section(result: dict[str, Any]) -> str:
    of_text = "accuracies" in result["rows"][0]
    lines = _by_task(result["rows"]) if of_text else _by_step(result)
    top = [f"## {result['title']}", "", result["text"], ""]
    effort = ["", "Cost per seed:", "", *_effort(result["rows"])]
    commands = ["", "Commands, in the order of the rows:", "", *_commands(result["rows"])]
    return "\n".join([*top, *lines, "", result["notes"], *effort, *commands]).rstrip()


def _by_step(result: dict[str, Any]) -> list[str]:
    """Return a table with one row per method and one column per inner step."""
    steps = result.get("steps") or list(range(max(len(row["mean"]) for row in result["rows"])))
    classes = any(row["measure"] == "accuracy" for row in result["rows"] if "measure" in row)
    head = ["method", *(f"{k} step{'s' if k != 1 else ''}" for k in steps), "seeds"]
    robust = any("iqm" in row for row in result["rows"])
    head += ["IQM after adaptation, 95 % bootstrap"] * robust
    head += ["query normalized by"] * classes
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    for row in result["rows"]:
        cells = [_cell(row, step) for step in steps]
        query = [_query(row)] if classes else []
        cells += [str(len(row["seeds"])), *[_iqm(row, steps[-1])] * robust, *query]
        lines.append(_line([f"**{row['method']}**", *cells]))
        published = result["published"].get(row["method"])
        if published:
            padded = [*published, *[""] * (len(steps) - len(published))]
            lines.append(_line(["published", *padded, "", *[""] * (robust + classes)]))
    return lines


def _by_task(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of text tasks after adaptation, with one column per method."""
    lines = [_line(["task", "shots", *(f"**{row['method']}**" for row in rows)])]
    lines.append(_line(["---", *["---:"] * (len(rows) + 1)]))
    for task, by_shots in rows[0]["accuracies"].items():
        for shots in by_shots:
            found = [np.array(row["accuracies"][task][shots])[:, -1] for row in rows]
            lines.append(_line([task, shots, *(_deviation(values) for values in found)]))
    lines.append(_line(["**mean**", "", *(f"{100 * row['mean'][-1]:.1f} %" for row in rows)]))
    return lines


def _deviation(values: Any) -> str:
    return f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f} %"


def _effort(rows: list[dict[str, Any]]) -> list[str]:
    """Return a table of the wall times of the rows."""
    steps = any(any(row["env_steps"]) for row in rows)
    unit = "environment steps" if steps else "iterations"
    lines = [_line(["method", unit, "minutes"]), _line(["---", "---:", "---:"])]
    for row in rows:
        spent = f"{np.mean(row['env_steps']) / 1e6:.1f} M" if steps else f"{row['iterations']:,}"
        lines.append(_line([row["method"], spent, f"{np.mean(row['seconds']) / 60:.1f}"]))
    return lines


def _commands(rows: list[dict[str, Any]]) -> list[str]:
    """Return the commands of the rows as a block, each command once."""
    commands = dict.fromkeys(row[name] for row in rows for name in ("train", "evaluate"))
    return ["```{code-block} bash", *commands, "```"]


def _cell(row: dict[str, Any], step: int) -> str:
    """Format a result with its interval: over seeds, or over tasks for a single seed."""
    if step >= len(row["mean"]):
        return ""
    single = len(row["seeds"]) == 1
    half = (row["interval95_tasks"][0] if single else row["interval95_seeds"])[step]
    mean, percent = row["mean"][step], row.get("measure") == "accuracy"
    return f"{100 * mean:.2f} ± {100 * half:.2f} %" if percent else f"{mean:.2f} ± {half:.2f}"


def _iqm(row: dict[str, Any], step: int) -> str:
    """Format the interquartile mean after `step` steps, or after the last step of the row."""
    if "iqm" not in row:
        return ""
    at = min(step, len(row["iqm"]) - 1)
    low, high = row["iqm_interval95"][at]
    return f"{row['iqm'][at]:.2f} [{low:.2f}, {high:.2f}]"


def _query(row: dict[str, Any]) -> str:
    """Return whether the evaluation was transductive, as text."""
    images = f"{row['num_queries']} a class" if row.get("num_queries") else "as many as there are"
    return f"itself, {images} (transductive)" if row["transductive"] else "the support set"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str]) -> None:
    """Write or check the pages."""
    for path, text in pages().items():
        if argv != ["check"]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(f"{path.name} does not match docs/results/: run python docs/results.py table")


if __name__ == "__main__":
    main(sys.argv[1:])
