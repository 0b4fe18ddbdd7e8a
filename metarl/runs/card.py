"""Model cards: what a shared run is, how good it is and how to use it, as a README for the hub."""

import json
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from metarl.runs.folder import Run


HOME = "https://github.com/metarl/metarl"


class Subject(NamedTuple):
    """What a card is about.

    Attributes:
        method: Its name.
        paper: Where the method comes from.
        what: The environment or the data that it was trained on.
        family: ``reinforcement-learning``, or ``few-shot-learning`` and the like: a tag.
        adapts: Whether it is a policy that ``metarl.load`` returns.
        shows: The verb that draws it, ``render`` or ``plot``.
    """

    method: str
    paper: str
    what: str
    family: str
    adapts: bool
    shows: str


def card(run: Run, iteration: int, subject: Subject, *, place: str, license: str | None) -> str:
    """Return the model card of a shared run, as Markdown.

    Args:
        run: The copy that is shared.
        iteration: That of its checkpoint.
        subject: What it is about.
        place: Where `metarl pull` finds it.
        license: An identifier such as ``mit``; None leaves it open.
    """
    about = run.read_config()
    parts = [
        _front(subject, license),
        f"# {subject.method} on {subject.what}",
        f"Trained with [metarl]({HOME}), gradient-based meta-learning on PyTorch. Method: "
        f"{subject.method} ({subject.paper}). This is the checkpoint of iteration {iteration}.",
        *_media(run.folder / "media"),
        "## Results",
        _results(run, iteration),
        "## Use it",
        _use(subject, place),
        "## How it was trained",
        f"```bash\n{about.get('command', '')}\n```",
        *(f"Changed later by `{command}`." for command in about.get("changed_by", [])),
        _table(["package", "version"], about.get("versions", {}).items()),
        "Settings:",
        _table(["setting", "value"], _settings(about["config"])),
    ]
    return "\n\n".join(parts) + "\n"


def newest_evaluation(run: Run, iteration: int) -> dict[str, Any] | None:
    """Return the newest evaluation of a checkpoint, if there is one."""
    return next((e for e in run.evaluations() if e["iteration"] == iteration), None)


def _front(subject: Subject, license: str | None) -> str:
    """Return the metadata that the hub reads; JSON strings are YAML."""
    policy = subject.family == "reinforcement-learning"
    tags = ["metarl", "meta-learning", subject.family, subject.method.partition(" ")[0]]
    tags += [subject.what] if policy else []
    lines = ["library_name: metarl"]
    lines += [f"license: {json.dumps(license)}"] if license else []
    lines += ["pipeline_tag: reinforcement-learning"] if policy else []
    lines += ["tags:", *(f"- {json.dumps(tag, ensure_ascii=False)}" for tag in tags)]
    return "\n".join(["---", *lines, "---"])


def _media(folder: Path) -> list[str]:
    shown = []
    for path in sorted(folder.iterdir()):
        target = f"media/{quote(path.name)}"
        video = path.suffix == ".mp4"
        shown.append(f'<video src="{target}" controls></video>' if video
                     else f"![{path.stem}]({target})")  # fmt: skip
    return shown


def _results(run: Run, iteration: int) -> str:
    entry = newest_evaluation(run, iteration)
    if entry is None:
        return "This checkpoint was not evaluated: `metarl evaluate RUN`."
    measure = str(entry.get("measure", "return"))
    unit, factor = (" in %", 100) if measure == "accuracy" else ("", 1)
    digits = 4 if measure == "loss" else 2
    rows = [
        (step, f"{factor * mean:.{digits}f}", f"± {factor * half:.{digits}f}")
        for step, (mean, half) in enumerate(zip(entry["mean"], entry["interval95"], strict=True))
    ]
    columns = ["adaptation steps", f"mean {measure}{unit}", "95 % interval"]
    return f"{_protocol(entry)}\n\n{_table(columns, rows)}"


def _protocol(entry: dict[str, Any]) -> str:
    """Say on what an evaluation was made."""
    of = entry.get("tasks")  # of meta-RL the tasks themselves, of text their names
    words = [f"{entry['num_tasks']} {of if of in ('validation', 'train') else 'test'} tasks"]
    words += [f"which are {of}"] if "samples" in entry else []
    steps = " before and after each step" if len(entry["mean"]) > 1 else ""
    named = {
        "episodes_per_task": f"{{}} episodes of each{steps}",
        "num_ways": "{} classes",
        "num_shots": "{} shots",
        "samples": "{} support samples",
        "inner_lr": "first step size {}",
    }
    words += [text.format(entry[n]) for n, text in named.items() if entry.get(n) is not None]
    return f"On {', '.join(words)}, seed {entry['seed']}: `{entry.get('command', '')}`"


def _use(subject: Subject, place: str) -> str:
    text = (
        f"With [metarl]({HOME}) and its extra `hub` installed:\n\n```bash\n"
        f"metarl pull {place} --out runs/pulled\nmetarl evaluate runs/pulled\n"
        f"metarl {subject.shows} runs/pulled --out runs/pulled/media/picture.png\n```"
    )
    if not subject.adapts:
        return text
    code = (
        "import metarl\n\n"
        f"policy = metarl.load({json.dumps(place)})\n"
        "task = policy.sample_task(seed=0)\n"
        "adapted = policy.adapt(task, steps=1)\n"
        'print("return before and after:", adapted.returns)\n'
        "# adapted.act(observation) is an action, adapted.to_sb3() a policy of Stable-Baselines3"
    )
    return f"{text}\n\nor in Python:\n\n```python\n{code}\n```"


def _settings(config: dict[str, Any]) -> list[tuple[str, str]]:
    return [(f"`{name}`", f"`{json.dumps(value)}`") for name, value in sorted(config.items())]


def _table(columns: list[str], rows: Any) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([str(cell).replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
