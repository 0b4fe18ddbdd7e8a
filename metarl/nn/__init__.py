"""Layers and networks whose derivatives of every order are exact under ``torch.func.vmap``.

Networks:

- :func:`mlp` builds a multilayer perceptron.
- :class:`ConvBody` is a convolutional network that computes image features; a
  :class:`ConvNet` contains the settings of its architecture.
- :class:`ResNetBody` is ResNet-12, with the settings in a :class:`ResNet`.
- :class:`Classifier` combines a body, such as a :class:`ConvBody`, with a
  linear head.

Layers:

- :func:`linear` builds a linear layer with Xavier-uniform weights.
- :class:`LayerNorm` and :class:`BatchNorm` are exact replacements for the
  normalization layers in ``torch.nn``, which silently give wrong second
  derivatives in ``grad(vmap(...))``. :class:`BatchNorm` keeps no running
  statistics.
- :func:`normalize_inputs` adds the normalization of image channels to a module.
- :class:`GRU`, :class:`LSTM` and :class:`LinearAttention` are the memories of
  recurrent policies; :data:`CELLS` contains them by name.
- :data:`ACTIVATIONS` contains the supported activation modules by name.
- :func:`shifted_copies` extracts the 3×3 patches from images.

Example::

    import torch
    from torch.func import grad, vmap
    from torch.nn.functional import cross_entropy

    from metarl.core import functional
    from metarl.nn import Classifier, ConvBody, ConvNet, linear

    apply, params = functional(Classifier(ConvBody(ConvNet(), channels=1), linear(64, 5)))

    def loss(params, images, labels):
        return cross_entropy(apply(params, images), labels)

    images, labels = torch.rand(4, 10, 1, 28, 28), torch.randint(5, (4, 10))  # 4 tasks
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(params, images, labels)
    gradients["head.weight"].shape  # torch.Size([4, 5, 64])
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
