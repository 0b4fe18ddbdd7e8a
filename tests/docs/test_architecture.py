"""The architecture page lists every module, and only existing files."""

import re

from tests.support import ROOT


NAMED = re.findall(r"`([\w/]+\.py)`", (ROOT / "docs/architecture.md").read_text())
FILES = [
    str(path.relative_to(ROOT))
    for folder in ("metarl", "envs", "experiments", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def ends_with(file: str, name: str) -> bool:
    return file == name or file.endswith(f"/{name}")


def test_every_module_is_on_the_page() -> None:
    shipped = [file for file in FILES if not file.startswith("tests/") and "/__" not in file]
    assert shipped
    assert [f for f in shipped if not any(ends_with(f, name) for name in NAMED)] == []


def test_every_file_on_the_page_exists() -> None:
    assert NAMED
    assert [n for n in NAMED if not any(ends_with(file, n) for file in FILES)] == []
