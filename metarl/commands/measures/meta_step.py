"""How long a supervised meta-step takes, beside a plain loop over its tasks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from metarl.core import tree
from metarl.core.seeding import torch_generator
from metarl.core.speed.compiling import Mode
from metarl.core.types import MetaState, Params, Task
from metarl.experiments.supervised_settings import SupervisedConfig
from metarl.experiments.supervised_setup import Parts, make_learner
from metarl.supervised.model import Model
from metarl.util.measuring import Figures, median


PLAIN = "plain autograd, task by task (ms)"
MODES: dict[str, Mode] = {
    "meta-step, eager (ms)": "eager",
    "meta-step, traced (ms)": "traced",
    "meta-step, compiled (ms)": "compiled",
}
COMPILING = "compiling, once per run (s)"


def meta_step(
    config: SupervisedConfig,
    parts: Parts,
    repeats: int,
    *,
    compiled: bool = True,
    chunk_size: int | None = None,
    calls: int = 1,
) -> Figures:
    """Measure one MAML meta-step, second order, in every mode.

    Args:
        config: Resolved settings, with plain gradient descent as the inner optimizer.
        parts: What they mean.
        repeats: Measurements of each.
        compiled: Measure the compiled step too.
        chunk_size: Tasks worked on at a time.
        calls: Steps of one measurement.
    """
    tasks = parts.draw(config.num_tasks or 1, torch_generator(0, 0, "benchmark"))
    assert isinstance(tasks, Task)
    steps: dict[str, Callable[[], Any]] = {PLAIN: plain_step(parts, tasks)}
    for name, mode in MODES.items():
        learner = make_learner(replace(config, mode=mode), parts.model, chunk_size=chunk_size)
        steps[name] = _step(learner(1), parts.init(), tasks)
    last = list(steps)[-1]
    if not compiled:
        del steps[last]
    figures = {COMPILING: median(steps[last], 1, warm_up=False)} if compiled else {}

    def several(step: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(calls):
                step()

        return run

    taken = {name: 1000 / calls * median(several(step), repeats) for name, step in steps.items()}
    return taken | figures


def plain_step(parts: Parts, tasks: Task) -> Callable[[], None]:
    """Return the same step as people write it: autograd through a loop over tasks, then Adam."""
    model: Model = parts.model
    params = {name: p.clone().requires_grad_() for name, p in model.params.items()}
    optimizer = torch.optim.Adam(list(params.values()), lr=1e-3)
    count = len(tree.leaves(tasks)[0])
    each = [tree.map_leaves(lambda x, i=i: x[i], tasks) for i in range(count)]
    start: Params = params

    def step() -> None:
        optimizer.zero_grad()
        for task in each:
            adapted = start
            for _ in range(model.loop.num_steps or 0):
                loss = model.loop.loss(adapted, task.support[0])
                grads = torch.autograd.grad(loss, list(adapted.values()), create_graph=True)
                updates, _ = model.loop.optimizer.update(
                    {}, dict(zip(adapted, grads, strict=True)), (), 0
                )
                adapted = {name: p + updates[name] for name, p in adapted.items()}
            (model.loop.loss(adapted, task.query) / count).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _step(learner: Any, state: MetaState, tasks: Task) -> Callable[[], Any]:
    return lambda: learner.step(state, tasks)
