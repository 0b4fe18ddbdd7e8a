"""``metarl evaluate RUN``: evaluate a run on test tasks."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from metarl.commands.opened import Opened, first_run, opened, require_trusted
from metarl.experiment import Evaluation
from metarl.runs import command as command_line
from metarl.runs import despite_pruning, versions
from metarl.util import print_table, require_writable, say


def command(words: Sequence[str]) -> tuple[type[Evaluation], Callable[[Any], None]]:
    """Return the options dataclass and the main function for the run named on a command line.

    If no run is named, the dataclass only contains the flags that all experiments share.

    Args:
        words: Command-line arguments after ``metarl evaluate``.
    """
    found = first_run(words)
    if found is None:  # --help, or no run folder at all
        return Evaluation, lambda options: main(opened(options.run), options)
    return found.experiment.evaluation, partial(main, found)


def main(named: Opened, options: Any) -> None:
    """Evaluate a run, print the tables and write the results to the run folder.

    Args:
        named: The run and its experiment.
        options: The evaluation flags, an instance of the experiment's ``evaluation`` dataclass.
    """
    began = time.perf_counter()
    require_trusted(named, trust_env=options.trust_env)
    run, trained = named.run, named.experiment.changed(device=options.device)

    def read() -> tuple[list[int], list[Any]]:
        chosen = trained.checkpoints_for(run, options)
        return chosen, [trained.read(run, iteration) for iteration in chosen]

    iterations, metas = despite_pruning(run, read)
    require_writable(run.evaluation_path("new"))
    report = trained.with_options(options).evaluate(metas, options)
    *tables, result = report.tables
    used = ", ".join(map(str, iterations))
    title = f"{options.run}, iteration {used}: {result.title}"
    for table in (*tables, result._replace(title=title)):
        print_table(*table)
    seconds = time.perf_counter() - began
    about = {"command": command_line(), "iteration": max(iterations), "checkpoints": iterations}
    values = about | report.values | {"seconds": round(seconds, 1), "versions": versions()}
    path = run.write_evaluation(f"iteration-{max(iterations)}_{report.name}", values)
    say(f"written to {path} after {seconds:.0f} s")
