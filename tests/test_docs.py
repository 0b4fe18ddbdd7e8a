"""The documentation: its blocks run, its commands parse, its links lead somewhere."""

import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest
from commands import ROOT, block, metarl, run_in_small

from metarl import cli
from metarl.config import flag
from metarl.core import InnerLoop, Params, tree
from metarl.supervised.methods import METHODS
from metarl.supervised.settings import require_compatible


DOCS = ROOT / "docs"
FOLDERS = ("", "methods", "api")
FILES = [path for name in FOLDERS for path in (DOCS / name).glob("*.md")]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in FILES)]
# Every marked block, and by its page the test that runs it.
MARKED = {
    "README.md": {  # test_readme.py, and .ci/run
        "quick", "tests", "pendulum.py", "own", "few-shot", "example",
    },
    "docs/stable-baselines3.md": {"train", "adapt", "wrap", "fine-tune"},  # test_sb3.py
    "docs/sharing.md": {"push", "pull", "policy"},  # test_sharing.py
    "docs/own-environment.md": {  # test_own_environment.py, test_vector_envs.py
        "playground.py", "train", "commands", "adapt", "async", "batched", "film",
    },
    "docs/guide.md": {"train", "evaluate", "film", "cheetah", "compare", "resume", "long"},
    "docs/own-data.md": {
        "pictures", "train-pictures", "sentences", "encoder", "train-sentences", "family",
        "train-family", "unequal",
    },
    "docs/own-method.md": {"problem", "optimizer", "outer", "gradient", "network", "check"},
}  # fmt: skip
OTHERS = {"--no-deps", "--index-url", "--logdir"}  # flags of other programs
PLACEHOLDER = re.compile(r"(NAME|ID|METHOD|EXPERIMENT|COMMAND|VERB|N)(,|\.\.\.)?|\.\.\.")
TINY = "--num-tasks 2 --episodes-per-task 2"
COMMAND = re.compile(r"(python -m )?metarl ")
every_page = pytest.mark.parametrize("page", PAGES)


def read(page: str) -> str:
    return (ROOT / page).read_text()


def fences(page: str, *languages: str) -> list[str]:
    found = re.findall(r"^```([\w{}-]*)\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def spans(page: str) -> list[str]:
    """Return the code in the text of a page, with the breaks of lines as spaces."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def commands(page: str) -> list[str]:
    blocks = [re.split(r"&&|\n", text) for text in fences(page, "bash", "")]
    lines = [line.strip() for lines in blocks for line in lines] + spans(page)
    return [line for line in lines if COMMAND.match(line)]


def parse(command: str) -> Any:
    """Read a command line as ``metarl`` does, without running it; return its settings."""
    words = shlex.split(command, comments=True)
    words = words[words.index("metarl") + 1 :]
    verb, rest = words[0], words[1:]
    if "--help" in words or not rest or any(PLACEHOLDER.fullmatch(word) for word in words):
        assert verb in ("train", "--help", "--version", *cli.VERBS) or PLACEHOLDER.match(verb)
        return None
    if verb == "train":
        given = rest if "--out" in rest else [*rest, "--out", "DIR"]
        module, config = cli.parse_train(given)
        return completed(module, config)
    options = [cli.VERBS[verb], *(own[verb] for own in cli.OWN_VERBS.values() if verb in own)]
    errors = []
    for option in options:
        try:
            return cli._parse(cli._load(option)[1], rest, f"metarl {verb}")
        except (cli.UsageError, ValueError) as error:
            errors.append(str(error))
    raise AssertionError(f"{command}: {errors}")


def completed(module: ModuleType, config: Any) -> Any:
    """Fill in what a method says, and refuse what would be refused before training."""
    if not hasattr(module, "complete") or getattr(config, "data_root", None):
        return config
    config = module.complete(config)
    require_compatible(config)
    return config


@every_page
def test_commands_are_understood(page: str) -> None:
    for command in commands(page):
        parse(command)


def test_the_test_above_sees_commands_and_refuses_what_does_not_exist() -> None:
    assert len(commands("docs/guide.md")) > 10
    pretrained = parse("metarl train maml-trpo --preset navigation-quick --inner-steps 0")
    assert (pretrained.inner_steps, pretrained.hidden) == (0, (64, 64))
    with pytest.raises(AssertionError, match="Unrecognized options: --nothing"):
        parse("metarl evaluate runs/quick --nothing 1")
    with pytest.raises(cli.UsageError):
        parse("metarl train promp --nothing 1")
    with pytest.raises(ValueError, match="no preset"):
        parse("metarl train promp --preset nothing")
    with pytest.raises(ValueError, match="has no gradient for what --inner meta-sgd learns"):
        parse("metarl train regression --method reptile --inner meta-sgd")


@cache
def flags() -> frozenset[str]:
    """Return every flag of every command."""
    everything = [*cli.VERBS.values(), *cli.EXPERIMENTS.values()]
    everything += [command for own in cli.OWN_VERBS.values() for command in own.values()]
    known = {"--help", "--version", "--debug", "--preset", *OTHERS}
    for command in everything:
        options = cli._load(command)[1]
        hints = get_type_hints(options, include_extras=True)
        for field in fields(options):
            known |= {flag(field.name), flag(f"no_{field.name}")}
            for about in getattr(hints[field.name], "__metadata__", ()):
                known |= set(getattr(about, "aliases", None) or ())
    return frozenset(known)


@every_page
def test_flags_that_are_named_exist(page: str) -> None:
    named = {name for code in spans(page) for name in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)}
    assert named <= flags()


@every_page
def test_python_can_be_read(page: str) -> None:
    for number, text in enumerate(fences(page, "python")):
        compile(text, f"{page}, block {number}", "exec")


@every_page
def test_marked_blocks_are_those_that_tests_run(page: str) -> None:
    found = re.findall(r"<!-- ([\w.-]+) -->\n```", read(page))
    assert sorted(found) == sorted(MARKED.get(page, ()))


@every_page
def test_links_lead_to_files_and_headings(page: str) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", read(page), flags=re.DOTALL)
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


@pytest.fixture(scope="module")
def writer() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield importlib.import_module("methods")


def test_pages_of_methods_are_what_the_package_and_the_results_say(writer: ModuleType) -> None:
    writer.main(["check"])


def test_every_method_has_a_page_with_all_there_is_to_say(writer: ModuleType) -> None:
    pages = {path.stem for path in (DOCS / "methods").glob("*.md")} - {"index"}
    assert pages == set(writer.page_names())
    ours = {name for name in cli.EXPERIMENTS if name not in (*cli.SUPERVISED, "sb3")}
    assert ours <= {name.partition(" ")[0] for name, *_ in writer.POLICIES}
    for name in pages:
        text = read(f"docs/methods/{name}.md")
        assert len(text.splitlines()) <= 60, name
        assert text.count("$$") >= 2
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Flags", "Published", "Measured"]
        assert [marker in text for marker in ("<!-- flags -->", "<!-- measured -->")] == [
            name in METHODS and name != "maml",
            True,
        ]
        assert any(name in command for command in commands(f"docs/methods/{name}.md"))


@pytest.mark.parametrize(
    ("command", "page"),
    [
        ("metarl train regression --preset sinusoid-paper --method lslr --out DIR", "lslr"),
        ("metarl train fewshot --preset omniglot-maml++ --out DIR", "maml++"),
        ("metarl train maml-trpo --inner-steps 0 --out DIR", "pretrained"),
        ("metarl train maml-trpo --inner-steps 0 --observe-task --out DIR", "oracle"),
        ("metarl train maml-trpo --first-order --out DIR", "fomaml"),
        ("metarl train maml-trpo --inner meta-sgd --out DIR", "meta-sgd"),
        ("metarl train promp --out DIR", "promp"),
        ("metarl train sb3 --out DIR", None),
    ],
)
def test_a_run_belongs_to_the_page_of_its_method(
    writer: ModuleType, command: str, page: str | None
) -> None:
    assert writer.page_of(command) == page


def test_a_measured_line_has_the_first_and_the_last_step_and_what_was_published(
    writer: ModuleType,
) -> None:
    row = {"method": "A", "mean": [-3.0, -2.0, -1.0], "interval95_tasks": [[0.1, 0.2, 0.3]]}
    row |= {"seeds": [0], "measure": "return"}
    result = {"title": "It's 2D: a test", "published": {"A": ["", "−2.5"]}, "rows": [row]}
    assert writer._line(result, row) == (
        "- [It's 2D: a test](../results.md#its-2d-a-test), A: return after 1 step −2.00 ± 0.20, "
        "after 2 steps −1.00 ± 0.30 (1 seed; published −2.5)."
    )
    row |= {"mean": [0.5], "interval95_tasks": [[0.1]], "measure": "accuracy"}
    assert "accuracy 50.00 ± 10.00 %, without a step (1 seed)" in writer._line(result, row)


@pytest.mark.slow
def test_the_guide_runs_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word but for the sizes."""
    for module in ("matplotlib", "imageio"):
        pytest.importorskip(module, reason="pip install 'metarl-torch[all]'")
    monkeypatch.chdir(tmp_path)
    small = {
        "train": f"{TINY} --iterations 2",
        "evaluate": TINY,
        "plot": "",
        "render": "--episodes-per-task 3 --inner-steps 1",
        "resume": "",
    }
    for name in ("train", "evaluate", "film"):
        run_in_small(block("docs/guide.md", name), small)
    assert {path.name for path in Path("runs/quick/media").iterdir()} == {
        "curves.png", "paths.png", "paths.mp4",
    }  # fmt: skip
    resume = block("docs/guide.md", "resume")
    assert "--iterations 60" in resume
    run_in_small(resume.replace("--iterations 60", "--iterations 3"), small)


@pytest.mark.slow
def test_the_long_run_of_the_guide_keeps_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'metarl-torch[track]'")
    monkeypatch.chdir(tmp_path)
    long, board = block("docs/guide.md", "long").strip().splitlines()
    run_in_small(long, {"train": f"{TINY} --iterations 20 --hidden 4"})
    assert board == "tensorboard --logdir runs/long/tracking"
    assert list(Path("runs/long/tracking").iterdir())
    kept = sorted(path.stem for path in Path("runs/long/checkpoints").iterdir())
    assert kept == ["00000000", "00000010", "00000015", "00000020"]


@pytest.mark.slow
def test_the_half_cheetah_of_the_guide_is_filmed_in_small(
    egl: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imageio", reason="pip install 'metarl-torch[all]'")
    monkeypatch.chdir(tmp_path)
    small = {"train": f"{TINY} --iterations 1", "render": "--episodes-per-task 2"}
    run_in_small(block("docs/guide.md", "cheetah"), small)
    assert Path("runs/cheetah/media/backwards.mp4").exists()
    metarl("resume", "runs/cheetah")


@pytest.mark.slow
def test_the_comparison_of_the_guide_runs_in_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    monkeypatch.chdir(tmp_path)
    command = block("docs/guide.md", "compare")
    assert "--seeds 0 1 2" in command
    small = {"compare": f"--iterations 1 --evaluate='{TINY} --inner-steps 1'"}
    run_in_small(command.replace("--seeds 0 1 2", "--seeds 0"), small)
    assert Path("runs/compare/table.md").exists()


def test_the_page_on_own_methods_runs_from_top_to_bottom(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Word for word but for the number of iterations; the last block checks a meta-gradient."""
    problem = block("docs/own-method.md", "problem")
    assert "ITERATIONS = 200\n" in problem
    scope: dict[str, Any] = {}
    exec(problem.replace("ITERATIONS = 200\n", "ITERATIONS = 2\n"), scope)
    for name in ("optimizer", "outer", "gradient", "network", "check"):
        exec(block("docs/own-method.md", name), scope)
    assert capsys.readouterr().out.count("after adaptation") == 5
    meta = scope["ball"].init(scope["params"])
    assert set(meta.inner) == {f"{k}.{n}" for k in ("lr", "momentum") for n in scope["params"]}
    momentum_is_used(scope)


def momentum_is_used(scope: dict[str, Any]) -> None:
    """Two steps on the loss ½p² from p = 1, with a rate of 0.1 and a momentum of 0.5."""
    import torch

    def loss(params: Params, batch: Any) -> Any:
        return 0.5 * (params["p"] ** 2).sum()

    loop = InnerLoop(loss, scope["heavy_ball"](0.1, 0.5), num_steps=2)
    adapted = loop.adapt(loop.init({"p": torch.ones(1)}), ((torch.zeros(1),),))
    torch.testing.assert_close(adapted["p"], torch.tensor([0.9 - 0.1 * (0.5 + 0.9)]))


def test_the_family_of_own_data_is_learned(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    exec(block("docs/own-data.md", "family"), scope)
    train = block("docs/own-data.md", "train-family")
    assert "ITERATIONS = 300\n" in train
    exec(train.replace("ITERATIONS = 300\n", "ITERATIONS = 20\n"), scope)
    exec(block("docs/own-data.md", "unequal"), scope)
    assert capsys.readouterr().out.count("after ") == 4
    before, after = scope["curves"].mean("loss")[[0, 3]]
    assert after < before
    assert tree.norm(tree.add(scope["adapted"], scope["state"].params.model, scale=-1.0)) > 0


@pytest.mark.slow
def test_own_pictures_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL", reason="pip install 'metarl-torch[vision]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "cache"))
    exec(block("docs/own-data.md", "pictures"), {})
    small = {"fewshot": "--iterations 2 --checkpoint-every 2 --log-every 1 --mode eager "
                        "--validation-tasks 2", "evaluate": "--num-tasks 2"}  # fmt: skip
    run_in_small(block("docs/own-data.md", "train-pictures"), small)


@pytest.mark.slow
def test_own_sentences_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="pip install 'metarl-torch[text]'")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for name in ("sentences", "encoder"):
        exec(block("docs/own-data.md", name), scope)
    small = {"text": "--iterations 2 --checkpoint-every 2 --log-every 1 --validation-tasks 2",
             "evaluate": ""}  # fmt: skip
    run_in_small(block("docs/own-data.md", "train-sentences"), small)
