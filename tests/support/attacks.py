"""Random attacks on runs: kills, flipped bits in run folders and random command lines.

``.ci/attack.py`` repeats the attacks for some minutes. Every attempt has a random generator, so
that the same seed gives the same attacks; only the moments of kills depend on the machine's speed.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from metarl.commands import cli
from metarl.experiments import experiments
from metarl.runs import checkpoint
from tests.commands.test_robust_commands import QUICK, flags_of, small
from tests.support import ranks
from tests.support.commands import checkpoints, history
from tests.support.robustness import SECONDS, contents, copied, end_of
from tests.support.sentences import save_documented


KILLS = 3  # of one run, at most
SIGNALS = [*[signal.SIGKILL] * 4, signal.SIGTERM, signal.SIGINT]
WRITES = 12  # changes of a run folder, of which a kill follows one
LINES = 10  # command lines of one attempt
SHORT = ["--iterations", 6, "--checkpoint-every", 2]
RL = ["--num-tasks", 2, "--episodes-per-task", 2, "--hidden", 3]
BANDIT = ["--env", "metarl/Bandit-v0"]
VARIANTS: dict[str, list[Any]] = {
    "rl2": ["rl2", *RL, *BANDIT, "--network", "gru", "--memory", 4],
    "attention": ["rl2", *RL, *BANDIT, "--network", "attention", "--memory", 4],
    "in processes": ["vpg-maml", *RL, "--vectorization", "async"],
}


class LostRun(Exception):
    """Error if a run cannot be resumed, or differs from an uninterrupted run."""


class Attacks:
    """Attacks on short runs of all experiments.

    Args:
        folder: An empty folder for the runs.
    """

    def __init__(self, folder: Path) -> None:
        """Write the data of text runs; runs are trained when they are first attacked."""
        self._folder, data = folder, folder / "data"
        data.mkdir()
        save_documented(data)
        text = ["text", "--data-root", data / "data", "--encoder", data / "encoder", "--shots", 2]
        text += ["--top-layers", 1, "--queries", 2, "--num-tasks", 2, "--log-every", 1]
        rest = {name: [name, *RL, *BANDIT] for name in experiments()}
        rest |= {name: small(name) for name in ("sb3", "regression", "fewshot")}
        rest |= VARIANTS | {"text": text}
        self._words = {name: ["train", *words, *SHORT] for name, words in rest.items()}
        self._seconds: dict[str, float] = {}

    def whole(self, name: str) -> Path:
        """Return the folder of an uninterrupted run."""
        out, begun = self._folder / name, time.monotonic()
        if not out.exists():
            code, printed = ended([*self._words[name], "--out", out], out.with_suffix(".txt"))
            if code:
                raise LostRun(f"{name} exits with {code}: {printed}")
            self._seconds[name] = time.monotonic() - begun
        return out

    def kill(self, chance: Random) -> int:
        """Kill a run at random moments and resume it; return the number of kills."""
        name = chance.choice(sorted(self._words))
        whole, out = self.whole(name), self._folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        kills = chance.randint(1, KILLS)
        for number in range(kills + 1):
            argv = [*self._words[name], "--out", out]
            if (out / "config.json").exists():
                argv = ["resume", out]
            by, last = chance.choice(SIGNALS), number == kills
            moment = None if last else self._moment(chance, name, out)
            code, printed = ended(argv, out.with_suffix(".txt"), moment, by)
            if code not in ({0} if last else {0, -by, 128 + by}):
                raise LostRun(
                    f"{name}, {argv[0]} after {number} kills exits with {code}: {printed}"
                )
            _require_whole(out, f"{name} after {number + 1} kills")
        _require_equal(whole, out, f"{name} after {kills} kills")
        return kills

    def _moment(self, chance: Random, name: str, out: Path) -> Callable[[], bool]:
        """Return a function that returns True from the moment of a kill on.

        Half of the moments are uniformly distributed over the duration of the run. The others
        follow a change in the run folder, because files are written in a small part of the time.
        """
        if chance.random() < 0.5:
            end = chance.random() * self._seconds[name] + time.monotonic()
            return lambda: time.monotonic() > end
        changes, before = chance.randint(1, WRITES), listing(out)

        def changed() -> bool:
            nonlocal changes, before
            found = listing(out)
            changes, before = changes - (found != before), found
            return changes <= 0

        return changed

    def flip(self, chance: Random) -> int:
        """Flip a bit in a file of a run, and run a command; return 1."""
        name = chance.choice(sorted(self._words))
        whole = self.whole(name)
        run = copied(whole)
        file = chance.choice(sorted(p for p in run.rglob("*") if p.is_file() and p.stat().st_size))
        data = bytearray(file.read_bytes())
        place = chance.randrange(len(data))
        data[place] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        where = f"{name}, a flipped bit in byte {place} of {file.relative_to(run)}"
        if file.suffix == ".safetensors":
            _require_detected(whole / file.relative_to(run), file, where)
        before, other = contents(run), run.with_name("other")
        shutil.rmtree(other, ignore_errors=True)
        tasks = ["--tasks", "airline", "--samples", 1] if name == "text" else ["--num-tasks", 2]
        verb, *rest = chance.choice([
            ["evaluate", *tasks], ["resume"], ["plot", "--out", run.with_name("plot.svg")],
            ["push", other, "--no-picture"], ["pull", "--out", other],
        ])  # fmt: skip
        where = f"{where}, {verb}"
        with _described(where):
            done = end_of(verb, run, *rest)
        if verb != "resume" or done.code:
            if not before.items() <= contents(run).items():
                raise LostRun(f"{where}: files changed")
        elif file.parent.name == "checkpoints":
            _require_equal(whole, run, where)
        return 1

    def lines(self, chance: Random) -> int:
        """Run random command lines; return their number."""
        words = list[list[str]]()

        @seed(chance.getrandbits(64))
        @settings(
            max_examples=LINES, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(data=st.data())
        def run(data: st.DataObject) -> None:
            words.append([])
            self._line(data, words[-1])

        with _described(lambda: " ".join(words[-1])):
            run()
        return len(words)

    def _line(self, data: st.DataObject, words: list[str]) -> None:
        """Run one command line, whose words are added to `words`; files must not be changed."""
        verb = data.draw(st.sampled_from(["train", "evaluate", "resume", "plot", "push", "envs"]))
        if verb == "train":
            name = data.draw(st.sampled_from(QUICK))
            words += ["train", *map(str, small(name)), *data.draw(flags_of(_options(name)))]
            out = self._folder / "trained"
            shutil.rmtree(out, ignore_errors=True)
            done = end_of(*words, "--out", out)
            if done.code and out.exists():
                raise LostRun("files remain after an error")
            return
        run = self.whole(data.draw(st.sampled_from(sorted(self._words))))
        before, new = contents(run), self._folder / "new"
        shutil.rmtree(new, ignore_errors=True)
        words += [verb, *([] if verb == "envs" else [str(run)]), *([str(new)] * (verb == "push"))]
        words += data.draw(flags_of(cli.VERBS[verb].load(words[1:])[0]))
        words += {"plot": ["--out", f"{new}.svg"], "resume": ["--iterations", "1"]}.get(verb, [])
        words += ["--num-tasks", "2"] if verb == "evaluate" and run.name != "text" else []
        end_of(*words)
        if contents(run) != before:
            raise LostRun("files of the run changed")


def _options(name: str) -> Any:
    return experiments()[name].load()[1]


@contextlib.contextmanager
def _described(where: Any) -> Any:
    """Add a description of the attack to errors."""
    try:
        yield
    except BaseException as error:
        error.add_note(where if isinstance(where, str) else where())
        raise


def _require_equal(whole: Path, run: Path, where: str) -> None:
    """Raise LostRun if the metrics or the last checkpoints of two runs differ."""
    if history(run) != history(whole):
        raise LostRun(f"{where}: different metrics")
    name = max(checkpoints(whole))
    if name.endswith(".safetensors") and checkpoints(run).get(name) != checkpoints(whole)[name]:
        raise LostRun(f"{where}: different parameters")


def _require_detected(good: Path, damaged: Path, where: str) -> None:
    """Raise LostRun if a damaged checkpoint is accepted with different tensors."""
    try:
        found, expected = checkpoint.load(damaged), checkpoint.load(good)
    except ValueError:
        return
    groups = [(*saved.params, saved.optimizer, saved.own) for saved in (found, expected)]
    for mine, theirs in zip(*groups, strict=True):
        if mine.keys() != theirs.keys() or any(not mine[n].equal(theirs[n]) for n in mine):
            raise LostRun(f"{where}: the damaged checkpoint is accepted")


def _require_whole(run: Path, where: str) -> None:
    """Raise LostRun if a checkpoint was written in part; resume would use the previous one."""
    for path in run.glob("checkpoints/[0-9]*.safetensors"):
        try:
            checkpoint.load(path)
        except ValueError as error:
            raise LostRun(f"{where}: {error}") from None


def listing(run: Path) -> set[tuple[str, int]]:
    """Return the names and sizes of all files of a run."""
    found = set()
    for path in (*run.glob("*"), *run.glob("checkpoints/*")):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_size))
    return found


def _command(argv: list[str], output: Path) -> None:
    """Run a command line in a separate process, and write everything that it prints to a file."""
    for number in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # workers start fast
    output.with_suffix(".started").touch()
    cli.main(argv)


def ended(
    words: list[Any],
    output: Path,
    moment: Callable[[], bool] | None = None,
    by: int = signal.SIGKILL,
) -> tuple[int, str]:
    """Run a command line in a new process; return its exit status and what it printed.

    Args:
        words: Command-line arguments.
        output: File for what the command prints.
        moment: Function that returns True from the moment of the signal on; None sends no signal.
        by: The signal.

    Raises:
        TimeoutError: If the command does not end in time.
    """
    started = output.with_suffix(".started")
    output.unlink(missing_ok=True), started.unlink(missing_ok=True)
    argv = [str(word) for word in words]
    process = ranks.processes().Process(target=_command, args=(argv, output))
    process.start()
    while not started.exists() and process.is_alive():
        time.sleep(0.002)
    while moment is not None and process.is_alive():
        if moment():
            os.kill(process.pid, by)
            break
        time.sleep(0.001)
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{' '.join(argv)} did not end within {SECONDS} s")
    return process.exitcode, output.read_text() if output.exists() else ""
