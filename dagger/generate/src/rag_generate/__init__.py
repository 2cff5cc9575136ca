"""Answer a prompt over numbered passages, with citations that are checked."""

from typing import TYPE_CHECKING

from rag_kit.lazy import lazy

if TYPE_CHECKING:
    from rag_kit.errors import StepError

    from .step import __version__, generate, stream

_HOME = {
    "StepError": "rag_kit.errors",
    "__version__": ".step",
    "generate": ".step",
    "stream": ".step",
}

__all__ = ["StepError", "__version__", "generate", "stream"]

if not TYPE_CHECKING:
    __getattr__ = lazy(__name__, _HOME)
