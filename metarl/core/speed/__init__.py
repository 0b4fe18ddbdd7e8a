"""Fast execution of meta-updates: chunks of tasks, compiled programs and distributed training."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
