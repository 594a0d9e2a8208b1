"""What formulas share: bias correction, decay, roots, powers, schedules, the trust ratio."""
