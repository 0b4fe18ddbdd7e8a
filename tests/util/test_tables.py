"""Tables in a terminal: text is wrapped, and numbers are not."""

import re

import pytest

from metarl.util import print_table


@pytest.mark.parametrize("steps", [2, 4, 11])
def test_wide_tables_are_printed_in_parts(
    steps: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    numbers = [f"-{100 + step}.5 ± 0.12" for step in range(steps)]
    heads = ["method", "seeds", *(f"after {step} steps" for step in range(steps))]
    print_table("returns", heads, [["maml-trpo-inner-meta-sgd-num-tasks-40", "3", *numbers]])
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "returns"
    assert max(map(len, lines)) <= 80
    assert re.findall(r"-\d+\.5 ± 0\.12", "".join(lines)) == numbers
    parts = sum(line.startswith("┏") for line in lines)
    assert parts == {2: 1, 4: 2, 11: 4}[steps]
    assert sum("maml-trpo" in line for line in lines) == parts


def test_headers_are_wrapped_before_a_table_is_divided(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table("a", ["run", "mean return", "success rate"], [["quick", "-4.00", "0.5"]])
    lines = capsys.readouterr().out.splitlines()
    assert sum("┏" in line for line in lines) == 1
    print_table("a", ["run", "mean return", "final success rate"], [["quick", "-4.00", "0.5"]])
    lines = capsys.readouterr().out.splitlines()
    assert sum("┏" in line for line in lines) == 1
    assert max(map(len, lines)) <= 40


@pytest.mark.parametrize("columns", ["30", "40"])
def test_tables_are_complete_in_narrow_terminals(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    print_table("a", ["file", "class", "probability"], [["x" * 50, "z" * 60, "0.1234"]])
    assert capsys.readouterr().out.count("z") == 60
