"""The version of this project and the date of its release."""

__version__ = "0.1.0"
__date__ = ""  # 2030-12-31 for example; CITATION.cff has both
