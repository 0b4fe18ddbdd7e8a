"""The files of a run: folder, configuration, checkpoints, journal, trackers, sharing."""
