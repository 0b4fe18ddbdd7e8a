"""Meta-reinforcement learning: policies, sampler, losses and meta-updates.

Types used in the signatures:

- A task description is a dictionary of JSON values, such as ``{"goal": [0.3, -0.2]}``.
- :class:`Rollout` contains the transitions of one task, or of a meta-batch with a leading task
  axis.
- :class:`Episodes` is a rollout with advantages. Inner losses receive the episodes of one task.
- ``Process`` is a function ``rollout -> (episodes, metrics)`` that computes the advantages of one
  task, such as ``advantages()``.
- :class:`Policy` is a pure function of its parameters; :func:`make_policy` builds a policy from
  the name of a network in ``NETWORKS`` and samples its parameters.
- ``TaskSlice`` is the slice of the meta-batch assigned to one process in distributed training.

Example::

    import numpy as np
    import torch

    from metarl.core import InnerLoop, sgd
    from metarl.rl import advantages, make_sampler, maml_trpo, make_policy, reinforce

    sampler = make_sampler("metarl/Navigation2D-v0", num_tasks=4, episodes_per_task=5)
    spaces = sampler.env.single_observation_space, sampler.env.single_action_space
    policy, params = make_policy("mlp", *spaces, hidden=(64, 64))
    loop = InnerLoop(reinforce(policy), sgd(0.1), num_steps=1)
    learner = maml_trpo(policy, loop)
    state, process = learner.init(params), advantages()
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for _ in range(3):
        drawn = sampler.sample_tasks(rng)
        tasks, metrics = sampler.collect(policy, loop, state.params, drawn, generator, process)
        state, metrics = learner.step(state, tasks)
    metrics["trpo/kl"]  # mean KL divergence between the old and the new policies, in nats
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
