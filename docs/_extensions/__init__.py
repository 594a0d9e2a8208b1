"""The parts of `make docs` besides Sphinx."""
