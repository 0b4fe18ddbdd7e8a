"""The functional core that every method shares: torch only, pure, and without devices."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
