"""Layers and networks whose derivatives of every order are exact under ``torch.func.vmap``."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
