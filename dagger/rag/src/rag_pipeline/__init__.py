"""The composite of `retrieve`, `augment` and `generate`: one question in, one answer out."""

from .errors import StepError
from .step import __version__, answer, search

__all__ = ["StepError", "__version__", "answer", "search"]
