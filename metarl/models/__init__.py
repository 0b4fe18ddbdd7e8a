"""Trained models, which can be loaded, adapted, used, saved and exported.

``metarl.load(RUN)`` returns a meta-model. ``meta_model.adapt(support)`` returns
an adapted model, which acts or predicts without the training code and can be
saved or exported.
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
