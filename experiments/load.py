"""Loading trained models from a folder or from the Hugging Face Hub."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from metarl.core import Params
from metarl.experiments import experiment_of, experiments
from metarl.runs import Run, hub, read_chosen, require_known_module


def load(
    source: str | Path,
    *,
    checkpoint: int | None = None,
    device: str = "auto",
    trust_env: bool = False,
    **options: Any,
) -> Any:
    """Load the trained model of a run, without executing any code from the files of the run.

    Args:
        source: A run folder, a folder written by ``metarl push``, or a
            repository on the Hugging Face Hub, given as ``hub:USER/NAME`` or
            ``hub:USER/NAME@REVISION``.
        checkpoint: Iteration of the checkpoint. Default: the last checkpoint.
        device: Device of the parameters: ``"cpu"``, ``"cuda"`` or ``"auto"``,
            which selects CUDA if it is available and the CPU otherwise.
        trust_env: Whether the module in an environment ID such as
            ``module:Name-v0`` or in an encoder ``module:function`` may be
            imported for a run that was downloaded from the Hugging Face Hub,
            directly or with ``metarl pull``. Not required for runs that were
            trained on this machine or, for environments, if your program has
            already imported this module.
        **options: For policies, `num_tasks`, the number of tasks that the
            policy adapts to at the same time (default: 1), and `episodes`, the
            number of episodes per task and inner step (default: 4000 divided by
            the horizon, rounded down, but at least 1). For text and for images
            with a pretrained encoder, `encoder`, the folder or Hugging Face
            name of the encoder (default: the encoder of the run).

    Returns:
        The meta-model, whose method ``adapt(support)`` returns an adapted model:

        - :class:`~metarl.models.policy.MetaPolicy` for meta-RL,
        - :class:`~metarl.models.classifier.MetaClassifier` for images,
        - :class:`~metarl.models.regressor.MetaRegressor` for regression,
        - :class:`~metarl.models.text.MetaTextClassifier` for text.

    Raises:
        TypeError: If the run does not support an option.
        OSError: If the source contains no run, or the Hugging Face Hub cannot be reached.
        ValueError: If the run is damaged or has no model that adapts. Methods
            that require the simulator raise a ValueError if its module is
            neither imported nor trusted.

    Example::

        policy = metarl.load("runs/quick")
        adapted = policy.adapt(policy.sample_task(seed=0), steps=1)
        adapted.returns  # mean returns before and after the inner step, such as [-38.2, -17.5]
    """
    place = hub.place(str(source))
    local = isinstance(place, Path)
    run = Run.open(place if isinstance(place, Path) else hub.download(place))
    experiment = experiment_of(run).changed(device=device)
    trusted = {"trusted": trust_env, "downloaded": not local}
    experiment.guard = partial(require_known_module, run, experiment.config, **trusted)
    _require_known(experiment, options)
    _, params = read_chosen(run, checkpoint, experiment.read)
    with _default_dtype(getattr(params, "model", {})):
        return experiment.model(params, **options)


def _require_known(experiment: Any, options: dict[str, Any]) -> None:
    """Raise a TypeError if the model of a run does not support one of the `options`."""
    _, *known = inspect.signature(experiment.model).parameters.values()
    names = [option.name for option in known if option.kind is not option.VAR_KEYWORD]
    open_ended = len(names) < len(known)
    if not open_ended and (unknown := options.keys() - names):
        raise TypeError(
            f"`{min(unknown)}` is not supported by runs of `metarl train {experiment.name}`: "
            f"expected {' or '.join(names) or 'no options'}. Remove `{min(unknown)}`"
        )


@contextmanager
def _default_dtype(params: Params) -> Iterator[None]:
    """Build networks in the data type of `params`, independently of torch's default data type."""
    before = torch.get_default_dtype()
    kinds = [value.dtype for value in params.values() if value.is_floating_point()]
    torch.set_default_dtype(kinds[0] if kinds else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def load_adapted(path: str | Path, *, device: str = "auto", trust_env: bool = False) -> Any:
    """Load an adapted model from a file that was written by the method ``save`` of the model.

    The file contains no code. Loading the model requires neither the training
    data nor the environment. As an exception, text classifiers and image
    classifiers with an encoder require the pretrained encoder.

    Args:
        path: Path of the file, such as ``"adapted.safetensors"``.
        device: Device of the parameters: ``"cpu"``, ``"cuda"`` or ``"auto"``,
            which selects CUDA if it is available and the CPU otherwise.
        trust_env: Whether the module of an encoder ``module:function`` may be
            imported, which runs its code.

    Returns:
        The adapted model, such as an
        :class:`~metarl.models.adapted_policy.AdaptedPolicy`. It acts or
        predicts, and can be exported, but cannot adapt further.

    Raises:
        ValueError: If the file is missing, damaged or does not contain an adapted model, or its
            encoder would import a module that is not trusted.

    Example::

        policy = metarl.load("runs/quick")
        policy.adapt(policy.sample_task(seed=0)).save("adapted.safetensors")
        adapted = metarl.load_adapted("adapted.safetensors")
        adapted.act(np.zeros(2, np.float32))  # an action of shape (2,)
    """
    from metarl.models import read_adapted
    from metarl.runs.config import from_json
    from metarl.runs.sharing import encoder_function
    from metarl.util import resolve_device

    saved = read_adapted(path, device=resolve_device(device))
    known = experiments()
    if saved.experiment not in known:
        raise ValueError(
            f"{path} contains a model of the experiment {saved.experiment!r}, which is not "
            f"registered: expected one of {', '.join(known)}. Import the module that registers "
            f"{saved.experiment!r} first"
        )
    kind, config = known[saved.experiment].load()
    chosen = from_json(config, saved.config, Path(path))
    if (function := encoder_function(chosen)) and not trust_env:
        raise ValueError(
            f"the encoder of {path} would import the module {function[0]!r} and run its code. If "
            "you trust the module, set trust_env"
        )
    with _default_dtype(saved.params):
        return kind(chosen).changed(device=device).adapted(saved)
