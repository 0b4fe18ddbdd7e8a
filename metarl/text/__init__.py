"""Few-shot text classification: tasks, sentence encoders and LEOPARD's generated head."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
