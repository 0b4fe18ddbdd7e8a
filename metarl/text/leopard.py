"""LEOPARD: a text classifier with a head that is generated from the support set.

Bansal, Jha & McCallum 2020, "Learning to few-shot learn across diverse
natural language classification tasks", sections 3.1 to 3.3.
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
        """Combine an encoder and a feature network.

        Args:
            encoder: The sentence encoder.
            features: Network that maps the output of the encoder to the inputs of the head.
        """
        super().__init__()
        self.encoder, self.features = encoder, features

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the features of all sentences, shape (sentence, feature)."""
        return cast(Tensor, self.features(self.encoder(inputs)))


class TextClassifier(Classifier):
    """A text classifier with a linear head, and optionally a network that generates the head.

    Use :func:`text_classifier` to create text classifiers.

    Attributes:
        meta_only: Names of the parameters that are meta-learned but never
            adapt: all parameters in the embeddings, the lower layers of the
            encoder and the head generator.
    """

    def __init__(self, body: TextBody, head: nn.Linear, generator: nn.Module | None) -> None:
        """Combine a body, a head and an optional head generator.

        Args:
            body: The encoder and the feature network.
            head: The linear head.
            generator: Network that generates the head from encoded sentences.
                If ``None``, the head is not generated.
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
        size: Length of the encoder's feature vectors.
        ways: Number of classes in the initial head, which the `start` of an inner loop can replace.
        generated: Add the feature network and the head generator of LEOPARD.
            Both networks have two layers with a tanh activation in between.
            Otherwise, the head is a linear layer on the encoder's feature vectors.
        generator: Random generator for the initial weights of all layers above the encoder.

    Returns:
        The text classifier.

    Example::

        >>> from metarl.text import Encoder, generated_start, load_pretrained, text_classifier
        >>> model, _ = load_pretrained("sentence-transformers/all-MiniLM-L6-v2")
        >>> encoder = Encoder(model, top_layers=2, pooling="mean")
        >>> random = torch.Generator().manual_seed(0)
        >>> module = text_classifier(encoder, 384, ways=2, generated=True, generator=random)
        >>> start = generated_start(module)
        >>> module.head.weight.shape
        torch.Size([2, 256])
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
    """Return an inner-loop start that generates the head from the first support batch.

    The weights and the bias for a class are the mean of the generator's
    outputs over all sentences in this class (Bansal et al. 2020, eq. 2). If
    there are several support batches, the first batch is not used for inner
    steps. Gradients flow through the head into the generator and the encoder,
    even if the inner loop is first-order.

    Args:
        module: A classifier with a head generator, from
            :func:`text_classifier` with `generated=True`.

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
    """Return the lower layers of the encoder as a function.

    Args:
        module: A :class:`TextClassifier`.

    Returns:
        A function ``(params, inputs) -> hidden states`` that takes the
        parameters of the whole classifier.
    """
    return part(module, "body.encoder.lower")


def with_lower_layers(start: StartFn, module: TextClassifier, *, detach: bool) -> StartFn:
    """Extend an inner-loop start to compute the output of the lower layers once per task.

    Args:
        start: Start that is called first, with the original support batches.
        module: The classifier.
        detach: Detach the output from the computation graph to save memory.
            This does not change the meta-gradient if the inner loop is
            first-order.

    Returns:
        A `start` for :class:`~metarl.core.InnerLoop`, which replaces the
        inputs of the support batches by hidden states.
    """
    lower = lower_layers(module)

    def encoded(params: Params, batches: tuple[Batch, ...]) -> tuple[Params, tuple[Batch, ...]]:
        params, left = start(params, batches)
        known = tuple((lower(params, inputs), *rest) for inputs, *rest in left)
        return params, tree.detach(known) if detach else known

    return encoded


def layer_of(name: str) -> str:
    """Return the name of the layer that contains a parameter.

    In LEOPARD, all parameters of a layer share the learned inner step sizes
    (Bansal et al. 2020, section 3.3). Pass this function as `group` to
    :func:`metarl.core.lslr`.

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
