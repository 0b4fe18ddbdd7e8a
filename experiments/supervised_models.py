"""Meta-models of the supervised experiments, built from settings and checkpoints without data."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from metarl.core import Batch, InnerLoop, MetaParams, torch_generator
from metarl.data import FAMILIES, ImageFormat
from metarl.experiments.supervised_setup import make_model, make_test_loop, started
from metarl.models import AdaptedClassifier, Learner, MetaClassifier, Origin, Saved, restored
from metarl.nn import (
    Classifier,
    ImageEncoder,
    linear,
    load_image_encoder,
    lower_parameters,
    normalize_inputs,
)
from metarl.nn.image_encoders import CHANNELS
from metarl.runs.checkpoint import require_same_tensors
from metarl.supervised import Model, cross_entropy, image_body, minibatches


def image_network(config: Any, images: ImageFormat, ways: int, device: torch.device) -> Classifier:
    """Return the untrained network of an image classifier, or a pretrained encoder with a new head.

    Args:
        config: A :class:`~metarl.experiments.fewshot.FewShotConfig`.
        images: Number of channels and size of the images.
        ways: Number of classes in the head.
        device: Device of the encoder.

    Raises:
        ImportError: If the encoder requires a package that is not installed.
        OSError: If the encoder cannot be loaded.
        ValueError: If the network is too deep for the images, or the encoder is invalid.
    """
    generator = torch_generator(config.seed, 0, "parameters")
    if config.encoder:
        return _encoder_network(config, images, ways, device, generator)
    body = image_body(config.network, images.channels, filters=config.filters, generator=generator)
    features = body(torch.zeros(1, images.channels, images.size, images.size))
    if not features.numel() or features.isnan().any():
        raise ValueError(
            f"network={config.network} is too deep for images of {images.size}x{images.size} "
            "pixels; use a different network or a larger image_size"
        )
    body = normalize_inputs(body, *config.pixels) if config.pixels else body
    return Classifier(body, linear(features.shape[-1], ways, generator=generator))


def _encoder_network(
    config: Any, images: ImageFormat, ways: int, device: torch.device, generator: torch.Generator
) -> Classifier:
    """Return a pretrained encoder with a new head. Parameters of lower layers never adapt."""
    module, layers = load_image_encoder(config.encoder, pooling=config.pooling)
    lower = frozenset[str]()
    if config.top_layers is not None:
        lower = lower_parameters(module, layers, config.top_layers)
    body = ImageEncoder(module, frozen=config.frozen).to(device)
    with torch.no_grad():
        features = body(torch.zeros(1, CHANNELS, images.size, images.size, device=device))
    network = Classifier(body, linear(features.shape[-1], ways, generator=generator))
    network.meta_only = frozenset(f"body.module.{name}" for name in lower)
    return network


def num_channels(config: Any, params: Mapping[str, Tensor]) -> int:
    """Return the number of image channels that a trained network expects.

    Args:
        config: The complete configuration of the run.
        params: Parameters of the network. Without an encoder, the first kernel determines the
            number.

    Raises:
        ValueError: If the parameters contain no kernel.
    """
    if config.encoder:
        return CHANNELS
    first = sorted(n for n, x in params.items() if n.startswith("body.blocks.0.") and x.ndim == 4)
    if not first:
        raise ValueError("the checkpoint contains no image network. Choose a different checkpoint")
    return params[first[0]].shape[1]


def image_classifier(
    name: str, config: Any, params: MetaParams, device: torch.device
) -> MetaClassifier:
    """Return the meta-model of an image run, without its data.

    Args:
        name: Name of the experiment.
        config: The complete configuration of the run.
        params: The meta-parameters.
        device: Device of the parameters.

    Raises:
        ValueError: If the parameters do not match the configuration.
    """
    images, model = _image_model(config, params.model, device)
    batches = partial(_feature_batches, config, model.apply.module) if config.frozen else None
    return MetaClassifier(learner(name, config, model, params, device, batches=batches), images)


def adapted_images(name: str, config: Any, saved: Saved, device: torch.device) -> AdaptedClassifier:
    """Return the adapted image classifier in a file.

    Args:
        name: Name of the experiment.
        config: The complete configuration of the run.
        saved: Contents of the file.
        device: Device of the parameters.

    Raises:
        ValueError: If the tensors do not match the configuration.
    """
    images, model = _image_model(config, saved.params, device)
    network, classes = restored(model.apply.module, saved), tuple(saved.about["classes"])
    return AdaptedClassifier(network, classes, images, Origin(name, config))


def _image_model(
    config: Any, params: Mapping[str, Tensor], device: torch.device
) -> tuple[ImageFormat, Model]:
    """Return the image format and the model for trained parameters of a network."""
    size = config.image_size or FAMILIES[config.data].image_size
    images = ImageFormat(config.data, num_channels(config, params), size)
    ways = len(params.get("head.bias", ())) or config.num_ways
    network = image_network(config, images, ways, device).to(device)
    return images, make_model(config, network, cross_entropy)


def learner(
    name: str,
    config: Any,
    model: Model,
    params: MetaParams,
    device: torch.device,
    *,
    joint_start: str | None = "zero",
    batches: Callable[[Batch, int, int], tuple[Batch, ...]] | None = None,
) -> Learner:
    """Return the learner of a run, which adapts the trained network to support sets.

    Args:
        name: Name of the experiment.
        config: The complete configuration of the run.
        model: The model, with the number of classes in the checkpoint.
        params: The meta-parameters.
        device: Device of the parameters.
        joint_start: Initial head with ``method="pretrained"``; None keeps the trained head.
        batches: Function ``(support, steps, seed) -> batches`` for the inner
            steps. Default: minibatches with `inner_batch`, otherwise the whole
            support set.

    Raises:
        ValueError: If the parameters do not match the model.
    """
    for mine, theirs in zip(model.loop.init(model.params), params, strict=True):
        require_same_tensors(mine, theirs)
    usual = joint_start if config.method == "pretrained" else None
    learned = config.start == "learned" and not usual
    return Learner(
        Origin(name, config),
        model.apply.module,
        lambda steps, start: _loop(config, model, steps, start or usual),
        params,
        batches or partial(_batches, config),
        len(params.model["head.bias"]) if learned else None,
        device,
    )


def _loop(config: Any, model: Model, steps: int | None, start: str | None) -> InnerLoop:
    """Return the inner loop with `steps` steps and the head `start`; None uses the run's value."""
    config = config if steps is None else replace(config, test_steps=steps)
    loop = make_test_loop(config, model)
    if not loop.num_steps and (start or config.start) in ("learned", "zero"):
        raise ValueError(
            "without inner steps, this run ignores the support set: `steps` must be at least 1, "
            "got 0"
        )
    return started(loop, start, model) if start else loop


def _batches(config: Any, support: Batch, steps: int, seed: int) -> tuple[Batch, ...]:
    """Return one minibatch per inner step with `inner_batch`, otherwise the whole support set."""
    if not (config.inner_batch and steps):
        return (support,)
    generator = torch_generator(seed, 0, "minibatches", device=support[1].device)
    return minibatches(support, config.inner_batch, steps=steps, generator=generator)


def _feature_batches(
    config: Any, network: nn.Module, support: Batch, steps: int, seed: int
) -> tuple[Batch, ...]:
    """Return the batches for the inner steps, with the features of a frozen encoder as inputs."""
    images, targets = support  # with a task axis of size 1
    features = cast(ImageEncoder, network.body).features(images[0])
    return _batches(config, (features[None], targets), steps, seed)
