"""``python -m benchmarks.gpu``: the contract and its cost on a GPU, and the page that says so."""
