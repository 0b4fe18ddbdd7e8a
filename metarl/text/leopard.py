"""LEOPARD: a classifier of sentences whose head is generated from the support set.

Bansal, Jha & McCallum 2020, "Learning to few-shot learn across diverse natural language
classification tasks", sections 3.1 to 3.3.
"""

import re
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from metarl.core import Batch, Params, part, tree
from metarl.nn import Classifier, linear, mlp
from metarl.supervised import StartFn, is_head, prototypes
from metarl.supervised.heads import HEAD
from metarl.text.encoders import Encoder, Inputs


FEATURES = 256  # of a sentence, in the paper
GAIN = 0.1  # of what is generated at first: a large random head is in the way of the inner steps


class TextBody(nn.Module):
    """Features of sentences: an encoder, and what LEOPARD puts on top of it."""

    def __init__(self, encoder: Encoder, features: nn.Module) -> None:
        """Join an encoder and a network from its features to those of the head."""
        super().__init__()
        self.encoder, self.features = encoder, features

    def forward(self, inputs: Inputs) -> Tensor:
        """Return (sentence, feature)."""
        return cast(Tensor, self.features(self.encoder(inputs)))


class TextClassifier(Classifier):
    """A classifier of sentences; with a generator its head is made from the support set.

    Attributes:
        meta_only: Parameters that are meta-learned and never adapt: the encoder's lower layers,
            its embeddings among them, and the generator.
    """

    def __init__(self, body: TextBody, head: nn.Linear, generator: nn.Module | None) -> None:
        """Join a body and a head, and what generates the head where there is such a thing."""
        super().__init__(body, head)
        if generator is not None:
            self.generator = generator
        top = tuple(f"body.encoder.{prefix}" for prefix in body.encoder.top)
        adapting = (HEAD, "body.features.", *top)
        self.meta_only = frozenset(
            name for name, _ in self.named_parameters() if not name.startswith(adapting)
        )


def text_classifier(
    encoder: Encoder, size: int, *, ways: int, generated: bool, generator: torch.Generator
) -> TextClassifier:
    """Put a head on an encoder; with `generated`, also LEOPARD's two networks.

    Args:
        encoder: The encoder.
        size: Width of its features.
        ways: Classes of the head's initial values, which a start may replace.
        generated: Add the network of the features, and the one that generates the head: two layers
            each, with tanh between them.
        generator: Source of the new weights.
    """
    if not generated:
        body = TextBody(encoder, nn.Identity())
        return TextClassifier(body, linear(size, ways, generator=generator), None)
    sizes = (size, size // 2)
    features = mlp((*sizes, FEATURES), activation="tanh", generator=generator)
    makes = mlp((*sizes, FEATURES + 1), activation="tanh", output_gain=GAIN, generator=generator)
    head = linear(FEATURES, ways, generator=generator)
    return TextClassifier(TextBody(encoder, features), head, makes)


def generated_start(module: TextClassifier) -> StartFn:
    """Generate a head from the first support batch, which is then used up (eq. 2).

    Weights and bias of a class are the mean of what the generator makes of its sentences.
    Gradients flow through the head into generator and encoder, also in first order.
    """
    encode, generate = part(module, "body.encoder"), part(module, "generator")

    def start(params: Params, batches: tuple[Batch, ...]) -> tuple[Params, tuple[Batch, ...]]:
        inputs, targets = batches[0][:2]
        head = prototypes(generate(params, encode(params, inputs)), targets)
        own = {"head.weight": head[:, :-1], "head.bias": head[:, -1]}
        return {**params, **own}, batches[1:] or batches

    return start


def lower_layers(module: nn.Module) -> Callable[[Params, Inputs], Inputs]:
    """Return what computes the layers that never adapt, once for all inner steps."""
    return part(module, "body.encoder.lower")


def with_lower_layers(start: StartFn, module: TextClassifier, *, detach: bool) -> StartFn:
    """Let the inner steps find what the lower layers make of their batches, as they never adapt.

    Args:
        start: The start of the head, which sees the batches as they are.
        module: The classifier.
        detach: Keep no graph: in first order inner gradients are constants, and nothing else
            depends on what the lower layers make of these batches.
    """
    lower = lower_layers(module)

    def encoded(params: Params, batches: tuple[Batch, ...]) -> tuple[Params, tuple[Batch, ...]]:
        params, left = start(params, batches)
        known = tuple((lower(params, inputs), *rest) for inputs, *rest in left)
        return params, tree.detach(known) if detach else known

    return encoded


def layer_of(name: str) -> str:
    """Return the layer that a parameter belongs to: layers share their learned rates (§3.3)."""
    if is_head(name):
        return HEAD.removesuffix(".")
    numbered = re.match(r".*\.\d+(?=\.)", name)
    return numbered[0] if numbered else name.rpartition(".")[0]
