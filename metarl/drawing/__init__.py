"""Figures of learning curves and adaptation, and videos of episodes.

- :func:`figure` draws learning curves and adaptation curves of runs.
- :func:`performance_profiles` draws the fraction of results above each threshold.
- :func:`panels`, :func:`paths_figure` and :func:`paths_video` draw paths in a plane before and
  after adaptation.
- :func:`make_recorder`, :func:`record_episodes` and :func:`draw_recordings` record episodes and
  write a video or an image strip.
- :func:`write_video` writes frames to an .mp4 or .gif file.

Example::

    from pathlib import Path

    import torch

    import metarl
    from metarl.drawing import figure, panels, paths_figure
    from metarl.runs import Run

    metarl.train("maml-trpo", "runs/quick", preset="navigation-quick", iterations=2)
    figure([Run.open(Path("runs/quick"))], Path("curves.png"))

    policy = metarl.load("runs/quick")
    tasks, generator = [policy.sample_task(seed=0)], torch.Generator().manual_seed(0)
    batches = policy.play(policy.loop(1), tasks, generator)  # before and after one inner step
    paths_figure([panels("quick", tasks, batches)], Path("paths.png"))
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
