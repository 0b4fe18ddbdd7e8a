"""The documentation: tests run every block, commands parse and links have targets."""

import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, get_type_hints

import pytest

from metarl.commands import cli, compare
from metarl.commands.usage import flag
from metarl.experiments import experiments
from metarl.experiments.supervised_settings import require_compatible
from tests.support import ROOT, pages
from tests.support.pages import Fence, commands_of, fences, is_code, spans


DOCS = ROOT / "docs"
FOLDERS = ("", "methods", "api")
FILES = [path for name in FOLDERS for path in (DOCS / name).glob("*.md")]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in FILES)]
OTHERS = {"--no-deps", "--index-url", "--logdir"}  # flags of other programs
# Placeholders, and their replacements by preceding word.
PLACEHOLDER = re.compile(r"(NAME|ID|METHOD|EXPERIMENT|COMMAND|VERB|N)(,|\.\.\.)?|\.\.\.")
VALUES = {
    "metarl": ["train"], "train": ["maml-trpo"], "EXPERIMENT": [],
    "compare": ["promp", "--out", "DIR"], "--preset": ["navigation-quick"],
    "--method": ["maml"], "--data": ["glyphs"], "--env": ["metarl/Navigation2D-v0"],
}  # fmt: skip
every_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture(scope="module")
def run_by_tests() -> dict[str, set[str]]:
    """Return the blocks that tests declare to run, by page."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if re.search(r"^@runs\(", path.read_text(), re.MULTILINE):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return pages.RUN


@every_page
def test_every_block_is_run_by_a_test(page: str, run_by_tests: dict[str, set[str]]) -> None:
    found = [fence for fence in fences(page) if is_code(fence)]
    assert {fence.name for fence in found} == run_by_tests.get(page, set()) | (
        {None} if found and page in pages.OF_METHODS else set()
    )
    marks = re.findall(r"^\s*(?:`{3,}|~{3,}).*$", (ROOT / page).read_text(), re.MULTILINE)
    assert len(marks) == 2 * len(fences(page)), "a block that is not seen: indented, or of ~~~"


def test_untested_blocks_are_detected() -> None:
    text = "```{toctree}\na\n```\n\n<!-- b -->\n```bash\nls\n```\n```\nmetarl envs\n```\n"
    found = [Fence(*each) for each in pages.FENCE.findall(text)]
    assert [(fence.name, is_code(fence)) for fence in found] == [
        ("", False), ("b", True), ("", True),
    ]  # fmt: skip
    assert is_code(Fence(None, "text", "metarl envs\n"))
    assert not is_code(Fence(None, "text", "return -37.56\n"))


def filled(words: list[str]) -> Iterator[str]:
    """Replace each placeholder by a valid value."""
    for before, word in zip(["", *words], words, strict=False):
        if PLACEHOLDER.fullmatch(word):
            assert before in VALUES, f"what {word} stands for after {before} is not known"
        yield from VALUES[before] if PLACEHOLDER.fullmatch(word) else [word]


def parse(command: str) -> Any:
    """Parse a command line like ``metarl`` without running it; return its settings."""
    words = shlex.split(command.removeprefix("!"), comments=True)
    if words[0] == "torchrun":
        words = ["metarl", *launched(words)]
    verb, *rest = [*filled(words[words.index("metarl") :])][1:]
    assert verb in ("train", "--help", "--version", *cli.VERBS), verb
    if rest[-1:] == ["--help"]:
        assert rest[:-1] == [] or (verb == "train" and rest[:-1][0] in experiments()), rest
        return None
    if not rest or "--import" in rest:  # only the verb is mentioned, or a custom method
        return None
    if verb == "train":
        return completed(rest if "--out" in rest else [*rest, "--out", "DIR"])
    errors = []
    for option in options_of(verb):
        try:
            parsed = cli.parse(option, rest, f"metarl {verb}")
            return parsed if verb != "compare" else compared(parsed)
        except (cli.UsageError, ValueError) as error:
            errors.append(str(error))
    raise AssertionError(f"{command}: {errors}")


def options_of(verb: str) -> list[Any]:
    """Return the options of a command; evaluate and render depend on the run."""
    kinds = [entry.load()[0] for entry in experiments().values()]
    own = {"evaluate": [kind.evaluation for kind in kinds],
           "render": [kind.rendering for kind in kinds]}  # fmt: skip
    return list(dict.fromkeys(own.get(verb) or [cli.VERBS[verb].load([])[0]]))


def launched(words: list[str]) -> list[str]:
    """Return the words after ``torchrun ... -m metarl``, and parse the flags of torchrun."""
    from torch.distributed.run import get_args_parser

    read = get_args_parser().parse_args(words[1:])
    assert (read.module, read.training_script) == (True, "metarl")
    return list(read.training_script_args)


def completed(words: list[str]) -> Any:
    """Complete and validate a configuration like ``metarl train``."""
    _, config, _ = cli.parse_train(words)
    if not hasattr(config, "complete") or getattr(config, "data_root", None):
        return config
    config = config.complete()
    require_compatible(config)
    return config


def compared(args: compare.Compare) -> compare.Compare:
    """Parse the training commands of a comparison."""
    for entry in compare.read_entries(args.methods):
        completed(compare.words_of(args, entry, args.seeds[0]))
        kind, _ = experiments()[entry.experiment].load()
        cli.parse(kind.evaluation, ["RUN", *shlex.split(args.evaluate)], "evaluate")
    return args


@every_page
def test_commands_on_the_pages_parse(page: str) -> None:
    for command in commands_of(page):
        parse(command)


def test_commands_on_the_pages_are_found() -> None:
    assert len(commands_of("docs/quickstart.md")) > 10
    assert sum("torchrun" in command for command in commands_of("docs/scaling.md")) == 2
    pretrained = parse("metarl train maml-trpo --preset navigation-quick --inner-steps 0")
    assert (pretrained.inner_steps, pretrained.hidden) == (0, (64, 64))
    assert parse("torchrun --nproc-per-node 2 -m metarl train promp --epochs 2").epochs == 2


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("evaluate runs/quick --nothing 1", "unknown flag --nothing"),
        ("train promp --nothing 1", "unknown flag"),
        ("train promp --preset nothing", "unknown preset"),
        (
            "train regression --method reptile --inner meta-sgd",
            "cannot learn the hyperparameters of inner=",
        ),
        ("train regression --num-tasks NAME", "what NAME stands for after --num-tasks"),
        ("train regression --method NAME --nonsense 3", "unknown flag --nonsense"),
        ("train nosuch --help", "nosuch"),
        ("nosuch", "nosuch"),
        ('compare "maml-trpo --nonsense" --out DIR', "unknown flag --nonsense"),
        ("compare nosuch --out DIR", "unknown method .*nosuch"),
        ("compare promp --preset nothing --out DIR", "unknown preset"),
        ('compare promp --out DIR --evaluate="--nothing"', "unknown flag --nothing"),
        ("compare ... --nothing 4", "unknown flag --nothing"),
    ],
)
def test_unknown_flags_and_values_are_detected(command: str, expected: str) -> None:
    with pytest.raises((AssertionError, cli.UsageError, ValueError), match=expected):
        parse(f"metarl {command}")


def test_unknown_launcher_flags_are_detected() -> None:
    with pytest.raises(SystemExit):
        parse("torchrun --nothing 4 -m metarl resume RUN")
    with pytest.raises(cli.UsageError, match="unknown flag --nothing"):
        parse("torchrun --nproc-per-node 4 -m metarl train promp --nothing 1")


@cache
def flags() -> frozenset[str]:
    """Return every flag of every command."""
    everything = [options for verb in cli.VERBS for options in options_of(verb)]
    everything += [entry.load()[1] for entry in experiments().values()]
    known = {"--help", "--version", "--debug", "--preset", "--import", "--out", *OTHERS}
    for options in everything:
        hints = get_type_hints(options, include_extras=True)
        for field in fields(options):
            known |= {flag(field.name), flag(f"no_{field.name}")}
            for about in getattr(hints[field.name], "__metadata__", ()):
                known |= set(getattr(about, "aliases", None) or ())
    return frozenset(known)


@every_page
def test_flags_named_on_the_pages_exist(page: str) -> None:
    named = {name for code in spans(page) for name in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)}
    assert named <= flags()


@every_page
def test_python_blocks_parse(page: str) -> None:
    for number, fence in enumerate(fences(page)):
        if fence.language == "python":
            compile(fence.text, f"{page}, block {number}", "exec")


@every_page
def test_links_lead_to_files_and_headings(page: str) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def prose(page: str) -> str:
    """Return the text of a page outside of code blocks, tables, formulas, comments and headings."""
    text = pages.FENCE.sub("", (ROOT / page).read_text())
    text = re.sub(r"\$\$.*?\$\$|<!--.*?-->|!\[.*?\]\(.*?\)", "", text, flags=re.DOTALL)
    return re.sub(r"^\s*\|.*$|^#+ .*$", "", text, flags=re.MULTILINE)


def sentences(text: str) -> list[list[str]]:
    """Return the words of each sentence; list items and paragraphs end a sentence."""
    found = re.split(r"(?<=[.!?])[*_)]*\s+|\n\s*\n|\n\s*[-*\d]+\.? ", text)
    return [sentence.split() for sentence in found if len(sentence.split()) > 1]


@every_page
def test_pages_are_short_and_so_are_their_sentences(page: str) -> None:
    text = prose(page)
    assert len(text.split()) <= 1500
    lengths = [len(sentence) for sentence in sentences(text)]
    assert not lengths or median(lengths) <= 18


def test_prose_and_sentences_are_measured() -> None:
    lengths = [len(words) for words in sentences("One two. Three *four*. Five six\n- six seven")]
    assert lengths == [2, 2, 2, 2]
    assert "metarl evaluate runs/quick" not in prose("docs/quickstart.md")
    assert "A point moves to a goal" in prose("docs/quickstart.md")
