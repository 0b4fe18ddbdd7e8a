"""Load a trained model from a folder or from the Hugging Face hub."""

from pathlib import Path
from typing import Any

from metarl.experiments import experiment_of
from metarl.runs import Run, hub, require_known_module


def load(
    source: str | Path,
    *,
    checkpoint: int | None = None,
    device: str = "auto",
    trust_env: bool = False,
    **options: Any,
) -> Any:
    """Load the trained policy of a run. Loading never runs code from the files of the run.

    Args:
        source: A run folder, a folder written by ``metarl push``, or a repository of the Hugging
            Face hub: ``hub:USER/NAME`` or ``hub:USER/NAME@REVISION``.
        checkpoint: Iteration of the checkpoint. Default: the last.
        device: Device of the parameters: ``auto``, ``cpu`` or ``cuda``.
        trust_env: Import the module that the environment id names (``module:Name-v0``). It is not
            needed if you have imported the module.
        options: Options of the model. For a policy, `episodes` is the number of episodes of each
            inner step. Default: as many as have 4000 time steps.

    Returns:
        A :class:`~metarl.experiments.policies.MetaPolicy`.

    Raises:
        OSError: If the source contains no run, or the hub cannot be reached.
        ValueError: If the run has no policy that adapts, is damaged, or requires a module that is
            not trusted.

    Example::

        policy = metarl.load("runs/quick")
        adapted = policy.adapt(policy.sample_task(seed=0), steps=1)
        action = adapted.act(observation)
    """
    place = hub.place(str(source))
    run = Run.open(place if isinstance(place, Path) else hub.download(place))
    experiment = experiment_of(run).changed(device=device)
    require_known_module(run, experiment.config, trusted=trust_env)
    params = experiment.read(run, run.choose_checkpoint(checkpoint))
    return experiment.model(params, **options)
