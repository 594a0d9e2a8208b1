"""What trains: one loop, a learner for each framework, epoch methods, and an epoch's measures."""
