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
    """Load a trained policy that `metarl train` or `metarl push` wrote; no code of its files runs.

    Args:
        source: A folder, or a repository of the hub: ``hub:USER/NAME`` or
            ``hub:USER/NAME@REVISION``, which goes into the hub's cache.
        checkpoint: Iteration of the checkpoint, by default the last.
        device: Where to put it: ``auto``, ``cpu`` or ``cuda``.
        trust_env: Import the module that its environment names. Importing it yourself before has
            the same effect.
        options: Of the model. Of a policy: `episodes` of each inner step, by default as many as
            have 4,000 time steps.

    Returns:
        A :class:`~metarl.experiments.policies.MetaPolicy`.

    Raises:
        OSError: If there is no run, or the hub cannot be reached.
        ValueError: If it does not adapt, is damaged, or would import a module.

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
