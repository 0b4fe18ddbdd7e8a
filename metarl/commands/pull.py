"""``metarl pull SOURCE --out DIR``: copy a shared run from the Hugging Face hub or a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metarl.experiments import experiment_of
from metarl.runs import Run, copy, hub, module_of, new_folder, require_inside, trust
from metarl.runs.sharing import TRUSTED
from metarl.util import say


@dataclass(frozen=True)
class Pull:
    """Create a run folder from a shared run, to evaluate, plot and render the shared model.

    Only files that belong to a run are copied, and no code from the source is
    executed. The configuration, the checkpoint, metrics and evaluations are
    validated.
    """

    source: Annotated[str, tyro.conf.Positional]
    """Shared run: hub:USER/NAME, hub:USER/NAME@REVISION, or the path of a folder."""
    out: Path
    """Run folder to create."""
    trust_env: bool = False
    """Trust the custom environment or encoder of the downloaded run: later
    commands import the Python module in its environment ID, such as
    module:Name-v0, or in its encoder module:function, and execute its code. If
    not set, pass --trust-env to every command that requires the module."""


def main(args: Pull) -> None:
    """Download, validate and copy the run."""
    place = hub.place(args.source)
    with new_folder(args.out) as folder:
        if isinstance(place, Path):
            run, origin = Run.open(place), str(place)
            require_inside(run, place)
        else:
            snapshot = hub.download(place)
            run, origin = Run.open(snapshot), str(place._replace(revision=snapshot.name))
            require_inside(run, snapshot.parents[1])  # the cache of the hub links to its blobs
        experiment = experiment_of(run)
        copy(run, experiment.config, None, folder, experiment.copy, pulled_from=origin)
        if args.trust_env:
            trust(Run(folder))
    module = module_of(experiment.config)
    if module not in ("", *TRUSTED) and not args.trust_env:
        say(f"commands do not import the module {module} of this run without --trust-env")
    say(f"written to {args.out}; evaluate with: metarl evaluate {args.out}")
