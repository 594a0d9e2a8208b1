"""The catalogue of algorithms: tables, hyperparameters with ranges, and citations."""
