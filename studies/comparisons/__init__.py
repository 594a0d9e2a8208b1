"""The runs of a plan, and comparisons of runs.

``runner`` makes the runs of a plan. ``twins`` finds where the two frameworks diverge. ``journey``
moves a training between libraries. ``compare`` varies settings. ``everything`` does several of
these side by side.
"""
