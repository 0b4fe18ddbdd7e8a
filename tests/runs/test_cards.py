"""Model cards and config.json of runs from other people."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from metarl.runs.card import HOME, Subject, block, card, code, markdown_table, plain
from metarl.runs.folder import Run
from metarl.util import printable
from tests.support.commands import refusal


HOSTILE = (
    "x</p><script>alert(1)</script> [win](https://evil.example) ![i](http://evil.example/i.png) "
    "https://evil.example www.evil.example `a` ``` ~~~ | a | **b** _c_ &lt; \\| $x$ \x1b[2J\u202e"
)


STRINGS = [
    HOSTILE, "a`b", "``a", "a``", "`", "``", "```", "````", "```bash", "a ``` b ```` c", "~~~",
    "~~~~ x", "a | b", r"a \| b", "---", "***", "# title", "- item", "1. item", "> quote",
    "<b>x</b>", "<!-- x -->", "[x](https://x.org)", "![x](https://x.org)", "<https://x.org>",
    "[x]: https://x.org", "~~x~~", "&amp;", r"\`x\`", "a\n```\n# b", "    four spaces",
    "---\nlicense: mit\n---", "{{ x }}", "$x$", "x: y", "'x", '"x', "null", "\\", "%x", "@x", "!!x",
]  # fmt: skip


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").enable("table").enable("strikethrough").render(text)


@pytest.mark.parametrize("text", STRINGS)
def test_strings_are_displayed_as_they_are(text: str) -> None:
    line = printable(text)
    shown = html.unescape(rendered(f"x {plain(text)}"))
    assert shown.rstrip() == f"<p>x {line.rstrip()}</p>"
    shown = html.unescape(rendered(f"x {code(text)}"))
    assert shown == f"<p>x <code>{line}</code></p>\n"
    shown = html.unescape(rendered(f"{block(text)}\n\nx"))
    assert shown == f'<pre><code class="language-bash">{line}\n</code></pre>\n<p>x</p>\n'
    table = rendered(markdown_table(["a", "b"], [(plain(text), code(text))]))
    plain_cell, code_cell = re.findall(r"<td>(.*)</td>", table)
    assert html.unescape(plain_cell) == line.strip()
    assert html.unescape(code_cell) == f"<code>{line}</code>"


def test_the_metadata_of_a_card_contains_the_strings_of_a_run(run: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    for text in STRINGS:
        subject = Subject("maml", "a paper", text, "reinforcement-learning", "policy", "render")
        front = card(Run(folder), 6, subject, place="hub:ada/x", license=None).split("\n---\n")[0]
        entries = yaml.safe_load(front)
        assert {*entries} == {"library_name", "tags", "pipeline_tag"}
        assert [printable(tag) for tag in entries["tags"][4:]] == [printable(text)]


def test_model_cards_show_the_strings_of_a_run_as_text(run: Path, tmp_path: Path) -> None:
    """A renderer of Markdown finds neither HTML nor links nor other formatting in them."""
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    lines = {"command": f"metarl '{HOSTILE}\n```\n# title'", "measure": HOSTILE, "start": HOSTILE}
    (evaluation,) = (folder / "evaluations").iterdir()
    evaluation.write_text(json.dumps(json.loads(evaluation.read_text()) | lines))
    (folder / "media" / f"{HOSTILE.replace('/', '')[:99]}.png").touch()
    about = json.loads((folder / "config.json").read_text())
    about |= {
        "command": f"````\n{HOSTILE}",
        "changed_by": [HOSTILE, f"` {HOSTILE}", "", "`", "a ``"],
    }
    about["versions"] = {HOSTILE: HOSTILE}
    about["config"]["env"] = f"{HOSTILE}:{HOSTILE}"
    (folder / "config.json").write_text(json.dumps(about))
    subject = Subject(HOSTILE, "a paper", HOSTILE, "reinforcement-learning", "policy", "render")
    text = card(Run(folder), 6, subject, place="hub:ada/x", license=None)
    assert all(x.isprintable() or x == "\n" for x in text)
    assert plain("https://x.org www.x.org") == r"https\://x.org www\.x.org"
    text = text.partition("\n---\n")[2]
    page = rendered(text)
    links = {*re.findall(r'(?:href|src)="([^"]*)"', page)}
    assert {link for link in links if not link.startswith("media/")} == {HOME}
    assert "<script" not in page
    assert not re.search(r"<(em|strong|s|h1)>(?!x&lt;/p)", page)
    assert page.count("<pre>") == 3  # usage, Python and the command
    assert page.count("<h1>") == 1
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    assert {len(re.findall("<t[dh]", row)) for row in rows} == {2, 5}


@pytest.mark.parametrize(
    "damaged",
    [{"versions": 3}, {"versions": ["torch"]}, {"versions": {"torch": 2}}, {"versions": None},
     {"versions": {"torch": ["2"]}}, {"changed_by": 3}, {"changed_by": "metarl resume"},
     {"changed_by": [{}]}, {"changed_by": {"metarl": "resume"}}, {"changed_by": [["metarl"]]},
     {"changed_by": None}, {"command": ["metarl"]}, {"pulled_from": 1}, {"spaces": []}],
    ids=str,
)  # fmt: skip
def test_entries_of_a_wrong_type_are_named(
    damaged: dict[str, Any], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | damaged))
    for words in (["push", folder, tmp_path / "a"], ["pull", folder, "--out", tmp_path / "b"]):
        error = refusal(capsys, *words)
        assert f"config.json is not a metarl configuration (expected `{min(damaged)}` as" in error
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


BIG = 10**400


@pytest.mark.parametrize(
    ("entry", "value", "expected"),
    [
        ("iteration", True, "an integer"),
        ("num_tasks", [2], "an integer"),
        ("seed", "1", "an integer"),
        ("command", ["metarl"], "a text"),
        ("measure", [], "a text"),
        ("measures", None, "an object of objects"),
        ("measures", {"return": 3}, "an object of objects"),
        ("infos", "x", "an object of lists of lists of numbers"),
        ("infos", {"success": [1.0]}, "an object of lists of lists of numbers"),
        ("returns", [[BIG]], "a list of lists of numbers"),
        ("mean", 3, "a list of numbers"),
        ("mean", [BIG, BIG], "a list of numbers"),
        ("iqm", [None], "a list of numbers"),
        ("iqm", [-BIG, BIG], "a list of numbers"),
        ("iqm_interval95", [1.0], "a list of lists of numbers"),
        ("adaptation_steps", {}, "a list of numbers"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_evaluations_with_entries_of_a_wrong_type_are_named(
    entry: str, value: Any, expected: str, run: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    (evaluation,) = (folder / "evaluations").iterdir()
    whole = json.loads(evaluation.read_text())
    evaluation.write_text(json.dumps(whole | {entry: value}))
    for words in (
        ["push", folder, tmp_path / "a"], ["pull", folder, "--out", tmp_path / "b"],
        ["plot", folder, "--out", tmp_path / "c.png"],
    ):  # fmt: skip
        error = refusal(capsys, *words)
        assert f"{evaluation} is not a valid evaluation (expected `{entry}` as {expected}" in error
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("entry", "value", "expected"),
    [
        ("mean", [], "expected lists of the same length"),
        ("iqm", [1.0], "expected lists of the same length"),
        ("adaptation_steps", [1, 2, 3, 4, 5], "expected lists of the same length"),
        ("measures", {"return": {"mean": [1.0]}}, "expected an entry `interval95`, got none"),
        ("iqm_interval95", [[1.0]] * 4, "expected `iqm_interval95` as a list of pairs"),
    ],
)
def test_evaluations_with_inconsistent_lists_are_rejected(
    entry: str, value: Any, expected: str, run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    (evaluation,) = (folder / "evaluations").iterdir()
    whole = json.loads(evaluation.read_text())
    evaluation.write_text(json.dumps(whole | {entry: value}))
    with pytest.raises(ValueError, match=rf"{evaluation.name} is not a valid .*{expected}"):
        Run(folder).evaluations()
