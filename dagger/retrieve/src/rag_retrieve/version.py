"""The version of this step, in one place."""

__version__ = "0.1.0"
