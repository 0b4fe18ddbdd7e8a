"""LEOPARD: a text classifier whose head is generated from the support set.

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


FEATURES = 256  # number of features per sentence, as in the paper
GAIN = 0.1  # initial scale of the generated head; a large random head slows down the inner steps


class TextBody(nn.Module):
    """The body of a text classifier: an encoder followed by a feature network."""

    def __init__(self, encoder: Encoder, features: nn.Module) -> None:
        """Combine an encoder with a network that maps its output to the features of the head."""
        super().__init__()
        self.encoder, self.features = encoder, features

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the features of shape (sentence, feature)."""
        return cast(Tensor, self.features(self.encoder(inputs)))


class TextClassifier(Classifier):
    """A text classifier with a linear head, and optionally a generator of this head.

    Use :func:`text_classifier` to build one.

    Attributes:
        meta_only: Names of the parameters that are meta-learned but never adapt: the embeddings,
            the lower layers of the encoder and the generator.
    """

    def __init__(self, body: TextBody, head: nn.Linear, generator: nn.Module | None) -> None:
        """Combine a body, a head and an optional head generator.

        Args:
            body: The encoder and the feature network.
            head: The linear head.
            generator: Network that generates the head from sentence encodings, or ``None``.
        """
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
    """Build a text classifier on top of an encoder.

    Args:
        encoder: The encoder.
        size: Number of features of the encoder.
        ways: Number of classes of the initial head, which a start can replace.
        generated: Add LEOPARD's feature network and head generator, which have two layers with tanh
            in between.
        generator: Random generator for the new weights.

    Example::

        >>> from metarl.text import Encoder, generated_start, load_pretrained, text_classifier
        >>> model, _ = load_pretrained("sentence-transformers/all-MiniLM-L6-v2")
        >>> encoder = Encoder(model, top_layers=2, pooling="mean")
        >>> random = torch.Generator().manual_seed(0)
        >>> module = text_classifier(encoder, 384, ways=2, generated=True, generator=random)
        >>> start = generated_start(module)
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
    """Return an inner-loop start that generates the head from the first support batch (eq. 2).

    The weights and the bias of a class are the mean of the generator's outputs for its sentences.
    The first batch is not used for inner steps unless it is the only one. Gradients flow through
    the head into the generator and the encoder, also with first-order inner gradients.

    Args:
        module: A classifier with a head generator; see the example of :func:`text_classifier`.

    Returns:
        A `start` for :class:`~metarl.core.InnerLoop`.
    """
    encode, generate = part(module, "body.encoder"), part(module, "generator")

    def start(params: Params, batches: tuple[Batch, ...]) -> tuple[Params, tuple[Batch, ...]]:
        inputs, targets = batches[0][:2]
        head = prototypes(generate(params, encode(params, inputs)), targets)
        own = {"head.weight": head[:, :-1], "head.bias": head[:, -1]}
        return {**params, **own}, batches[1:] or batches

    return start


def lower_layers(module: nn.Module) -> Callable[[Params, Inputs], Inputs]:
    """Return the lower layers of the encoder as a function ``(params, inputs) -> inputs``."""
    return part(module, "body.encoder.lower")


def with_lower_layers(start: StartFn, module: TextClassifier, *, detach: bool) -> StartFn:
    """Extend an inner-loop start to compute the output of the lower layers once per task.

    Args:
        start: Start that prepares the head from the original support batches.
        module: The classifier.
        detach: Detach the output. With first-order inner gradients, which are constants, the
            meta-gradient does not depend on it.

    Returns:
        A `start` for :class:`~metarl.core.InnerLoop`, after which the batches contain hidden
        states.
    """
    lower = lower_layers(module)

    def encoded(params: Params, batches: tuple[Batch, ...]) -> tuple[Params, tuple[Batch, ...]]:
        params, left = start(params, batches)
        known = tuple((lower(params, inputs), *rest) for inputs, *rest in left)
        return params, tree.detach(known) if detach else known

    return encoded


def layer_of(name: str) -> str:
    """Return the name of a parameter's layer, whose parameters share their learned rates (§3.3).

    Args:
        name: Dotted name of the parameter.

    Example::

        >>> from metarl.text import layer_of
        >>> layer_of("head.weight"), layer_of("body.encoder.upper.model.layer.5.output.bias")
        ('head', 'body.encoder.upper.model.layer.5')
    """
    if is_head(name):
        return HEAD.removesuffix(".")
    numbered = re.match(r".*\.\d+(?=\.)", name)
    return numbered[0] if numbered else name.rpartition(".")[0]
