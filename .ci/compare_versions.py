"""Run two versions of metarl on the same commands, and compare their metrics bit for bit.

``python .ci/compare_versions.py --old SITE``

SITE is a folder into which an old wheel was installed (``pip install --no-deps --target SITE``);
the new version is the one that this Python imports. Each trains a few iterations of every case.
Only wall times may differ; what was renamed since is in the tables below. ``--record FILE`` writes
the old version's metrics of the first iteration of some cases instead, for the regression test.

Wheels built before the baseline had scaled features differ from later ones by rounding in meta-RL,
which a trust region and the physics of the robots amplify.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


RENAMED_METRICS: dict[str, str] = {}
"""Names in metrics.jsonl and in evaluations: old to new."""

RENAMED_WORDS = {
    "--inner-loss": "--estimator",
    "metarl/RllabHalfCheetahDir-v0": "metarl/HalfCheetahDir-v0",
    "cheetah-dir": "cheetah-dir-v1",
}
"""Flags and ids on the command line of a case: new to old. A supervised --estimator stays."""

POLICY = shlex.split("--num-tasks 3 --episodes-per-task 4 --hidden 8 8 --iterations 3")
CHEETAH = shlex.split("--num-tasks 2 --episodes-per-task 2 --hidden 8 8 --iterations 2")
SINES = shlex.split("--iterations 4 --log-every 1 --checkpoint-every 2 --validation-tasks 5")
GLYPHS = shlex.split("--iterations 3 --log-every 1 --checkpoint-every 3 --num-tasks 2 --filters 8")
SB3 = shlex.split("--eval-every 1000 --num-envs 2 --episodes 3 --hidden 8 --iterations 2")

RL_METHODS = ("maml-trpo", "vpg-maml", "maml-ppo", "promp", "e-maml", "cavia", "reptile")
RL_FLAGS = {
    "first-order": "--first-order",
    "oracle": "--inner-steps 0 --observe-task",
    "two-steps": "--inner-steps 2 --inner-gae-lambda 0.5",
    "lslr": "--inner lslr",
    "curvature": "--inner meta-curvature",
    "dice": "--inner-loss dice",
    "ratio": "--inner-loss ratio",
    "clipped": "--inner-loss clipped",
    "fisher": "--fisher-fraction 0.5",
}
RL_TASKS = {
    "bandit": "metarl/Bandit-v0",
    "mdp": "metarl/TabularMDP-v0",
    "sparse": "metarl/SparsePoint-v0",
}
ON_SINES = (
    "maml", "fomaml", "reptile", "maml++", "meta-sgd", "lslr", "meta-curvature", "maml-enhanced",
    "anil", "boil", "imaml", "pretrained", "oracle",
)  # fmt: skip
ON_GLYPHS = (*ON_SINES[:-1], "protomaml", "zero-head", "protonet")

CASES: dict[str, list[str]] = {
    **{name: ["train", name, *POLICY] for name in RL_METHODS},
    **{
        f"maml-trpo-{name}": ["train", "maml-trpo", *POLICY, *flags.split()]
        for name, flags in RL_FLAGS.items()
    },
    **{
        f"maml-trpo-{name}": ["train", "maml-trpo", *POLICY, "--env", env]
        for name, env in RL_TASKS.items()
    },
    "cheetah-rllab": ["train", "maml-trpo", *CHEETAH, "--env", "metarl/RllabHalfCheetahDir-v0"],
    "cheetah": ["train", "maml-trpo", *CHEETAH, "--env", "metarl/HalfCheetahDir-v1"],
    "hopper": [
        *("train", "maml-trpo", *CHEETAH, "--env", "metarl/HopperRandParams-v1"),
        *("--inner", "meta-sgd"),
    ],
    **{f"sine-{name}": ["train", "regression", "--method", name, *SINES] for name in ON_SINES},
    **{f"glyphs-{name}": ["train", "fewshot", "--method", name, *GLYPHS] for name in ON_GLYPHS},
    "glyphs-support": ["train", "fewshot", "--bn-mode", "support", *GLYPHS],
    "glyphs-variable": [
        *("train", "fewshot", "--method", "protomaml", "--variable", "--ways", "8", *GLYPHS),
    ],
    "sb3-ppo": ["train", "sb3", *SB3],
    "sb3-sac": ["train", "sb3", "--algo", "sac", *SB3],
    **{
        f"text-{name}": [
            *("train", "text", "--method", name, "--data-root", "../data", "--iterations", "3"),
            *("--encoder", "../encoder", "--held-out", "walls", "--max-length", "8"),
            *("--log-every", "1", "--checkpoint-every", "3", "--validation-tasks", "3"),
        ]
        for name in ("leopard", "protonet", "pretrained")
    },
}
"""Command lines by the name of their run folder, without ``--out``."""

EVALUATED = ("maml-trpo", "cavia", "sine-maml", "glyphs-protomaml")
RECORDED = (*RL_METHODS, "cheetah", *(f"sine-{n}" for n in ON_SINES[:6]), *(
    f"glyphs-{n}" for n in ("maml", "protomaml", "protonet")
), "sb3-ppo")  # fmt: skip
"""Cases of the committed test: tests/first_iterations.json."""

DRIVER = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = ["metarl", *words]
    try:
        runpy.run_module("metarl", run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        if stopped.code:
            sys.exit(f"failed: {' '.join(words)}")
"""


def old_words(words: list[str]) -> list[str]:
    """Return a command line as the old version understands it."""
    return [RENAMED_WORDS.get(word, word) for word in words]


def commands(names: list[str]) -> list[list[str]]:
    """Return the commands of some cases: training, and for a few of them an evaluation."""
    made = []
    for name in names:
        made.append([*CASES[name], "--out", name])
        if name in EVALUATED:
            made.append(["evaluate", name, "--num-tasks", "5"])
    return made


def run(site: Path | None, names: list[str], folder: Path) -> float:
    """Run cases in one process of one version, inside `folder`; return the seconds it took."""
    folder.mkdir()
    words = commands(names)
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if site is not None:
        env["PYTHONPATH"] = str(site.resolve())
        words = [old_words(line) for line in words]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER, json.dumps(words)],
        cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - began


def figures(run_folder: Path) -> list[dict[str, Any]]:
    """Return what a run measured: its lines of metrics without wall times, and its evaluations."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]
    paths = sorted((run_folder / "evaluations").glob("*.json"))
    found = [json.loads(path.read_text()) for path in paths]
    return [*kept, *({k: e[k] for k in ("mean", "interval95")} for e in found)]


def difference(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> str:
    """Return the first difference, or an empty string."""
    if len(old) != len(new):
        return f"{len(old)} lines against {len(new)}"
    for number, (mine, theirs) in enumerate(zip(old, new, strict=True), 1):
        renamed = {RENAMED_METRICS.get(name, name): value for name, value in mine.items()}
        for name in sorted({*renamed, *theirs}):
            before, after = renamed.get(name), theirs.get(name)
            if before != after and not (before != before and after != after):  # NaN
                return f"line {number}, {name}: {before} against {after}"
    return ""


def write_text_data(folder: Path) -> None:
    """Write a small encoder and tasks of colored sentences."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.support import sentences

    sentences.save_documented(folder)


def main() -> int:
    """Compare, print a line for every case, and return 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", type=Path, required=True)
    parser.add_argument("--only", default="", help="regular expression of the cases to run")
    parser.add_argument("--record", type=Path, help="write the first iterations of the old version")
    parser.add_argument("--time", type=int, help="compare the speed instead, in so many pairs")
    args = parser.parse_args()
    names = [name for name in CASES if re.search(args.only, name)]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        if args.time:
            paired_times(args.old, args.time, folder)
            return 0
        write_text_data(folder)
        if args.record:
            run(args.old, [*RECORDED], folder / "old")
            lines = {name: first_iteration(folder / "old" / name) for name in RECORDED}
            args.record.write_text(json.dumps(lines, indent=1) + "\n")
            return 0
        seconds = run(args.old, names, folder / "old"), run(None, names, folder / "new")
        found = {n: difference(*(figures(folder / v / n) for v in ("old", "new"))) for n in names}
    for name, text in found.items():
        print(f"{name:24} {'DIFFERENT: ' + text if text else 'equal'}")
    print(f"old {seconds[0]:.0f} s, new {seconds[1]:.0f} s")
    return int(any(found.values()))


TIMED = {
    "navigation": (
        "train maml-trpo --preset navigation-quick --iterations 6",
        ("time/sampling", "time/update"),
    ),
    "half-cheetah sampling": (
        "train maml-trpo --preset cheetah-dir --num-tasks 10 --iterations 4",
        ("time/sampling",),
    ),
}
"""What ``--time`` compares: a command, and the times whose sum is an iteration's."""


def paired_times(old: Path, rounds: int, folder: Path) -> None:
    """Run both versions in turn, and print the median ratio of the median iterations."""
    for name, (line, keys) in TIMED.items():
        CASES["timed"] = shlex.split(line)
        ratios = []
        for turn in range(rounds):
            seconds = []
            for version, site in (("old", old), ("new", None)):
                place = folder / f"{name}-{version}-{turn}"
                run(site, ["timed"], place)
                lines = (place / "timed/metrics.jsonl").read_text().splitlines()[1:]
                times = [sum(json.loads(each)[key] for key in keys) for each in lines]
                seconds.append(statistics.median(times))
            ratios.append(seconds[1] / seconds[0])
            print(f"{name}: old {seconds[0]:.3f} s, new {seconds[1]:.3f} s", flush=True)
        print(f"{name}: new / old {statistics.median(ratios):.3f} (median of {rounds} pairs)")


def first_iteration(run_folder: Path) -> dict[str, Any]:
    """Return the metrics of the first iteration of a run, under their new names."""
    line = next(line for line in figures(run_folder) if line["iteration"] == 1)
    return {RENAMED_METRICS.get(name, name): value for name, value in line.items()}


if __name__ == "__main__":
    sys.exit(main())
