"""What is known of the algorithms: the tables, hyperparameters and their ranges, citations."""
