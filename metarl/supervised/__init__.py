"""Few-shot classification and regression: tasks, losses, heads, schedules and evaluation.

Example::

    import torch

    from metarl.core import InnerLoop, backprop, functional, gradient_learner, query_loss, sgd
    from metarl.data import load_images
    from metarl.nn import Classifier, ConvBody, ConvNet, linear
    from metarl.supervised import FewShot, Model, adaptation_curves
    from metarl.supervised import cross_entropy, evaluate_batch, loss_of

    splits = load_images("glyphs")
    train, test = (
        FewShot(part.images, part.counts, num_ways=5, num_shots=1, num_queries=5)
        for part in (splits.train, splits.test)
    )
    apply, params = functional(Classifier(ConvBody(ConvNet(), channels=1), linear(64, 5)))
    batch_loss = evaluate_batch(apply, cross_entropy)
    loop = InnerLoop(loss_of(batch_loss), sgd(0.4), num_steps=1)
    outer = query_loss(batch_loss, has_aux=True)
    learner = gradient_learner(loop, backprop(loop, outer), torch.optim.Adam, lr=1e-3)
    state, generator = learner.init(params), torch.Generator().manual_seed(0)
    for _ in range(3):
        state, metrics = learner.step(state, train.sample(4, generator))

    model = Model(apply, params, loop, cross_entropy)
    curves = adaptation_curves(
        model, loop, [state.params], test.sample, num_tasks=20, generator=generator
    )
    curves.mean("accuracy")  # before and after the inner step
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
