"""Parts shared by formulas: bias correction, decay, roots, powers, schedules, the trust ratio."""
