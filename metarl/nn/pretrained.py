"""Loading of pretrained Hugging Face models, without code from the model repository."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metarl.util import damage, optional


def transformers(*, extra: str, purpose: str) -> Any:
    """Import and return the package ``transformers``, without its progress bars.

    Args:
        extra: Extra of metarl-torch that installs the package.
        purpose: Feature that requires the package, as a plural noun.

    Raises:
        ImportError: If the package is not installed. The message contains the install command.
    """
    hub = optional.require("transformers", extra=extra, purpose=purpose)
    hub.utils.logging.disable_progress_bar()
    return hub


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Shorten the errors of ``transformers`` in a ``with`` block that loads the encoder `name`.

    Raises:
        OSError: If the block raises an error, except for missing packages and exhausted memory.
    """
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # damaged files can raise any error
        reason = damage(Path(place_of(name)), error)
        raise OSError(
            f"cannot load encoder {name!r} ({reason}): expected a folder or a Hugging Face model. "
            "Replace damaged files"
        ) from None


def place_of(name: str) -> str:
    """Return the path of a local folder, or the name of a model repository unchanged."""
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


def load_model(hub: Any, place: str) -> Any:
    """Load the weights of a model, in evaluation mode, with attention that has second derivatives.

    Only safetensors weights are loaded, and code from the model repository is never executed.

    Args:
        hub: The package from :func:`transformers`.
        place: Path of a local folder, or name of a model repository on the Hugging Face hub.

    Returns:
        The model, without a pooler that has parameters: such a pooler is for a different task, and
        unused parameters must not be learned.

    Raises:
        ValueError: If weights are missing or not finite. ``transformers`` initializes missing
            weights randomly.
    """
    logs = hub.utils.logging
    before = logs.get_verbosity()
    logs.set_verbosity_error()  # a table of the missing weights
    try:
        model, report = hub.AutoModel.from_pretrained(
            place,
            attn_implementation="eager",  # fused kernels have no second derivative
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    finally:
        logs.set_verbosity(before)
    pooler = getattr(model, "pooler", None)
    if pooler is not None and any(True for _ in pooler.parameters()):
        model.pooler = None
    for name, x in model.state_dict().items():
        if x.is_floating_point() and (name in report["missing_keys"] or not x.isfinite().all()):
            raise ValueError(f"the weights {name} are missing or not finite")
    return model.eval()


def layers_of(model: Any) -> tuple[str, nn.ModuleList]:
    """Return ``(name, layers)``: the dotted name and the list of all layers of a loaded model.

    The layers of a ResNet are its stages.

    Raises:
        ValueError: If the model has no list of layers.
    """
    depths = getattr(model.config, "depths", ())
    number = getattr(model.config, "num_hidden_layers", None) or len(depths)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return name, module
    raise ValueError(f"{type(model).__name__} has no list of layers. Choose a different encoder")
