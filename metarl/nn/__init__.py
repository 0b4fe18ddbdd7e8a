"""Layers and networks with exact derivatives of every order under ``torch.func.vmap``."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
