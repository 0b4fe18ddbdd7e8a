"""Model cards: the README.md of a shared run, with the method, results and example code."""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from metarl.runs.folder import Run
from metarl.runs.records import protocol
from metarl.runs.sharing import TRUSTED
from metarl.util import module_function, printable


HOME = "https://github.com/metarl/metarl"
POLICY = "reinforcement-learning"
PYTHON = {
    "policy": """\
import metarl

policy = metarl.load({place})
task = policy.sample_task(seed=0)
adapted = policy.adapt(task, steps=1)
print("return before and after:", adapted.returns)
# adapted.act(observation) returns an action, adapted.to_sb3() a Stable-Baselines3 policy""",
    "images": """\
import metarl

model = metarl.load({place})
classifier = model.adapt("support/")  # one subfolder per class, with a few images each
print(classifier.classes, classifier.predict(["new/1.png", "new/2.png"]))
# classifier.predict_proba(images) returns the probability of every class""",
    "sentences": """\
import metarl

model = metarl.load({place})
classifier = model.adapt(
    ["What a great evening.", "I loved it.", "Never again.", "It was boring."],
    ["good", "good", "bad", "bad"],
)
print(classifier.classes, classifier.predict(["A wonderful film.", "I fell asleep."]))
# classifier.predict_proba(sentences) returns the probability of every class""",
    "points": """\
import metarl

model = metarl.load({place})
adapted = model.adapt([-2.0, -1.0, 0.0, 1.0, 2.0], [-1.8, -1.7, 0.0, 1.7, 1.8])  # x, y
print(adapted.predict([0.5, 1.5]))""",
}
"""Code that uses a model, by what the model adapts; docs/use-a-trained-model.md contains the same
code."""


class Subject(NamedTuple):
    """The description of a run for the model card.

    Attributes:
        method: Name of the method.
        paper: Paper that introduced the method.
        what: Environment or data set that was used for training.
        family: Tag on the Hugging Face hub, such as
            ``reinforcement-learning`` or ``few-shot-learning``.
        usage: Key of the example code in :data:`PYTHON`; empty if :func:`metarl.load` does not
            support the run.
        shows: Subcommand of ``metarl`` that draws the run: ``render`` or ``plot``.
    """

    method: str
    paper: str
    what: str
    family: str
    usage: str
    shows: str


def card(run: Run, iteration: int, subject: Subject, *, place: str, license: str | None) -> str:
    """Return the model card of a shared run, as Markdown.

    Args:
        run: The shared copy of the run.
        iteration: Iteration of the shared checkpoint.
        subject: Description of the run.
        place: Address of the shared run for ``metarl pull``, such as ``hub:USER/NAME``.
        license: License identifier such as ``mit``; None omits the license.

    Raises:
        ValueError: If config.json or an evaluation is damaged.
    """
    about = run.read_config()
    versions = about.get("versions", {})
    module = str(about["config"].get("env", "")).rpartition(":")[0]
    settings = sorted(about["config"].items())
    function = module_function(about["config"].get("encoder") or "")
    module = function[0] if function else "" if module in TRUSTED else module
    program, trust = ("python -m metarl", " --trust-env") if module else ("metarl", "")
    parts = [
        _front(subject, license),
        f"# {plain(subject.method)} on {plain(subject.what)}",
        f"Trained with [metarl]({HOME}), gradient-based meta-learning on PyTorch. Method: "
        f"{plain(subject.method)} ({subject.paper}). This is the checkpoint of iteration "
        f"{iteration}.",
        *(_image(path.name) for path in sorted((run.folder / "media").iterdir())),
        "## Results",
        _results(newest_evaluation(run, iteration)),
        "## Usage",
        f"Install [metarl]({HOME}) with the extra `hub`, then run:",
        f"```bash\n{program} pull {shlex.quote(place)} --out runs/pulled\n"
        f"{program} evaluate runs/pulled{trust}\n{program} {subject.shows} runs/pulled --out "
        f"runs/pulled/media/picture.png{trust * (subject.shows == 'render')}\n```",
    ]
    if module:
        parts.append(
            f"The run requires the Python module {code(module)}, which is not part of this "
            "run: the current folder must contain it, or it must be installed. `--trust-env` "
            "imports the module and runs its code."
        )
    if subject.usage:
        source = json.dumps(place) + (", trust_env=True" if module else "")
        example = PYTHON[subject.usage].replace("{place}", source)
        parts += ["In Python:", f"```python\n{example}\n```"]
    parts += [
        "## Training",
        block(about.get("command", "")),
        *(f"Configuration changed later: {code(line)}" for line in about.get("changed_by", [])),
        markdown_table(["package", "version"], [(plain(n), plain(v)) for n, v in versions.items()]),
        "Settings:",
        markdown_table(["setting", "value"], [(code(n), code(json.dumps(v))) for n, v in settings]),
    ]
    return "\n\n".join(parts) + "\n"


def newest_evaluation(run: Run, iteration: int) -> dict[str, Any] | None:
    """Return the newest evaluation of a checkpoint on the run's own data, or None.

    Args:
        run: The run.
        iteration: Iteration of the checkpoint.

    Returns:
        The contents of the evaluation file, as in :meth:`Run.evaluations`.

    Raises:
        ValueError: If an evaluation file is damaged.

    Example::

        run = Run.open(Path("runs/quick"))
        newest_evaluation(run, run.choose_checkpoint(None))  # {"iteration": 30, "mean": [...], ...}
    """
    found = (e for e in run.evaluations() if e["iteration"] == iteration and "data" not in e)
    return next(found, None)


def _front(subject: Subject, license: str | None) -> str:
    """Return the YAML metadata at the start of a model card; `license` is omitted if None."""
    tags = ["metarl", "meta-learning", subject.family, subject.method.partition(" ")[0]]
    about = {"library_name": "metarl", "license": license, "tags": tags}
    if subject.family == POLICY:
        tags.append(subject.what)
        about["pipeline_tag"] = POLICY
    named = [f"{n}: {json.dumps(v, ensure_ascii=False)}" for n, v in about.items() if v]
    return "\n".join(["---", *map(printable, named), "---"])


def _image(name: str) -> str:
    target = f"media/{quote(name)}"
    if name.endswith(".mp4"):
        return f'<video src="{target}" controls></video>'
    return f"![{plain(name.rpartition('.')[0])}]({target})"


def _results(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "This checkpoint was not evaluated. Evaluate it with `metarl evaluate RUN`."
    measure = plain(entry.get("measure", "return"))
    unit, factor = (" in %", 100) if measure == "accuracy" else ("", 1)
    digits = 4 if measure == "loss" else 2
    rows: list[tuple[Any, ...]] = [
        (step, f"{factor * mean:.{digits}f}", f"± {factor * half:.{digits}f}")
        for step, (mean, half) in enumerate(zip(entry["mean"], entry["interval95"], strict=True))
    ]
    columns = ["adaptation steps", f"mean {measure}{unit}", "95 % interval"]
    if "iqm" in entry:
        columns += ["interquartile mean", "95 % bootstrap interval"]
        pairs = zip(entry["iqm"], entry["iqm_interval95"], strict=True)
        middle = [(f"{x:.2f}", f"[{low:.2f}, {high:.2f}]") for x, (low, high) in pairs]
        rows = [(*row, *more) for row, more in zip(rows, middle, strict=True)]
    # `tasks` is a list in meta-RL, which protocol() omits; otherwise a split or names of tasks.
    settings = {"tasks": "test"} | protocol(entry)
    words = [f"{n.replace('_', ' ')} {plain(v)}" for n, v in settings.items() if v is not False]
    about = f"Evaluated with {', '.join(words)}: {code(entry.get('command', ''))}"
    return f"{about}\n\n{markdown_table(columns, rows)}"


def plain(value: Any) -> str:
    r"""Return a value as one line of Markdown that is displayed as it is, without links and HTML.

    Vertical bars are not escaped; :func:`markdown_table` escapes them.

    Example::

        plain("<b>[x](https://x.org)")  # r"\<b\>\[x\](https\://x.org)"
    """
    return re.sub(r"([\\`*_\[\]<>&~:$]|(?<=[wW]{3})\.)", r"\\\1", printable(str(value)))


def code(text: str) -> str:
    """Return text as inline code in Markdown, whatever it contains.

    Example::

        code("a`b")  # "``a`b``"
    """
    line, marks = printable(text), "`" * (1 + longest_run(text))
    space = " " * (line[:1] == "`" or line[-1:] == "`")
    return f"{marks}{space}{line}{space}{marks}" if line.strip() else ""


def block(text: str) -> str:
    """Return a command line as a code block in Markdown, whatever it contains."""
    marks = "`" * max(3, 1 + longest_run(text))
    return f"{marks}bash\n{printable(text)}\n{marks}"


def longest_run(text: str) -> int:
    """Return the length of the longest sequence of backticks in `text`."""
    return max(map(len, re.findall("`+", text)), default=0)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table in Markdown.

    Args:
        columns: Names of the columns.
        rows: Rows of the table, each with one cell per column.

    Example::

        print(markdown_table(["steps", "return"], [(0, -40.1), (1, -18.2)]))
    """
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([str(cell).replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
