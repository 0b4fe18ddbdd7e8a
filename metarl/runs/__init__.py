"""Run folders: configuration, checkpoints, metrics, experiment tracking and sharing.

- :class:`Run` reads and writes a run folder: metrics, checkpoints and evaluations.
- :class:`RunConfig` has the settings that all experiments share; :func:`read_config` loads the
  settings of a run.
- :class:`Journal` writes metrics, checkpoints and figures during training, and raises
  :class:`Stopped` after a stop signal.
- :class:`Checkpoint` has the contents of a checkpoint; :func:`load_checkpoint` loads a checkpoint
  without running code.
- :class:`Tracker` is the interface of experiment trackers such as TensorBoard.
- :func:`protocol` returns the settings that make two evaluations comparable.
- :func:`copy` copies a run for sharing.

Example::

    from pathlib import Path

    import torch

    from metarl.runs import Journal, Run, RunConfig, to_json

    def save(run, iteration, state):
        torch.save(state, run.folder / "state.pt")

    config = RunConfig(iterations=3)
    with Run.create(Path("runs/demo"), "demo", to_json(config)) as run:
        with Journal(run, config, start=0, save=save) as journal:
            for iteration in journal.iterations():
                with journal.collecting({}):
                    tasks = torch.ones(iteration)
                metrics = {"loss": 1 / tasks.sum()}
                journal.write(iteration, {}, metrics)
    print(Run.open(Path("runs/demo")).metrics()[-1])
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
