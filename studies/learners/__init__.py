"""The training loop, a learner for each framework, epoch methods, and measurements of epochs."""
