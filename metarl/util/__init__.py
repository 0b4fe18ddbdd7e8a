"""Helpers without a word of meta-learning: parsing, console, device, statistics, measuring."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
