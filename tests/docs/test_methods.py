"""The method pages match the package and the results, and their commands run."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from metarl.experiments import OTHERS, experiments
from metarl.supervised.methods import METHODS
from tests.support import ROOT, nightly
from tests.support.image_data import NO_OMNIGLOT, OMNIGLOT, mini_imagenet
from tests.support.pages import META, OF_METHODS, commands_of, fences, is_code, run_in_small


DOCS = ROOT / "docs"
SIZES = {  # pages that require different sizes
    "maml++": {"fewshot": f"{META} --filters 4 --iterations 5 --checkpoint-every 1"},
    "maml": {"fewshot": f"{META} --filters 4 --ways 2 --queries 1"},
}


@pytest.fixture(scope="module")
def writer() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield importlib.import_module("methods")


def test_method_pages_match_the_package_and_the_results(writer: ModuleType) -> None:
    writer.main(["check"])


def test_every_method_has_a_complete_page(writer: ModuleType) -> None:
    pages = {path.stem for path in (DOCS / "methods").glob("*.md")} - {"index"}
    assert pages == set(writer.page_names())
    ours = {name for name in experiments() if name not in OTHERS}
    assert ours <= {name.partition(" ")[0] for name, *_ in writer.policies()}
    for name in pages:
        text = (DOCS / f"methods/{name}.md").read_text()
        assert len(text.splitlines()) <= 70, name
        assert text.count("$$") >= 2
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Flags", "Published", "Measured"]
        assert [marker in text for marker in ("<!-- flags -->", "<!-- measured -->")] == [
            name in METHODS and name != "maml",
            True,
        ]
        assert any(name in command for command in commands_of(f"docs/methods/{name}.md"))


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
def test_runs_are_assigned_to_the_page_of_their_method(
    writer: ModuleType, command: str, page: str | None
) -> None:
    assert writer.page_of(command) == page


def test_a_table_row_has_the_first_and_last_step_and_the_published_value(
    writer: ModuleType,
) -> None:
    row = {"method": "A", "mean": [-3.0, -2.0, -1.0], "interval95_tasks": [[0.1, 0.2, 0.3]]}
    row |= {"seeds": [0], "measure": "return"}
    result = {"title": "It's 2D: a test", "published": {"A": ["", "−2.5"]}, "rows": [row]}
    link = "[It's 2D: a test](../results-navigation.md#its-2d-a-test)"
    assert writer._line("navigation", result, row) == (
        f"| {link} | A | return | −2.00 ± 0.20 (1 step) | −1.00 ± 0.30 (2 steps) | −2.5 | 1 |"
    )
    row |= {"mean": [0.5], "interval95_tasks": [[0.1]], "measure": "accuracy"}
    assert "| accuracy | 50.00 ± 10.00 % (0 steps) |" in writer._line("navigation", result, row)


QUICK_PAGES = [f"docs/methods/{name}.md" for name in ("maml", "maml-trpo", "protomaml", "anil")]
PAGES = [page for page in OF_METHODS if any(map(is_code, fences(page)))]


@pytest.mark.parametrize("page", [page if page in QUICK_PAGES else nightly(page) for page in PAGES])
def test_the_commands_of_a_page_run_with_small_sizes(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks in order, with generated data; without Omniglot, its blocks are skipped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARL_DATA", "data")
    blocks = [fence for fence in fences(page) if is_code(fence)]
    assert {fence.language for fence in blocks} == {"bash"}
    for command in "".join(fence.text for fence in blocks).splitlines():
        make_data(command, monkeypatch)
        run_in_small(command, SIZES.get(Path(page).stem))


def make_data(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the data of a command to the folder data; Omniglot is used in place."""
    if "--preset omniglot" in command:
        if not OMNIGLOT.is_dir():
            pytest.skip(f"{command} {NO_OMNIGLOT}")
        monkeypatch.setenv("METARL_DATA", str(OMNIGLOT.parent))
    if "--preset mini-imagenet" in command:
        monkeypatch.setenv("METARL_DATA", "data")
        tables = {"train": ["n00", "n01"], "val": ["n02", "n03"], "test": ["n04", "n05"]}
        mini_imagenet(Path("data"), tables)
    if command.startswith("metarl train text"):
        importlib.import_module("tests.support.sentences").save_documented(Path())
