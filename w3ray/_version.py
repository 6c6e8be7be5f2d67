"""The version of this package. Not in `__init__.py`, so that no module of the package imports the whole of it."""

__version__ = "0.1.0"
