"""Build a prompt over numbered passages: no duplicates, a token budget, untrusted text marked."""

from .errors import StepError
from .step import __version__, augment

__all__ = ["StepError", "__version__", "augment"]
