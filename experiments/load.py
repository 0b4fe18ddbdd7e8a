"""Loading trained policies from a folder or from the Hugging Face Hub."""

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
    """Load the trained policy of a run, without executing any code from the files of the run.

    Args:
        source: A run folder, a folder written by ``metarl push``, or a
            repository on the Hugging Face Hub, given as ``hub:USER/NAME`` or
            ``hub:USER/NAME@REVISION``.
        checkpoint: Iteration of the checkpoint. Default: the last checkpoint.
        device: Device of the parameters: ``"cpu"``, ``"cuda"`` or ``"auto"``,
            which selects CUDA if it is available and the CPU otherwise.
        trust_env: Whether to import the module in an environment ID such as
            ``module:Name-v0``. Not required if your program has already
            imported this module.
        options: `num_tasks`, the number of tasks that the policy adapts to at
            the same time (default: 1), and `episodes`, the number of episodes
            per task and inner step (default: as many episodes as have 4000
            time steps in total).

    Returns:
        A :class:`~metarl.experiments.policies.MetaPolicy`.

    Raises:
        OSError: If the source contains no run, or the Hugging Face Hub cannot be reached.
        ValueError: If the run is damaged, has no policy that adapts, or has
            an environment whose module is neither imported nor trusted.

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
