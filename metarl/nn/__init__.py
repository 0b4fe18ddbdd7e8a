"""Networks whose derivatives of every order are exact under ``vmap``."""

from metarl.util.lazy import attach


__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "convolution": ("Classifier", "ConvBody", "ConvNet"),
        "dense": ("ACTIVATIONS", "linear", "mlp"),
        "norms": ("BatchNorm", "LayerNorm"),
        "shifts": ("shifted_copies",),
    },
)
