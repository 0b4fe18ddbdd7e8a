"""Take in a run from the Hugging Face hub or a folder: ``metarl pull hub:USER/NAME --out DIR``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metarl.experiments import experiment_of
from metarl.runs import Run, copy, hub, new_folder, require_inside, require_known_module


@dataclass(frozen=True)
class Pull:
    """Make a run folder of a run that somebody shared; it is evaluated and drawn like your own.

    Only files of a run are taken, and read before they are written. No code of theirs is run.
    """

    source: Annotated[str, tyro.conf.Positional]
    """Where it is: hub:USER/NAME or hub:USER/NAME@REVISION, all else is a folder."""
    out: Path
    """Run folder to make."""
    trust_env: bool = False
    """Take a run whose environment is in a module of its own, module:Name-v0: commands on the run
    will import that module."""


def main(args: Pull) -> None:
    """Download, check and write."""
    place = hub.place(args.source)
    with new_folder(args.out) as folder:
        if isinstance(place, Path):
            run, origin = Run.open(place), str(place)
            require_inside(run, place)
        else:
            snapshot = hub.download(place)
            run, origin = Run.open(snapshot), str(place._replace(revision=snapshot.name))
            require_inside(run, snapshot.parents[1])  # links to the blobs of the same repository
        experiment = experiment_of(run)
        require_known_module(run, experiment.config, trusted=args.trust_env)
        last = run.choose_checkpoint(None)
        copy(run, experiment.config, last, folder, experiment.copy, pulled_from=origin)
    print(f"written to {args.out}; see it with: metarl evaluate {args.out}")
