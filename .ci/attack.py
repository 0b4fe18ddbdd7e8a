"""Attack runs at random for some minutes; exit with 1 if a run is lost, or a command is unclear.

``python .ci/attack.py --minutes 2 --seed 0`` repeats the attacks of tests/support/attacks.py in
turn, and prints their numbers and failures. Without ``--seed``, every call attacks differently.
"""

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

from tests.support.attacks import Attacks, LostRun


NAMES = {"kill": "kills", "flip": "flipped bits", "lines": "random command lines"}
LEAST = 3  # attempts of each attack, on a slow machine in more than the given time
KINDS = ("lost runs", "tracebacks", "hangs")


def kind_of(error: BaseException) -> str:
    """Return the column of the table for a failure."""
    if isinstance(error, TimeoutError) or "did not end within" in str(error):
        return "hangs"
    lost = isinstance(error, LostRun) and "Traceback" not in str(error)
    return "lost runs" if lost else "tracebacks"


def attack(seed: int, seconds: float, folder: Path) -> dict[str, list[int]]:
    """Attack for at least a number of seconds; return the numbers of attacks and failures."""
    os.environ["METARL_CACHE"] = str(folder / "cache")
    attacks, counts = Attacks(folder), Counter[str]()
    spent, failures = Counter[str](), defaultdict[str, Counter[str]](Counter)
    begun = time.monotonic()

    def remaining() -> list[str]:
        late = time.monotonic() - begun >= seconds
        return [name for name in NAMES if not late or counts[f"{name} attempts"] < LEAST]

    while names := remaining():
        name = min(names, key=lambda one: spent[one])
        number, start = counts[f"{name} attempts"], time.monotonic()
        try:
            counts[name] += getattr(attacks, name)(random.Random(f"{seed} {name} {number}"))
        except Exception as error:
            failures[name][kind_of(error)] += 1
            print(f"{name} {number}: {''.join(traceback.format_exception(error))}", flush=True)
        counts[f"{name} attempts"] += 1
        spent[name] += time.monotonic() - start
    return {
        title: [counts[name], *(failures[name][kind] for kind in KINDS)]
        for name, title in NAMES.items()
    }


def main() -> None:
    """Parse the command line, attack, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="duration (default: 2)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    args = parser.parse_args()
    print(f"seed {args.seed}, {args.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = attack(args.seed, 60 * args.minutes, Path(folder))
    print(f"| attack | number | {' | '.join(KINDS)} |\n|---|---|---|---|---|")
    for title, row in rows.items():
        print(f"| {title} | {' | '.join(f'{count:,}' for count in row)} |")
    sys.exit(any(sum(failed) for _, *failed in rows.values()))


if __name__ == "__main__":
    main()
