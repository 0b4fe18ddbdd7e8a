"""Stable-Baselines3: policies, environments, models, checkpoints."""
