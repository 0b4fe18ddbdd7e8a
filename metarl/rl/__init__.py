"""Meta-reinforcement learning on the functional core."""
