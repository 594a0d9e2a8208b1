"""What formulas compute on: arrays of any library, leaves, exact sums, matrices, geometry."""
