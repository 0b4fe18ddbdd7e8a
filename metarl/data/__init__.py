"""Image data sets for few-shot learning by name, your own image folders, and random transforms."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
