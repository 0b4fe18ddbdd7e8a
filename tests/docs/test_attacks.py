"""The random attacks of docs/robustness.md run and count failures."""

import shlex
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from metarl.runs import checkpoint
from tests.support import ROOT, attacks
from tests.support.commands import script
from tests.support.pages import block, runs


attack = script(ROOT / ".ci/attack.py")


@pytest.mark.nightly  # .ci/run calls the script for two minutes
@runs("docs/robustness.md", "attack")
def test_every_attack_runs_once_without_failures() -> None:
    words = shlex.split(block("docs/robustness.md", "attack").replace("--minutes 2", ""))
    words = [sys.executable, *words[1:], "--minutes", "0.01", "--seed", "0"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("seed 0, ")
    assert "| attack | number | lost runs | tracebacks | hangs |" in done.stdout


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (attacks.LostRun("promp after 2 kills: different metrics"), "lost runs"),
        (attacks.LostRun("promp exits with 1: Traceback (most recent call last)"), "tracebacks"),
        (AssertionError("['evaluate']: ['first line', 'second line']"), "tracebacks"),
        (KeyError("experiment"), "tracebacks"),
        (AssertionError("it did not end within 300 s"), "hangs"),
        (TimeoutError("resume run did not end within 300 s"), "hangs"),
    ],
)
def test_failures_are_counted_by_kind(error: Exception, kind: str) -> None:
    assert attack.kind_of(error) == kind


def test_a_run_with_different_results_is_lost(whole: Path, copied: Path) -> None:
    attacks._require_equal(whole, copied, "a copy")
    last = max((copied / "checkpoints").iterdir())
    last.write_bytes(last.read_bytes()[:-1] + b"?")
    with pytest.raises(attacks.LostRun, match="a copy: different parameters"):
        attacks._require_equal(whole, copied, "a copy")
    (copied / "metrics.jsonl").write_text("")
    with pytest.raises(attacks.LostRun, match="a copy: different metrics"):
        attacks._require_equal(whole, copied, "a copy")


def test_an_accepted_flipped_bit_is_a_lost_run(
    whole: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = max((copied / "checkpoints").iterdir())
    good = whole / "checkpoints" / last.name
    data = bytearray(last.read_bytes())
    data[-4] ^= 1
    last.write_bytes(data)
    attacks._require_detected(good, last, "a flipped bit")
    monkeypatch.setattr(checkpoint, "_require_whole", lambda *arguments: None)
    attacks._require_detected(good, good, "no flipped bit")
    with pytest.raises(attacks.LostRun, match="a flipped bit: the damaged checkpoint is accepted"):
        attacks._require_detected(good, last, "a flipped bit")


def test_a_partial_checkpoint_is_a_lost_run(copied: Path) -> None:
    attacks._require_whole(copied, "a run")
    last = max((copied / "checkpoints").iterdir())
    last.write_bytes(last.read_bytes()[:-9])
    with pytest.raises(attacks.LostRun, match=rf"a run: .*{last.name} is not a valid"):
        attacks._require_whole(copied, "a run")


def test_every_kind_of_attack_is_repeated_on_a_slow_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attack, "Attacks", lambda folder: Counted())
    monkeypatch.setenv("METARL_CACHE", "")
    rows = attack.attack(0, 0.0, tmp_path)
    assert {number for number, *_ in rows.values()} == {attack.LEAST}


class Counted:
    """Attacks that always succeed."""

    def kill(self, chance: Random) -> int:
        return 1

    flip = lines = kill


def test_a_moment_follows_changes_of_the_run_folder(tmp_path: Path) -> None:
    before = attacks.listing(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/.temporary").touch()
    assert attacks.listing(tmp_path) > before
    (tmp_path / "checkpoints/.temporary").write_bytes(b"half")
    assert (".temporary", 4) in attacks.listing(tmp_path)
