"""Arrays for formulas: arrays of any library, leaves, exact sums, matrices, geometry."""
