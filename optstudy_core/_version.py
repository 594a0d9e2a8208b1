"""The version of this project, the date of its release and the address of its repository."""

__version__ = "0.1.0"
__date__ = ""  # 2030-12-31 for example; CITATION.cff has both
REPOSITORY = ""  # the address; a test says where else to write it
