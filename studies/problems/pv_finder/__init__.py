"""PV-finder's problem: find the proton collisions (primary vertices) of an event of LHCb.

Along the beam, z runs from −100 to 300 mm in 4000 bins. Tracks of charged particles are condensed
to a density over z (the kernel, :mod:`.kernel`); a network makes of it, or of the tracks
themselves, a histogram with a peak at each vertex (:mod:`.targets`); the peaks are counted as
physicists count them (:mod:`.efficiency`). Events come from files (:mod:`.files`) or from a toy
generator (:mod:`.toy`).

Source: Fang et al. 2019, *A hybrid deep learning approach to vertexing* (arXiv:1906.08306).
"""
