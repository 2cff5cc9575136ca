"""Answer a prompt over numbered passages, with citations that are checked."""

from .errors import StepError
from .step import __version__, generate, stream

__all__ = ["StepError", "__version__", "generate", "stream"]
