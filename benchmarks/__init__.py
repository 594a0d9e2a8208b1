"""Benchmarks: the time of a step relative to torch.optim and optax, in one process."""
