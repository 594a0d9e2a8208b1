"""What `make docs` does beside Sphinx."""
