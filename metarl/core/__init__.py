"""The functional core shared by all methods: inner loops, meta-gradients and outer updates.

Inner loops and meta-gradients are pure functions of their arguments. All
computations use torch and run on the device of the arguments.

Types used in the signatures:

- ``Params`` is a dictionary of parameter tensors by dotted name, as in
  ``nn.Module.named_parameters()``.
- ``Batch`` is any pytree of tensors, such as ``(inputs, targets)`` of one task.
- ``LossFn`` is a function ``(params, batch) -> scalar`` for one task.
- ``Metrics`` is a dictionary of scalar tensors by name, such as ``query/loss``.
- :class:`Task` has a tuple of support batches and one query batch. In a meta-batch,
  all tensors have a leading task axis.
- :class:`MetaParams` has the initialization and the inner optimizer's learned
  hyperparameters, such as step sizes.
- ``Outer`` is an outer loss ``(path, task, *settings) -> (loss, metrics)`` for one task,
  where `path` lists the parameters before adaptation and after each inner step.
- ``TaskGradient`` is a meta-gradient ``(meta, task, *settings) -> (gradient, metrics)``
  for one task.

Example::

    import torch
    from torch import nn

    from metarl.core import InnerLoop, Task, backprop, functional, gradient_learner, query_loss, sgd

    slopes, inputs = torch.randn(8, 1, 1), torch.rand(8, 10, 1)  # 8 tasks: lines through the origin
    tasks = Task(((inputs, slopes * inputs),), (inputs, slopes * inputs))

    apply, params = functional(nn.Linear(1, 1))

    def loss(params, batch):
        inputs, targets = batch
        return ((apply(params, inputs) - targets) ** 2).mean()

    loop = InnerLoop(loss, sgd(0.1), num_steps=5)
    learner = gradient_learner(loop, backprop(loop, query_loss(loss)), torch.optim.Adam, lr=1e-3)
    state = learner.init(params)
    state, metrics = learner.step(state, tasks)
    metrics["query/loss"]  # mean loss of the adapted parameters over the 8 tasks
    adapted = loop.adapt(state.params, ((inputs[0], slopes[0] * inputs[0]),))
    adapted["weight"].shape  # torch.Size([1, 1])
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
