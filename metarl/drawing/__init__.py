"""Plots, pictures and videos.

Public names are imported when they are first used, and torch and matplotlib with them.
"""

from metarl.util.lazy import attach


__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "curves": ("Fit", "figure", "furthest_evaluations", "group_by_setting"),
        "montage": ("Shot", "draw_films", "headline", "label", "panel_frames", "strip_figure"),
        "opengl": ("contexts", "explained"),
        "paths": ("Panel", "panels", "paths_figure", "paths_video"),
        "recording": ("Film", "Pace", "adapted_path", "choose_pace", "film", "make_recorder"),
        "scene": ("Scene",),
        "video": ("SUFFIXES", "require_video", "write_video"),
    },
)
