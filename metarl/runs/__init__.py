"""The files of a run: folder, configuration, checkpoints, journal, trackers, sharing."""

from metarl.util.lazy import attach


__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "checkpoint": ("Checkpoint",),
        "config": ("RunConfig",),
        "folder": ("Run",),
        "hub": ("Repository",),
        "journal": ("Journal",),
        "stopping": ("StopSignal", "Stopped"),
        "trackers": ("CarefulTracker", "Tracker"),
    },
)
