"""The problem of PV-finder: find the proton collisions (primary vertices) of an event of LHCb.

Along the beam, z goes from −100 to 300 mm in 4000 bins. The tracks of charged particles give a
density over z (the kernel, :mod:`.kernel`). From the kernel or from the tracks, a network predicts
a histogram with a peak at each vertex (:mod:`.targets`). The peaks are counted with the definition
of PV-finder (:mod:`.efficiency`). Events come from files (:mod:`.files`) or from a toy generator
(:mod:`.toy`).

Source: Fang et al. 2019, *A hybrid deep learning approach to vertexing* (arXiv:1906.08306).
"""
