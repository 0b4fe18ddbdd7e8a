"""Changes of public names and signatures are described in CHANGELOG.md."""

import inspect
import re

import pytest

import metarl
from metarl.core import sgd
from tests.support import ROOT
from tests.support.commands import script


api = script(ROOT / ".ci/public_api.py")


def undescribed(before: list[str], after: list[str], changes: str) -> list[str]:
    """Return the changed public names that a section of the changelog does not describe."""
    changed = {line.partition(":")[0] for line in {*before} ^ {*after}}
    named = set(re.findall(r"`([\w.]+)[^`]*`", changes))
    shorter = {name: {name, *(name.split(".", n)[-1] for n in range(1, 9))} for name in changed}
    return sorted(name for name in changed if not shorter[name] & named)


def test_changes_since_the_last_release_are_described() -> None:
    before = (ROOT / "tests/public_api.txt").read_text().splitlines()
    text = (ROOT / "CHANGELOG.md").read_text()
    (changes,) = re.findall(r"^## \[Unreleased\]\n(.*?)^## \[\d", text, re.M | re.S)
    missing = undescribed(before, list(api.entries()), changes)
    assert missing == [], (
        "describe these changes in CHANGELOG.md under Unreleased, with the names in backticks. "
        "After a release, run: python .ci/public_api.py > tests/public_api.txt"
    )


@pytest.mark.parametrize(
    ("after", "changes", "expected"),
    [
        (["a.f: (x)", "a.g: ()"], "", []),
        (["a.f: (x, y=1)", "a.g: ()"], "- `a.g` is faster", ["a.f"]),
        (["a.f: (x, y=1)", "a.g: ()"], "- `f(y=1)` has a new argument", []),
        (["a.f: (x)"], "- f and g", ["a.g"]),
        (["a.f: (x)", "a.g: ()", "a.C.h: (self)"], "- `C.h` is new", []),
    ],
)
def test_additions_removals_and_new_signatures_are_changes(
    after: list[str], changes: str, expected: list[str]
) -> None:
    assert undescribed(["a.f: (x)", "a.g: ()"], after, changes) == expected


def test_the_signature_is_that_of_the_source() -> None:
    lines = list(api.entries())
    assert "metarl.core.sgd: (lr: float | Sequence[float]) -> InnerOptimizer" in lines
    assert list(inspect.signature(sgd).parameters) == ["lr"]
    assert {f"metarl.{name}" for name in metarl.__all__} - {"metarl.envs"} <= {
        line.partition(":")[0] for line in lines
    }


def test_the_changelog_describes_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{metarl.__version__}]" in text
