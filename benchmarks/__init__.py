"""Time of a step beside torch.optim's and optax's, in one process, as a ratio."""
